//! A body that is sent frame by frame.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame};
use tokio::sync::mpsc;

use super::upstream::AnyBody;

struct Channel(mpsc::Receiver<Result<Frame<Bytes>, Infallible>>);

impl Body for Channel {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx)
    }
}

/// The sending end, and the body; dropping the sender ends it.
pub fn channel_body() -> (mpsc::Sender<Result<Frame<Bytes>, Infallible>>, AnyBody) {
    let (sender, receiver) = mpsc::channel(4);
    (sender, Channel(receiver).boxed_unsync())
}
