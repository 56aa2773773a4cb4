//! One HTTP/1.1 connection to an upstream, driven by the task whose request it serves.
//!
//! hyper would have the connection in a task of its own. Each request then wakes that task, and each piece of the
//! answer wakes ours: on a busy machine those switches cost more than the request itself. Here whoever waits for an
//! answer or a piece of its body polls the connection too, in the same breath. An idle connection is polled by nobody;
//! that its peer has closed it shows when it is taken up again.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

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
        })
    }

    /// Whether another request can be sent: the answer before is whole, its request too, and the peer is still there.
    pub(super) async fn is_ready(&mut self) -> bool {
        poll_fn(|cx| {
            self.driver.drive(cx);
            Poll::Ready(
                self.driver.0.is_some()
                    && matches!(self.sender.poll_ready(cx), Poll::Ready(Ok(()))),
            )
        })
        .await
    }

    /// Sends a request and waits for the head of its answer. `Err(Some(_))`: no byte of it was written.
    pub(super) async fn send(
        &mut self,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, Option<Box<Request<Body>>>> {
        let mut sent = pin!(self.sender.try_send_request(request));
        let answered = poll_fn(|cx| {
            self.driver.drive(cx);
            let answered = sent.as_mut().poll(cx);
            if answered.is_pending() {
                // The request has just been handed over: write it now.
                self.driver.drive(cx);
                return sent.as_mut().poll(cx);
            }
            answered
        });
        answered
            .await
            .map_err(|mut error| error.take_message().map(Box::new))
    }

    /// Whether the connection is idle: the answer is whole, and the request too.
    pub(super) fn is_idle(&self) -> bool {
        self.driver.0.is_some() && self.sender.is_ready()
    }

    /// Moves the connection while a body is read from it.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) {
        self.driver.drive(cx);
    }
}
