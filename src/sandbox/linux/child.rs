//! The running command, as the host holds it: signals in, its end out.

use std::future::poll_fn;
use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::task::Poll;
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::signal::unix::{SignalKind, signal};

use super::super::{Exit, SandboxError, Weaker};
use super::wire::{EVENT, Event};
use crate::syscall;

/// A command that runs. Dropping it ends the command and everything that the command started.
#[derive(Debug)]
pub struct Child {
    socket: UnixStream,
    helper: std::process::Child,
    listener: Option<TcpListener>,
    weaker: Vec<Weaker>,
    foreground: bool,
    /// Caught since before the command began, where a runtime was there to catch them.
    pub(super) signals: Option<Signals>,
}

impl Child {
    pub(super) fn new(
        socket: UnixStream,
        helper: std::process::Child,
        listener: Option<TcpListener>,
        weaker: Vec<Weaker>,
        foreground: bool,
    ) -> Self {
        Self {
            socket,
            helper,
            listener,
            weaker,
            foreground,
            signals: None,
        }
    }

    /// What this system did not give, to be said once.
    pub fn weaker(&self) -> &[Weaker] {
        &self.weaker
    }

    /// The isolated command's way out: what it connects to on [`Plan::isolate`](super::super::Plan)'s port, this
    /// accepts. Connections wait until someone does.
    pub fn take_listener(&mut self) -> Option<TcpListener> {
        self.listener.take()
    }

    /// Waits for the command's end; by then nothing that it started is left.
    ///
    /// Meanwhile signals to this process go on to the command. Ctrl-C and Ctrl-\ reach the command from the terminal
    /// itself, so in the foreground these two are not sent again; a stopped command stops this process too, so that the
    /// shell's `fg` works.
    pub async fn wait(self) -> Result<Exit, SandboxError> {
        let Self {
            socket,
            mut helper,
            foreground,
            signals,
            ..
        } = self;
        let end = follow(socket, signals).await.map_err(SandboxError::Helper);
        helper.wait().map_err(SandboxError::Helper)?;
        if foreground
            && !syscall::in_foreground()
            && let Err(error) = syscall::reclaim_terminal()
        {
            tracing::debug!(%error, "the terminal was not taken back");
        }
        end
    }
}

async fn follow(socket: UnixStream, caught: Option<Signals>) -> io::Result<Exit> {
    socket.set_nonblocking(true)?;
    let mut socket = tokio::net::UnixStream::from_std(socket)?;
    let mut signals = match caught {
        Some(signals) => signals,
        None => Signals::catch()?,
    };
    let mut events = Events::default();
    loop {
        tokio::select! {
            event = events.next(&mut socket) => match event? {
                Event::Exited(code) => return Ok(Exit::Code(code)),
                Event::Killed(signal) => return Ok(Exit::Signal(signal)),
                Event::Stopped => {
                    // Ctrl-Z stops this process as well, and this is read after `fg`: then the next word is already
                    // under way, and to stop again would be once too often.
                    let next = tokio::time::timeout(GRACE, events.next(&mut socket)).await;
                    match next {
                        Err(_) => kill_process(getpid(), Signal::STOP)?,
                        Ok(event) => match event? {
                            Event::Exited(code) => return Ok(Exit::Code(code)),
                            Event::Killed(signal) => return Ok(Exit::Signal(signal)),
                            _ => {}
                        },
                    }
                }
                _ => {}
            },
            number = signals.next() => {
                let from_terminal = [Signal::INT, Signal::QUIT].map(Signal::as_raw);
                if !(from_terminal.contains(&i32::from(number)) && syscall::in_foreground()) {
                    socket.write_all(&[number]).await?;
                }
            }
        }
    }
}

/// Long against a socket's microseconds, short for a hand at the keyboard.
const GRACE: Duration = Duration::from_millis(50);

/// Reads events whole, also when a read is given up halfway.
#[derive(Default)]
struct Events {
    frame: [u8; EVENT],
    filled: usize,
}

impl Events {
    async fn next(&mut self, socket: &mut tokio::net::UnixStream) -> io::Result<Event> {
        while self.filled < EVENT {
            let rest = self.frame.get_mut(self.filled..).unwrap_or_default();
            match socket.read(rest).await? {
                0 => {
                    return Err(io::Error::other(
                        "the sandbox's init was ended from outside",
                    ));
                }
                read => self.filled += read,
            }
        }
        self.filled = 0;
        Event::decode(self.frame)
    }
}

/// The signals that go on to the command.
#[derive(Debug)]
pub(super) struct Signals(Vec<(u8, tokio::signal::unix::Signal)>);

impl Signals {
    /// Catches them now; `None` outside of a runtime.
    pub(super) fn early() -> io::Result<Option<Self>> {
        tokio::runtime::Handle::try_current()
            .ok()
            .map(|_| Self::catch())
            .transpose()
    }

    fn catch() -> io::Result<Self> {
        let kinds = [
            SignalKind::hangup(),
            SignalKind::interrupt(),
            SignalKind::quit(),
            SignalKind::terminate(),
            SignalKind::user_defined1(),
            SignalKind::user_defined2(),
        ];
        let mut streams = Vec::with_capacity(kinds.len());
        for kind in kinds {
            let number = u8::try_from(kind.as_raw_value()).map_err(io::Error::other)?;
            streams.push((number, signal(kind)?));
        }
        Ok(Self(streams))
    }

    async fn next(&mut self) -> u8 {
        poll_fn(|context| {
            for (number, stream) in &mut self.0 {
                if let Poll::Ready(Some(())) = stream.poll_recv(context) {
                    return Poll::Ready(*number);
                }
            }
            Poll::Pending
        })
        .await
    }
}
