//! What host and helper say to each other, over a socket that is the helper's standard input.
//!
//! The command's own standard input travels with the plan as a descriptor (`SCM_RIGHTS`), so that nothing is ever
//! inheritable in the host: a descriptor that is, another thread's `exec` could carry away.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};

use super::super::{Mask, Plan};
use crate::syscall::Namespaces;

/// The set of namespaces that one attempt asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a namespace, had or not"
)]
pub(super) struct Means {
    pub(super) user: bool,
    pub(super) mount: bool,
    pub(super) pid: bool,
    pub(super) net: bool,
}

impl Means {
    /// None at all: the command shares everything.
    pub(super) const NONE: Self = Self {
        user: false,
        mount: false,
        pid: false,
        net: false,
    };

    pub(super) fn flags(self) -> Namespaces {
        let mut flags = Namespaces::empty();
        flags.set(Namespaces::NEWUSER, self.user);
        flags.set(Namespaces::NEWNS, self.mount);
        flags.set(Namespaces::NEWPID, self.pid);
        flags.set(Namespaces::NEWNET, self.net);
        flags
    }

    /// The stage's argument: a number, which is no secret.
    pub(super) fn to_word(self) -> String {
        self.flags().bits().to_string()
    }

    pub(super) fn from_word(word: &str) -> Option<Self> {
        let flags = Namespaces::from_bits_retain(word.parse().ok()?);
        Some(Self {
            user: flags.contains(Namespaces::NEWUSER),
            mount: flags.contains(Namespaces::NEWNS),
            pid: flags.contains(Namespaces::NEWPID),
            net: flags.contains(Namespaces::NEWNET),
        })
    }
}

/// The plan as init needs it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) means: Means,
    argv: Vec<Vec<u8>>,
    env: Vec<(Vec<u8>, Vec<u8>)>,
    masks: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    pub(super) isolate: Option<u16>,
    pub(super) nofile: Option<u64>,
}

impl Order {
    /// `masks` may be fewer or more than the plan's own.
    pub(super) fn new(plan: &Plan, masks: &[Mask], means: Means) -> Self {
        Self {
            means,
            argv: plan
                .argv
                .iter()
                .map(|word| word.as_bytes().to_vec())
                .collect(),
            env: (plan.env.iter())
                .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
                .collect(),
            masks: (masks.iter())
                .map(|mask| (bytes(&mask.path), mask.replacement.clone()))
                .collect(),
            isolate: plan.isolate,
            nofile: plan.nofile,
        }
    }

    pub(super) fn take_argv(&mut self) -> Vec<OsString> {
        std::mem::take(&mut self.argv)
            .into_iter()
            .map(OsString::from_vec)
            .collect()
    }

    pub(super) fn take_env(&mut self) -> Vec<(OsString, OsString)> {
        std::mem::take(&mut self.env)
            .into_iter()
            .map(|(name, value)| (OsString::from_vec(name), OsString::from_vec(value)))
            .collect()
    }

    pub(super) fn take_masks(&mut self) -> Vec<Mask> {
        std::mem::take(&mut self.masks)
            .into_iter()
            .map(|(path, replacement)| Mask {
                path: PathBuf::from(OsString::from_vec(path)),
                replacement,
            })
            .collect()
    }

    /// Sends it, with the command's standard input.
    pub(super) fn send(&self, socket: &mut UnixStream, stdin: BorrowedFd<'_>) -> io::Result<()> {
        let body = serde_json::to_vec(self)?;
        let length = u32::try_from(body.len()).map_err(io::Error::other)?;
        send_with(socket, &length.to_le_bytes(), &[stdin])?;
        socket.write_all(&body)
    }

    /// Receives one.
    pub(super) fn receive(socket: &mut UnixStream) -> io::Result<(Self, OwnedFd)> {
        let mut length = [0; 4];
        let stdin = receive_with(socket, &mut length)?
            .ok_or_else(|| io::Error::other("no standard input came with the plan"))?;
        let length = usize::try_from(u32::from_le_bytes(length)).map_err(io::Error::other)?;
        let mut body = vec![0; length];
        socket.read_exact(&mut body)?;
        Ok((serde_json::from_slice(&body)?, stdin))
    }
}

fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

/// The place where a means failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Unshare,
    Mounts,
    Proc,
    Network,
    Capabilities,
    Start,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unshare => "new namespaces",
            Self::Mounts => "private mounts",
            Self::Proc => "a fresh /proc",
            Self::Network => "a network of its own",
            Self::Capabilities => "giving up capabilities",
            Self::Start => "starting",
        })
    }
}

/// What a helper tells the host: a letter and a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// The stage stands in its namespaces and waits for its ids to be mapped.
    Unshared,
    /// A means failed with this errno.
    Failed(Step, i32),
    /// The mask of this index could not be set.
    Bare(u32),
    /// The command could not be executed, with this errno.
    NotStarted(i32),
    /// The command runs.
    Started,
    /// The command was stopped, as by Ctrl-Z.
    Stopped,
    /// The command goes on.
    Continued,
    /// The command ended with this code, and nothing of it is left.
    Exited(u8),
    /// The command was ended by this signal, and nothing of it is left.
    Killed(u8),
}

/// The length of an event on the socket.
pub(super) const EVENT: usize = 8;

impl Event {
    pub(super) fn encode(self) -> [u8; EVENT] {
        let (tag, step, value) = match self {
            Self::Unshared => (b'u', 0, 0),
            Self::Failed(step, errno) => (b'f', step as u8, errno),
            Self::Bare(index) => (b'b', 0, index.cast_signed()),
            Self::NotStarted(errno) => (b'n', 0, errno),
            Self::Started => (b's', 0, 0),
            Self::Stopped => (b't', 0, 0),
            Self::Continued => (b'c', 0, 0),
            Self::Exited(code) => (b'e', 0, i32::from(code)),
            Self::Killed(signal) => (b'k', 0, i32::from(signal)),
        };
        let [a, b, c, d] = value.to_le_bytes();
        [tag, step, 0, 0, a, b, c, d]
    }

    pub(super) fn decode(frame: [u8; EVENT]) -> io::Result<Self> {
        let [tag, step, _, _, a, b, c, d] = frame;
        let value = i32::from_le_bytes([a, b, c, d]);
        let step = STEPS.into_iter().find(|known| *known as u8 == step);
        Ok(match (tag, step) {
            (b'u', _) => Self::Unshared,
            (b'f', Some(step)) => Self::Failed(step, value),
            (b'b', _) => Self::Bare(value.cast_unsigned()),
            (b'n', _) => Self::NotStarted(value),
            (b's', _) => Self::Started,
            (b't', _) => Self::Stopped,
            (b'c', _) => Self::Continued,
            (b'e', _) => Self::Exited(u8::try_from(value).map_err(io::Error::other)?),
            (b'k', _) => Self::Killed(u8::try_from(value).map_err(io::Error::other)?),
            _ => return Err(io::Error::other("an unknown word from the helper")),
        })
    }

    /// Sends it, with the listener where there is one.
    pub(super) fn send(self, socket: &UnixStream, with: Option<BorrowedFd<'_>>) -> io::Result<()> {
        send_with(socket, &self.encode(), with.as_slice())
    }

    /// Receives one, and what came with it.
    pub(super) fn receive(socket: &UnixStream) -> io::Result<(Self, Option<OwnedFd>)> {
        let mut frame = [0; EVENT];
        let with = receive_with(socket, &mut frame)?;
        Ok((Self::decode(frame)?, with))
    }
}

const STEPS: [Step; 6] = [
    Step::Unshare,
    Step::Mounts,
    Step::Proc,
    Step::Network,
    Step::Capabilities,
    Step::Start,
];

/// Sends a short frame whole, descriptors with its first byte.
fn send_with(socket: &UnixStream, frame: &[u8], with: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !with.is_empty() && !control.push(SendAncillaryMessage::ScmRights(with)) {
        return Err(io::Error::other("no room for a descriptor"));
    }
    let sent = rustix::net::sendmsg(
        socket.as_fd(),
        &[IoSlice::new(frame)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    let mut rest = socket;
    rest.write_all(frame.get(sent..).unwrap_or_default())
}

/// Receives a frame of just this length and the descriptor that came with it.
fn receive_with(socket: &UnixStream, frame: &mut [u8]) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(
            socket.as_fd(),
            &mut [IoSliceMut::new(frame)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    if got.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut with = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message {
            with = descriptors.next();
        }
    }
    let mut rest = socket;
    rest.read_exact(frame.get_mut(got.bytes..).unwrap_or_default())?;
    Ok(with)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_survives_the_socket() {
        let (here, there) = UnixStream::pair().unwrap();
        let mut events = vec![
            Event::Unshared,
            Event::Bare(7),
            Event::NotStarted(2),
            Event::Started,
            Event::Stopped,
            Event::Continued,
            Event::Exited(255),
            Event::Killed(9),
        ];
        events.extend(STEPS.map(|step| Event::Failed(step, 13)));
        for event in events {
            event.send(&here, None).unwrap();
            let (back, with) = Event::receive(&there).unwrap();
            assert_eq!(back, event);
            assert!(with.is_none());
        }
    }

    #[test]
    fn an_order_arrives_whole_with_the_standard_input() {
        let (mut here, mut there) = UnixStream::pair().unwrap();
        let plan = Plan {
            argv: vec![OsString::from_vec(b"a\xff\n".to_vec())],
            env: vec![("NAME".into(), "värde".into())],
            isolate: Some(8180),
            ..Plan::default()
        };
        let masks = [Mask {
            path: "/etc/hosts".into(),
            replacement: Some(b"x".to_vec()),
        }];
        let (mut pipe, stdin) = io::pipe().map(|(r, w)| (w, r)).unwrap();
        let sent = Order::new(&plan, &masks, Means::NONE);
        sent.send(&mut here, stdin.as_fd()).unwrap();
        let (mut order, received) = Order::receive(&mut there).unwrap();
        pipe.write_all(b"through").unwrap();
        drop(pipe);
        let mut text = String::new();
        std::fs::File::from(received)
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "through");
        assert_eq!(order.take_argv(), plan.argv);
        assert_eq!(order.take_env(), plan.env);
        assert_eq!(order.take_masks(), masks);
        assert_eq!(order.isolate, Some(8180));
    }

    #[test]
    fn means_survive_the_argument_list() {
        let means = Means {
            user: true,
            mount: true,
            pid: false,
            net: true,
        };
        assert_eq!(Means::from_word(&means.to_word()), Some(means));
        assert_eq!(Means::from_word(&Means::NONE.to_word()), Some(Means::NONE));
        assert_eq!(Means::from_word("user"), None);
    }
}
