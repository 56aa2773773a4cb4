//! A network with nothing in it but the way to keyward.
//!
//! A socket belongs to the namespace that it was made in, whoever holds it. So init makes a listener in the empty
//! network and hands it out to the host: the command connects to its own loopback, and keyward accepts. There is no
//! relay, no address and no route to anything else.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::FileTypeExt as _;
use std::path::PathBuf;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::super::Mask;

/// Brings loopback up and listens there.
pub(super) fn open(port: u16) -> io::Result<TcpListener> {
    loopback_up()?;
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
}

/// Asks by netlink (rtnetlink(7)), since the older ioctl has no safe wrapper. A new namespace's loopback has index 1.
fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None, // protocol 0 is NETLINK_ROUTE
    )?;
    rustix::net::send(&socket, &link_up(), SendFlags::empty())?;
    let mut answer = [0; 64];
    rustix::net::recv(&socket, &mut answer, RecvFlags::empty())?;
    // nlmsghdr is 16 bytes; in an acknowledgement an errno follows, negative, or 0.
    let errno = answer
        .get(16..20)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, i32::from_ne_bytes);
    match errno {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error.saturating_neg())),
    }
}

fn link_up() -> Vec<u8> {
    const RTM_NEWLINK: u16 = 16;
    const REQUEST_AND_ACK: u16 = 1 | 4;
    const UP: u32 = 1;
    let mut message = Vec::with_capacity(32);
    // nlmsghdr: length, type, flags, sequence, sender
    message.extend(32_u32.to_ne_bytes());
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend(REQUEST_AND_ACK.to_ne_bytes());
    message.extend(1_u32.to_ne_bytes());
    message.extend(0_u32.to_ne_bytes());
    // ifinfomsg: family and padding, type, index, flags, which flags change
    message.extend([0; 4]);
    message.extend(1_u32.to_ne_bytes());
    message.extend(UP.to_ne_bytes());
    message.extend(UP.to_ne_bytes());
    message
}

/// Every socket that stands in the file system now, to be covered: a path leads out of any network namespace (docker,
/// the session bus, a resolver's cache). Abstract names do not.
pub(super) fn sockets() -> Vec<Mask> {
    let table = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let is_socket =
        |path: &PathBuf| fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    let paths: BTreeSet<PathBuf> = paths(&table).map(PathBuf::from).filter(is_socket).collect();
    let cover = |path| Mask {
        path,
        replacement: None,
    };
    paths.into_iter().map(cover).collect()
}

/// The eighth column of `/proc/net/unix`, which may hold spaces.
fn paths(table: &str) -> impl Iterator<Item = &str> {
    table.lines().filter_map(|line| {
        let at = line.find(" /")?;
        line.get(at + 1..)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bound_paths_are_found_and_abstract_names_are_not() {
        let table = "Num       RefCount Protocol Flags    Type St Inode Path\n\
                     0000000000000000: 00000002 00000000 00010000 0001 01 21 /run/docker.sock\n\
                     0000000000000000: 00000003 00000000 00000000 0001 03 22\n\
                     0000000000000000: 00000002 00000000 00010000 0001 01 23 @/tmp/.X11-unix/X0\n\
                     0000000000000000: 00000002 00000000 00010000 0001 01 24 /tmp/a b\n";
        let found: Vec<&str> = paths(table).collect();
        assert_eq!(found, ["/run/docker.sock", "/tmp/a b"]);
    }
}
