//! The gate between an agent's bytes and hyper: limits of time, and the line ends that hyper forgives.
//!
//! hyper accepts a bare LF as a line end and has one timer for "waiting for a request" and "reading a head". A request
//! head with a bare LF or a bare CR is read differently by different servers (RFC 9112 §2.2), so on HTTP/1 the gate
//! reads along: heads and chunk framing must be strict, bodies pass untouched. It hands hyper one head at a time, so
//! that the service can tell it how the body behind that head is framed before it looks for the next.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::line::{Framings, Line, LineFault};
use super::stream::AgentStream;
use crate::head::Framing;

/// What the service tells the gate about the request whose head it was just given.
#[derive(Debug, Clone, Default)]
pub(super) struct Hint(Arc<AtomicU64>);

/// Nothing was said yet.
const UNSAID: u64 = u64::MAX;
/// The body is chunked.
const CHUNKED: u64 = u64::MAX - 1;
/// What follows is another protocol, or not to be read along.
const OPAQUE: u64 = u64::MAX - 2;

impl Hint {
    /// Says how the body is framed.
    pub(super) fn framing(&self, framing: Framing) {
        let code = match framing {
            Framing::None => 0,
            Framing::Length(bytes) => bytes,
            Framing::Unknown => CHUNKED,
        };
        self.0.store(code, Ordering::Release);
    }

    /// Says that the connection leaves HTTP/1 after this head, or closes.
    pub(super) fn opaque(&self) {
        self.0.store(OPAQUE, Ordering::Release);
    }

    fn take(&self) -> u64 {
        self.0.swap(UNSAID, Ordering::AcqRel)
    }
}

/// An agent's byte stream under the limits of its listener.
#[derive(Debug)]
pub(super) struct Gate<IO> {
    io: IO,
    /// Bytes that came behind a head or a body and are not hyper's yet.
    held: BytesMut,
    phase: Phase,
    hint: Hint,
    timer: Timer,
}

#[derive(Debug)]
enum Phase {
    /// Reading a head, or waiting for one.
    Head(Line, Framings),
    /// A head is complete; the service says what follows.
    Decide,
    /// This many bytes of a body are left.
    Length(u64),
    /// Within a chunked body.
    Chunked(Line),
    /// Not read along.
    Opaque,
}

impl Phase {
    fn head() -> Self {
        Self::Head(Line::head(), Framings::default())
    }
}

/// One timer for the whole connection: it is moved only when it fires, not at each byte.
#[derive(Debug)]
struct Timer {
    sleep: Pin<Box<Sleep>>,
    header: Duration,
    idle: Duration,
    last_byte: Instant,
    head_began: Option<Instant>,
    /// Set once it is known whose the connection is; `None` where that was known from the start.
    known: Option<Arc<AtomicBool>>,
}

impl Timer {
    fn deadline(&self) -> Instant {
        let known = self
            .known
            .as_ref()
            .is_none_or(|known| known.load(Ordering::Relaxed));
        match self.head_began {
            Some(began) => began + self.header,
            None if known => self.last_byte + self.idle,
            None => self.last_byte + self.header.min(self.idle),
        }
    }

    /// Pending while there is time.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let deadline = self.deadline();
            if self.sleep.deadline() > deadline {
                self.sleep.as_mut().reset(deadline);
            }
            ready!(self.sleep.as_mut().poll(cx));
            if self.deadline() <= Instant::now() {
                return Poll::Ready(());
            }
            let next = self.deadline();
            self.sleep.as_mut().reset(next);
        }
    }
}

impl<IO> Gate<IO> {
    /// A gate that reads HTTP/1 along.
    pub(super) fn http1(io: IO, header: Duration, idle: Duration) -> (Self, Hint) {
        let hint = Hint(Arc::new(AtomicU64::new(UNSAID)));
        let gate = Self::new(io, Phase::head(), hint.clone(), header, idle);
        (gate, hint)
    }

    /// The connection is nobody's yet, and owes its first head at once.
    /// Until `known` is set it may not be idle for longer than a head may take.
    pub(super) fn hurry(mut self, known: Arc<AtomicBool>) -> Self {
        self.timer.known = Some(known);
        self.timer.head_began = Some(Instant::now());
        self
    }

    /// A gate that only watches the time: HTTP/2 frames itself.
    pub(super) fn opaque(io: IO, header: Duration, idle: Duration) -> Self {
        Self::new(io, Phase::Opaque, Hint::default(), header, idle)
    }

    fn new(io: IO, phase: Phase, hint: Hint, header: Duration, idle: Duration) -> Self {
        let now = Instant::now();
        let sleep = Box::pin(tokio::time::sleep(header.min(idle)));
        let timer = Timer {
            sleep,
            header,
            idle,
            last_byte: now,
            head_began: None,
            known: None,
        };
        Self {
            io,
            held: BytesMut::new(),
            phase,
            hint,
            timer,
        }
    }

    /// The stream itself, and what was read beyond the last head.
    pub(super) fn into_parts(self) -> (IO, BytesMut) {
        (self.io, self.held)
    }

    /// Judges fresh bytes and says how many of them hyper may have now.
    fn pass(&mut self, fresh: &[u8]) -> Result<usize, LineFault> {
        let mut passed = 0;
        while let Some(rest) = fresh.get(passed..).filter(|rest| !rest.is_empty()) {
            match &mut self.phase {
                Phase::Opaque => return Ok(fresh.len()),
                Phase::Decide => return Ok(passed),
                Phase::Head(line, framings) => {
                    if self.timer.head_began.is_none() {
                        self.timer.head_began = Some(self.timer.last_byte);
                    }
                    let (taken, done) = line.head_bytes(rest)?;
                    framings.read(rest.get(..taken).unwrap_or_default())?;
                    passed += taken;
                    if done {
                        self.timer.head_began = None;
                        self.phase = Phase::Decide;
                        return Ok(passed);
                    }
                }
                Phase::Length(left) => {
                    let taken = (*left).min(rest.len() as u64);
                    *left -= taken;
                    passed += usize::try_from(taken).unwrap_or(rest.len());
                    if *left == 0 {
                        self.phase = Phase::head();
                        return Ok(passed);
                    }
                }
                Phase::Chunked(line) => {
                    let (taken, done) = line.chunked_bytes(rest)?;
                    passed += taken;
                    if done {
                        self.phase = Phase::head();
                        return Ok(passed);
                    }
                }
            }
        }
        Ok(passed)
    }

    /// After a head, the service has spoken before hyper reads on.
    fn decide(&mut self) {
        if matches!(self.phase, Phase::Decide) {
            self.phase = match self.hint.take() {
                UNSAID | OPAQUE => Phase::Opaque,
                CHUNKED => Phase::Chunked(Line::chunk()),
                0 => Phase::head(),
                bytes => Phase::Length(bytes),
            };
        }
    }
}

fn malformed(fault: LineFault) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, fault)
}

impl<IO: AsyncRead + Unpin> AsyncRead for Gate<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.decide();
        if !this.held.is_empty() {
            let room = this.held.len().min(buf.remaining());
            let mut fresh = this.held.split_to(room);
            this.timer.last_byte = Instant::now();
            let passed = this.pass(&fresh).map_err(malformed)?;
            let mut back = fresh.split_off(passed);
            buf.put_slice(&fresh);
            back.unsplit(std::mem::take(&mut this.held));
            this.held = back;
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        match Pin::new(&mut this.io).poll_read(cx, buf) {
            Poll::Pending => {
                ready!(this.timer.poll(cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) => {
                this.timer.last_byte = Instant::now();
                let fresh = buf.filled().get(before..).unwrap_or_default();
                let passed = this.pass(fresh).map_err(malformed)?;
                if passed < fresh.len() {
                    this.held
                        .extend_from_slice(fresh.get(passed..).unwrap_or_default());
                    buf.set_filled(before + passed);
                }
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Gate<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match Pin::new(&mut this.io).poll_write(cx, buf) {
            Poll::Pending => {
                ready!(this.timer.poll(cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            Poll::Ready(result) => {
                this.timer.last_byte = Instant::now();
                Poll::Ready(result)
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match Pin::new(&mut this.io).poll_write_vectored(cx, bufs) {
            Poll::Pending => {
                ready!(this.timer.poll(cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            Poll::Ready(result) => {
                this.timer.last_byte = Instant::now();
                Poll::Ready(result)
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

/// The stream below hyper; `None` where the agent sent anything before its 200 (RFC 9110 §9.3.6, CVE-2025-64763).
pub(super) async fn bare(upgrade: OnUpgrade) -> Option<AgentStream> {
    let upgraded: Upgraded = upgrade.await.ok()?;
    let parts = upgraded.downcast::<TokioIo<Gate<AgentStream>>>().ok()?;
    let (stream, held) = parts.io.into_inner().into_parts();
    (parts.read_buf.is_empty() && held.is_empty()).then_some(stream)
}
