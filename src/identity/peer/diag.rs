//! One socket asked of the kernel, by its addresses or its inode (sock_diag(7)): the answer costs the same however many
//! there are.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

use super::socket::Row;
use crate::identity::UnixPeer;

/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST`: one socket, and not a list.
const REQUEST: u16 = 1;
/// `TCP_ESTABLISHED`.
const ESTABLISHED: u8 = 1;
const TCP: u8 = 6;
/// `UDIAG_SHOW_PEER`, and the attribute that it brings, `UNIX_DIAG_PEER`.
const SHOW_PEER: u32 = 4;
const PEER: u16 = 2;
/// Header, request and the identity of a socket (linux/netlink.h, linux/inet_diag.h).
const ASKED: usize = 16 + 8 + 48;
/// Where things stand in an answer: state, ports, owner and inode.
const STATE: usize = 17;
const PORTS: usize = 20;
const UID: usize = 80;
const INODE: usize = 84;

/// The established socket with these ends. `Err`: the kernel cannot be asked so.
pub(super) fn row(local: SocketAddr, remote: SocketAddr) -> Result<Option<Row>, Errno> {
    let answer = ask(&question(local, remote))?;
    Ok(read(&answer, local.port(), remote.port()))
}

/// Whether the kernel says of unix sockets at all which are two ends of one connection: unix_diag is a module that it may not
/// have, and a sandbox around us may keep it away.
pub(super) fn answers() -> bool {
    static ANSWERS: OnceLock<bool> = OnceLock::new();
    if let Some(known) = ANSWERS.get() {
        return *known;
    }
    // Where there is nothing to try it with just now, nobody is let in for that.
    tried().is_none_or(|found| *ANSWERS.get_or_init(|| found))
}

/// `None`: there was no socket to be had.
fn tried() -> Option<bool> {
    let (ours, _theirs) = UnixStream::pair().ok()?;
    let inode = UnixPeer::inode_of(&ours)?;
    match ask_of_unix(inode) {
        Ok(found) => Some(found.is_some()),
        Err(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS) => None,
        Err(_) => Some(false),
    }
}

/// The inode of the other end of a connection of unix sockets, of which ours has this one. `None`: the kernel does not say.
/// It looks in the network namespace that we are in.
pub(super) fn other_end(inode: u64) -> Option<u64> {
    ask_of_unix(inode).ok()?
}

fn ask_of_unix(inode: u64) -> Result<Option<u64>, Errno> {
    const ASKED: u32 = 16 + 24;
    let inode = u32::try_from(inode).map_err(|_| Errno::INVAL)?;
    let mut question = Vec::with_capacity(ASKED as usize);
    question.extend_from_slice(&ASKED.to_ne_bytes());
    question.extend_from_slice(&BY_FAMILY.to_ne_bytes());
    question.extend_from_slice(&REQUEST.to_ne_bytes());
    question.extend_from_slice(&[0; 8]);
    let family = u8::try_from(AddressFamily::UNIX.as_raw()).unwrap_or_default();
    question.extend_from_slice(&[family, 0, 0, 0]);
    // In any state.
    question.extend_from_slice(&u32::MAX.to_ne_bytes());
    question.extend_from_slice(&inode.to_ne_bytes());
    question.extend_from_slice(&SHOW_PEER.to_ne_bytes());
    // Any cookie.
    question.extend_from_slice(&[0xff; 8]);
    Ok(peer_in(&ask(&question)?, inode))
}

/// The peer in an answer about this inode: after its header of 16 and its message of 16 bytes attributes follow, each with
/// its length and kind, at multiples of four (linux/unix_diag.h).
fn peer_in(answer: &[u8], inode: u32) -> Option<u64> {
    let word = |bytes: &[u8], at: usize| {
        let bytes = bytes.get(at..at + 4)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    };
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    if kind != BY_FAMILY || word(answer, 20)? != inode {
        return None;
    }
    let mut rest = answer.get(32..)?;
    while rest.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?);
        if kind == PEER && length == 8 {
            return word(rest, 4).filter(|found| *found != 0).map(u64::from);
        }
        rest = rest.get(length.max(4).next_multiple_of(4)..)?;
    }
    None
}

fn ask(question: &[u8]) -> Result<Vec<u8>, Errno> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    send(&socket, question, SendFlags::empty())?;
    let mut answer = vec![0_u8; 512];
    let (_, length) = recv(&socket, &mut answer, RecvFlags::empty())?;
    answer.truncate(length);
    Ok(answer)
}

fn question(local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    let (family, four) = match local.ip() {
        IpAddr::V4(_) => (AddressFamily::INET, true),
        IpAddr::V6(_) => (AddressFamily::INET6, false),
    };
    let place = |ip: IpAddr| -> [u8; 16] {
        match ip {
            IpAddr::V6(ip) => ip.octets(),
            IpAddr::V4(ip) => {
                let mut out = [0; 16];
                for (to, from) in out.iter_mut().zip(ip.octets()) {
                    *to = from;
                }
                out
            }
        }
    };
    debug_assert!(four == remote.is_ipv4(), "both ends are of one family");
    let mut out = Vec::with_capacity(ASKED);
    out.extend_from_slice(&u32::try_from(ASKED).unwrap_or_default().to_ne_bytes());
    out.extend_from_slice(&BY_FAMILY.to_ne_bytes());
    out.extend_from_slice(&REQUEST.to_ne_bytes());
    // Sequence and port: one question on a socket of its own.
    out.extend_from_slice(&[0; 8]);
    let family = u8::try_from(family.as_raw()).unwrap_or_default();
    out.extend_from_slice(&[family, TCP, 0, 0]);
    out.extend_from_slice(&(1_u32 << ESTABLISHED).to_ne_bytes());
    out.extend_from_slice(&local.port().to_be_bytes());
    out.extend_from_slice(&remote.port().to_be_bytes());
    out.extend_from_slice(&place(local.ip()));
    out.extend_from_slice(&place(remote.ip()));
    // Any interface, any cookie.
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&[0xff; 8]);
    out
}

/// `None`: there is no such socket, or it is not what was asked for: where none is connected so the kernel names the one
/// that listens.
fn read(answer: &[u8], local: u16, remote: u16) -> Option<Row> {
    let word = |at: usize| {
        let bytes = answer.get(at..at + 4)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    };
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let ports = [local.to_be_bytes(), remote.to_be_bytes()].concat();
    let is_it = kind == BY_FAMILY
        && answer.get(STATE) == Some(&ESTABLISHED)
        && answer.get(PORTS..PORTS + 4) == Some(ports.as_slice());
    let (uid, inode) = (word(UID)?, u64::from(word(INODE)?));
    (is_it && inode != 0).then_some(Row { uid, inode })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn the_other_end_of_a_unix_socket_is_found_while_it_is_there() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let inode = |socket: &UnixStream| rustix::fs::fstat(socket.as_fd()).unwrap().st_ino;
        assert!(answers());
        assert_eq!(other_end(inode(&ours)), Some(inode(&theirs)));
        assert_eq!(other_end(inode(&theirs)), Some(inode(&ours)));
        let own = inode(&ours);
        drop(theirs);
        assert_eq!(other_end(own), None);
        assert_eq!(other_end(1), None);
        assert_eq!(peer_in(&[0; 40], 0), None);
    }
}
