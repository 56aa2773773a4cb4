//! One HTTP/1.1 connection to an upstream, driven by the task whose request it serves.
//!
//! hyper would have the connection in a task of its own. Each request then wakes that task, and each piece of the
//! answer wakes ours: on a busy machine those switches cost more than the request itself. Here whoever waits for an
//! answer or a piece of its body polls the connection too, in the same breath. An idle connection is polled by nobody;
//! that its peer has closed it shows when it is taken up again.
//!
//! hyper's halves wake each other: the handle wakes the connection for a request, the connection the handle for its
//! answer. Both are in this one task, which is being polled already, so each such call would only have it polled once
//! more for nothing. So they are polled with nobody to wake first, and with the task only where nothing came of that.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1};
use hyper_util::rt::TokioIo;
use tokio::task::coop;
use tokio::time::{Instant, Sleep};

use super::body::Body;
use super::dial::DialError;
use super::wire::Wire;

/// The largest answer head in bytes.
const MAX_ANSWER_HEAD: usize = 64 * 1024;

/// A connection and the handle that sends on it.
#[derive(Debug)]
pub(super) struct Link {
    sender: http1::SendRequest<Body>,
    driver: Driver,
    timer: Timer,
}

/// Wakes for the end of a request's time. One for all requests of a connection, moved only when it fires: most end long
/// before, and each would take the lock of the runtime's timers twice.
#[derive(Debug, Default)]
struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// Whether it is too late; wakes the task then, if it is not.
    fn is_past(&mut self, deadline: Instant, cx: &mut Context<'_>) -> bool {
        let sleep = self
            .0
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if Instant::now() >= deadline {
                return true;
            }
            sleep.as_mut().reset(deadline);
        }
        false
    }
}

/// What moves a connection; nothing where it has ended.
#[derive(Debug)]
struct Driver(Option<http1::Connection<TokioIo<Wire>, Body>>);

impl Driver {
    /// Moves the connection as far as it goes now.
    fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(connection) = &mut self.0 {
            // What went wrong shows in the answer; here it is only over.
            if Pin::new(connection).poll(cx).is_ready() {
                self.0 = None;
            }
        }
    }

    /// Looks; where that is not enough moves the connection with nobody to wake; where that is not enough either, with
    /// the task, which is woken then by the connection alone.
    fn drive_for<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut look: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let mut unheard = Context::from_waker(Waker::noop());
        if let Poll::Ready(seen) = look(&mut unheard) {
            return Poll::Ready(seen);
        }
        self.drive(&mut unheard);
        if let Poll::Ready(seen) = look(&mut unheard) {
            return Poll::Ready(seen);
        }
        self.drive(cx);
        last_look(cx, look)
    }
}

/// Looks after the connection was moved with the task.
fn last_look<T>(cx: &Context<'_>, mut look: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
    let seen = look(&mut Context::from_waker(Waker::noop()));
    // What is pending for want of budget alone would have woken nobody.
    if seen.is_pending() && !coop::has_budget_remaining() {
        cx.waker().wake_by_ref();
    }
    seen
}

/// Why a request has no answer.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// No byte of it was written.
    Unsent(Box<Request<Body>>),
    /// The connection ended before the head of an answer had come. What became of the request is not known.
    Gone,
    /// What came is no answer.
    Malformed,
    /// Its time was over before.
    Late,
}

impl Link {
    /// Speaks HTTP/1.1 on this wire.
    pub(super) async fn open(wire: Wire) -> Result<Self, DialError> {
        let mut builder = http1::Builder::new();
        builder.max_header_size(MAX_ANSWER_HEAD);
        let (sender, connection) = builder
            .handshake(TokioIo::new(wire))
            .await
            .map_err(|_| DialError::Unreachable)?;
        Ok(Self {
            sender,
            driver: Driver(Some(connection)),
            timer: Timer::default(),
        })
    }

    /// Whether another request can be sent: the answer before is whole, its request too, and the peer is still there.
    pub(super) fn is_ready(&mut self) -> bool {
        let mut unheard = Context::from_waker(Waker::noop());
        self.driver.drive(&mut unheard);
        self.driver.0.is_some()
            && matches!(self.sender.poll_ready(&mut unheard), Poll::Ready(Ok(())))
    }

    /// Sends a request and waits for the head of its answer, no longer than to the deadline.
    pub(super) async fn send(
        &mut self,
        request: Request<Body>,
        deadline: Instant,
    ) -> Result<Response<Incoming>, Unanswered> {
        let mut sent = pin!(self.sender.try_send_request(request));
        let (driver, timer) = (&mut self.driver, &mut self.timer);
        let mut written = false;
        let answered = poll_fn(|cx| {
            let answered = if written {
                driver.drive_for(cx, |unheard| sent.as_mut().poll(unheard))
            } else {
                written = true;
                driver.drive(cx);
                last_look(cx, |unheard| sent.as_mut().poll(unheard))
            };
            match answered {
                Poll::Ready(answered) => Poll::Ready(answered.map_err(Unanswered::from)),
                Poll::Pending if timer.is_past(deadline, cx) => Poll::Ready(Err(Unanswered::Late)),
                Poll::Pending => Poll::Pending,
            }
        });
        answered.await
    }

    /// Moves the connection until `look` sees what it waits for. `look` may not wait for anything else.
    pub(super) fn drive_for<T>(
        &mut self,
        cx: &mut Context<'_>,
        look: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        self.driver.drive_for(cx, look)
    }

    /// Moves the connection by itself, past the request and its answer to its end.
    pub(super) async fn finish(self) {
        // Without a sender there is no next request, and nothing to wait for.
        drop(self.sender);
        if let Some(connection) = self.driver.0 {
            connection.await.ok();
        }
    }

    /// Moves the connection past the end of an answer; whether it is idle then: the answer is whole, the request too.
    pub(super) fn settle(&mut self) -> bool {
        if !self.is_idle() {
            self.driver.drive(&mut Context::from_waker(Waker::noop()));
        }
        self.is_idle()
    }

    fn is_idle(&self) -> bool {
        self.driver.0.is_some() && self.sender.is_ready()
    }
}

impl From<TrySendError<Request<Body>>> for Unanswered {
    fn from(mut error: TrySendError<Request<Body>>) -> Self {
        match error.take_message() {
            Some(request) => Self::Unsent(Box::new(request)),
            None if is_gone(&error.into_error()) => Self::Gone,
            None => Self::Malformed,
        }
    }
}

/// Whether the connection ended, rather than said something that is no answer.
fn is_gone(error: &hyper::Error) -> bool {
    let kind = std::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<std::io::Error>())
        .map(std::io::Error::kind);
    error.is_incomplete_message()
        || error.is_closed()
        || error.is_canceled()
        || matches!(
            kind,
            Some(
                ErrorKind::ConnectionReset
                    | ErrorKind::ConnectionAborted
                    | ErrorKind::BrokenPipe
                    | ErrorKind::NotConnected
                    | ErrorKind::UnexpectedEof
            )
        )
}
