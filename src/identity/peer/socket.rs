//! Who holds the other end of a loopback connection: from its addresses to a socket's inode, and to the processes.
//!
//! Addresses can change hands between two looks, so the socket is looked at before and after its holders, and must be
//! the same (CWE-367). Where several processes hold it, each of them can speak on it, and so each must pass.

use std::fmt::Write as _;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use rustix::fs::{Dir, Mode, OFlags};

/// The socket of the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    /// Whose process made it.
    pub(super) uid: u32,
    pub(super) inode: u64,
}

/// The peer's end of an established connection. `None` where it is not on this machine, or not there any more.
pub(super) fn row(ours: SocketAddr, theirs: SocketAddr) -> Option<Row> {
    let (local, remote) = (canonical(theirs), canonical(ours));
    if !local.ip().is_loopback() {
        return None;
    }
    // An IPv6 socket that talks IPv4 is found by its IPv4 addresses.
    #[cfg(target_os = "linux")]
    if local.is_ipv4() == remote.is_ipv4()
        && let Ok(found) = super::diag::row(local, remote)
    {
        return found;
    }
    listed(local, remote)
}

/// The same from the list of all, where the kernel may not be asked for one.
fn listed(local: SocketAddr, remote: SocketAddr) -> Option<Row> {
    let both = local.is_ipv4() && remote.is_ipv4();
    if both && let Some(found) = find("/proc/self/net/tcp", &shown(local), &shown(remote)) {
        return Some(found);
    }
    // A client's socket may be an IPv6 one that talks IPv4 (RFC 4291 §2.5.5.2).
    find(
        "/proc/self/net/tcp6",
        &shown(mapped(local)),
        &shown(mapped(remote)),
    )
}

/// The processes that hold a descriptor of this socket, in order, as far as we may look.
pub(super) fn holders(inode: u64) -> Vec<u32> {
    let wanted = format!("socket:[{inode}]");
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids: Vec<u32> = processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| holds(*pid, wanted.as_bytes()))
        .collect();
    pids.sort_unstable();
    pids
}

fn holds(pid: u32, wanted: &[u8]) -> bool {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(folder) = rustix::fs::open(format!("/proc/{pid}/fd"), flags, Mode::empty()) else {
        return false;
    };
    let Ok(descriptors) = Dir::read_from(&folder) else {
        return false;
    };
    // Relative to the folder, and into one buffer: there may be many. A link that does not fit is none of a socket.
    let mut buffer = [MaybeUninit::uninit(); 64];
    descriptors.flatten().any(|entry| {
        let link = rustix::fs::readlinkat_raw(&folder, entry.file_name(), &mut buffer[..]);
        link.is_ok_and(|(link, _)| *link == *wanted)
    })
}

/// A line of proc_pid_net(5): number, local, remote, state, queues, timer, retransmits, uid, timeout, inode.
fn find(file: &str, local: &str, remote: &str) -> Option<Row> {
    let table = std::fs::read_to_string(file).ok()?;
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let is_it = fields.next()? == local && fields.next()? == remote;
        let established = fields.next()? == "01";
        if !is_it || !established {
            return None;
        }
        let mut fields = fields.skip(3);
        let uid = fields.next()?.parse().ok()?;
        let inode: u64 = fields.nth(1)?.parse().ok()?;
        (inode != 0).then_some(Row { uid, inode })
    })
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn mapped(address: SocketAddr) -> SocketAddr {
    let ip: Ipv6Addr = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    SocketAddr::new(ip.into(), address.port())
}

/// As the kernel prints it: words of 32 bits in the machine's own order.
fn shown(address: SocketAddr) -> String {
    let words = |bytes: &[u8]| {
        let mut hex = String::with_capacity(2 * bytes.len());
        for word in bytes.as_chunks::<4>().0 {
            // Writing to a String cannot fail.
            write!(hex, "{:08X}", u32::from_ne_bytes(*word)).ok();
        }
        hex
    };
    let ip = match address.ip() {
        IpAddr::V4(ip) => words(&ip.octets()),
        IpAddr::V6(ip) => words(&ip.octets()),
    };
    format!("{ip}:{:04X}", address.port())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_leads_to_the_process_that_holds_its_other_end() {
        for place in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(place).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, theirs) = listener.accept().unwrap();
            let ours = server.local_addr().unwrap();
            let found = row(ours, theirs).unwrap();
            assert_eq!(listed(theirs, ours), Some(found));
            assert_eq!(found.uid, rustix::process::geteuid().as_raw());
            assert_eq!(holders(found.inode), [std::process::id()], "{place}");
            // Not the other way round, and not when it is gone.
            assert_ne!(row(theirs, ours).map(|row| row.inode), Some(found.inode));
            drop(client);
            assert_eq!(row(ours, theirs), None, "only the listener is left");
        }
    }

    #[test]
    fn an_ipv4_client_of_an_ipv6_socket_is_found() {
        let listener = TcpListener::bind("[::]:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let _client = TcpStream::connect(("::ffff:127.0.0.1", port)).unwrap();
        let (server, theirs) = listener.accept().unwrap();
        let found = row(server.local_addr().unwrap(), theirs).unwrap();
        assert_eq!(holders(found.inode), [std::process::id()]);
    }

    #[test]
    fn another_machine_is_no_process_of_ours() {
        let ours = "192.0.2.1:8180".parse().unwrap();
        assert_eq!(row(ours, "192.0.2.7:40000".parse().unwrap()), None);
    }
}
