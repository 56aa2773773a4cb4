//! What agents send as bodies, on its way up: counted, and in S3's chunked form checked.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use super::body::BodyError;
use super::record::ByteCount;
use super::sign::Lied;
use crate::inject::Chunks;

/// What an agent sends as a body: as it comes, or read whole before, and counted then.
#[derive(Debug)]
pub(super) enum Upload {
    /// As it comes.
    Stream(Incoming),
    /// All of it.
    Read(Bytes),
}

impl Upload {
    /// Nothing.
    pub(super) fn none() -> Self {
        Self::Read(Bytes::new())
    }
}

impl HttpBody for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Stream(incoming) => Pin::new(incoming).poll_frame(cx),
            Self::Read(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Read(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Stream(incoming) => incoming.is_end_stream(),
            Self::Read(bytes) => bytes.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Stream(incoming) => incoming.size_hint(),
            Self::Read(bytes) => SizeHint::with_exact(bytes.len() as u64),
        }
    }
}

/// An agent's body on its way up, counted.
#[derive(Debug)]
pub(super) struct Up {
    incoming: Upload,
    count: ByteCount,
}

impl Up {
    pub(super) fn new(incoming: Upload, count: ByteCount) -> Self {
        count.set_open(!incoming.is_end_stream());
        Self { incoming, count }
    }

    /// The next piece; `None` at the end. Trailers are dropped: none of them was judged (RFC 9110 §6.5.1).
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            if self.count.is_closed() {
                return Poll::Ready(Some(Err(BodyError::Over)));
            }
            let frame = match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
                None => {
                    self.count.set_open(false);
                    return Poll::Ready(None);
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(BodyError::Source(error)))),
                Some(Ok(frame)) => frame,
            };
            if let Ok(data) = frame.into_data() {
                if let Upload::Stream(_) = self.incoming {
                    self.count.add(data.len());
                }
                self.count.set_open(!self.incoming.is_end_stream());
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// A body in S3's chunked form: its chunks are checked, and signed anew where they are signed. It keeps its length.
#[derive(Debug)]
pub(super) struct Chunked {
    up: Up,
    chunks: Chunks,
    ready: VecDeque<Bytes>,
    ended: bool,
    lied: Lied,
}

impl Chunked {
    pub(super) fn new(up: Up, chunks: Chunks, lied: Lied) -> Self {
        Self {
            up,
            chunks,
            ready: VecDeque::new(),
            ended: false,
            lied,
        }
    }

    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// [`BodyError::Chunks`] for chunks that are not what the head says.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            if let Some(data) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            let taken = match ready!(self.up.poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.chunks.push(data, &mut self.ready),
                    Err(_) => continue,
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    self.ended = true;
                    self.chunks.finish().map(|end| self.ready.push_back(end))
                }
            };
            if let Err(error) = taken {
                self.lied.tell();
                return Poll::Ready(Some(Err(error.into())));
            }
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.ended && self.ready.is_empty()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.up.size_hint()
    }
}
