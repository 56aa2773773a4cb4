//! Bodies in both directions: streamed, counted, and on the way back scrubbed.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};
use tokio_util::task::AbortOnDropHandle;

use super::record::{ByteCount, Entry};
use super::refusal::Refusal;
use super::sign::Lied;
use super::slice::Cut;
use super::upload::{Chunked, Up, Upload};
use super::upstream::Checkout;
use crate::inject::{BadChunks, Chunks};
use crate::scrub::{Decoder, Scrubber, Watch};

/// The body of everything that keyward sends, to agents and upstreams alike.
#[derive(Debug)]
pub struct Body(Inner);

#[derive(Debug)]
enum Inner {
    Full(Bytes),
    Up(Up),
    Chunks(Box<Chunked>),
    Answer(Box<Answer>),
}

/// Why a body broke off. The agent sees a cut connection or a reset stream, never a text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// The side that sends it failed.
    #[error("the sending side broke off")]
    Source(#[source] hyper::Error),
    /// It cannot be decoded, and so not scrubbed.
    #[error("the body cannot be decoded")]
    Undecodable,
    /// Its chunks are not what its head says.
    #[error(transparent)]
    Chunks(#[from] BadChunks),
    /// It took longer than the limit.
    #[error("the request took longer than its total time")]
    TimedOut,
    /// The request's record is closed: nothing more goes up that it would not tell of.
    #[error("the request is over")]
    Over,
}

impl Body {
    /// No body.
    pub fn empty() -> Self {
        Self(Inner::Full(Bytes::new()))
    }

    /// These bytes.
    pub fn full(bytes: Bytes) -> Self {
        Self(Inner::Full(bytes))
    }

    /// An agent's body on its way up. Trailers are dropped: none of them was judged (RFC 9110 §6.5.1).
    pub(super) fn up(incoming: Upload, count: ByteCount) -> Self {
        Self(Inner::Up(Up::new(incoming, count)))
    }

    /// An agent's body whose chunks are checked, and signed anew where they are signed. It keeps its length.
    pub(super) fn chunks(incoming: Upload, count: ByteCount, chunks: Chunks, lied: Lied) -> Self {
        let up = Up::new(incoming, count);
        Self(Inner::Chunks(Box::new(Chunked::new(up, chunks, lied))))
    }

    /// An upstream's body on its way to the agent.
    pub(super) fn answer(answer: Answer) -> Self {
        Self(Inner::Answer(Box::new(answer)))
    }
}

/// An answer's body: decoded where it was coded, scrubbed, counted, with its audit guard.
#[derive(Debug)]
pub(super) struct Answer {
    incoming: Incoming,
    stages: Stages,
    ready: VecDeque<Bytes>,
    trailers: Trailers,
    /// Where only a slice of it is passed on.
    cut: Option<Cut>,
    /// The upstream has no more, though a decoder may.
    drained: bool,
    ended: bool,
    deadline: Option<Instant>,
    /// Made for the deadline when first nothing moves.
    timer: Option<Pin<Box<Sleep>>>,
    entry: Entry,
    connection: Option<Checkout>,
    /// What moves the connection where the request is still on its way up; it ends with the answer.
    upload: Option<AbortOnDropHandle<()>>,
}

/// What happens to the bytes.
#[derive(Debug)]
pub(super) enum Stages {
    /// Nothing: no secret could be in it.
    Pass,
    /// They are scrubbed.
    Scrub(Scrubber),
    /// They are decoded, then scrubbed.
    Decode(Box<Decoder>, Scrubber),
}

#[derive(Debug)]
enum Trailers {
    Drop,
    /// gRPC: its status travels in them.
    Keep(Option<Watch>, Option<HeaderMap>),
}

impl Answer {
    pub(super) fn new(
        incoming: Incoming,
        stages: Stages,
        entry: Entry,
        connection: Option<Checkout>,
    ) -> Self {
        Self {
            incoming,
            stages,
            ready: VecDeque::new(),
            trailers: Trailers::Drop,
            cut: None,
            drained: false,
            ended: false,
            deadline: None,
            timer: None,
            entry,
            connection,
            upload: None,
        }
    }

    /// Where the upstream answers while the request is still on its way up, has both move for themselves: an agent that
    /// reads nothing before all is sent would wait for us, and we for it.
    pub(super) fn part(&mut self) {
        if self.entry.up.is_open() {
            let connection = self.connection.take();
            self.upload = connection.and_then(|connection| connection.part(self.deadline));
        }
    }

    /// Gives the record back: the answer is not passed on after all.
    pub(super) fn into_entry(self) -> Entry {
        self.entry
    }

    pub(super) fn keep_trailers(&mut self, patterns: Option<Watch>) {
        self.trailers = Trailers::Keep(patterns, None);
    }

    /// Passes on a slice of it alone.
    pub(super) fn cut(&mut self, cut: Cut) {
        self.cut = Some(cut);
    }

    pub(super) fn until(&mut self, deadline: Instant) {
        self.deadline = Some(deadline);
    }

    /// Whether anything was masked so far.
    pub(super) fn altered(&self) -> bool {
        match &self.stages {
            Stages::Pass => false,
            Stages::Scrub(scrubber) | Stages::Decode(_, scrubber) => scrubber.altered(),
        }
    }

    /// Reads ahead until the body ends or more than `limit` bytes are waiting; whether it ended.
    pub(super) async fn read_ahead(&mut self, limit: usize) -> Result<bool, BodyError> {
        let mut waiting = 0;
        while !self.ended && waiting <= limit {
            std::future::poll_fn(|cx| self.poll_in_time(cx)).await?;
            waiting = self.ready.iter().map(Bytes::len).sum();
        }
        Ok(self.ended)
    }

    /// The bytes of a body that has ended.
    pub(super) fn gathered(&self) -> usize {
        self.ready.iter().map(Bytes::len).sum()
    }

    /// One piece more, or the end of the request's time.
    fn poll_in_time(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        if let Poll::Ready(moved) = self.poll_more(cx) {
            return Poll::Ready(moved);
        }
        let Some(deadline) = self.deadline else {
            return Poll::Pending;
        };
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        ready!(timer.as_mut().poll(cx));
        self.entry.broke_off(Refusal::UpstreamTimeout);
        Poll::Ready(Err(BodyError::TimedOut))
    }

    /// Takes one piece from the upstream through the stages.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        // What a decoder still holds comes first: it gives in bounded pieces, so that a bomb is never in memory.
        if let Stages::Decode(decoder, scrubber) = &mut self.stages {
            match decoder.pull() {
                Ok(Some(piece)) => {
                    let clean = scrubber.push(piece);
                    self.put(clean);
                    return Poll::Ready(Ok(()));
                }
                Ok(None) if self.drained => {
                    let last = scrubber.finish();
                    self.put(last);
                    self.end();
                    return Poll::Ready(Ok(()));
                }
                Ok(None) => {}
                Err(_) => {
                    self.entry.broke_off(Refusal::Undecodable);
                    return Poll::Ready(Err(BodyError::Undecodable));
                }
            }
        }
        match ready!(self.poll_incoming(cx)) {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    self.take(data);
                    // A body of known length is dropped with its last byte: nobody comes to ask for more.
                    if self.incoming.is_end_stream() {
                        self.finish();
                    }
                }
                Err(frame) => {
                    if let (Trailers::Keep(patterns, kept), Ok(fields)) =
                        (&mut self.trailers, frame.into_trailers())
                    {
                        *kept = Some(super::answer::clean_fields(fields, patterns.as_deref()));
                    }
                }
            },
            Some(Err(error)) => {
                self.entry.broke_off(Refusal::BadUpstream);
                return Poll::Ready(Err(BodyError::Source(error)));
            }
            None => self.finish(),
        }
        Poll::Ready(Ok(()))
    }

    /// The next frame of the upstream, whose connection is moved for it.
    fn poll_incoming(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut incoming = Pin::new(&mut self.incoming);
        match &mut self.connection {
            Some(connection) => connection.drive_for(cx, |cx| incoming.as_mut().poll_frame(cx)),
            None => incoming.poll_frame(cx),
        }
    }

    fn put(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.ready.push_back(bytes);
        }
    }

    fn take(&mut self, data: Bytes) {
        match &mut self.stages {
            Stages::Pass => self.put(data),
            Stages::Scrub(scrubber) => {
                let clean = scrubber.push(data);
                self.put(clean);
            }
            Stages::Decode(decoder, _) => decoder.push(data),
        }
    }

    fn finish(&mut self) {
        match &mut self.stages {
            Stages::Pass => self.end(),
            Stages::Scrub(scrubber) => {
                let last = scrubber.finish();
                self.put(last);
                self.end();
            }
            Stages::Decode(decoder, _) => {
                decoder.finish();
                self.drained = true;
            }
        }
    }

    /// The body is whole: its connection can serve another request.
    fn end(&mut self) {
        self.ended = true;
        self.upload = None;
        if let Some(connection) = self.connection.take() {
            connection.give_back();
        }
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            if self.is_cut_off() {
                // Nobody waits for what comes behind the slice: its connection goes with it.
                self.ready.clear();
                self.connection = None;
                self.upload = None;
                self.ended = true;
                return Poll::Ready(None);
            }
            if let Some(mut data) = self.ready.pop_front() {
                if let Some(cut) = &mut self.cut {
                    data = cut.of(data);
                    if data.is_empty() {
                        continue;
                    }
                }
                self.entry.down += data.len() as u64;
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            if self.ended {
                if let Trailers::Keep(_, kept) = &mut self.trailers {
                    return Poll::Ready(kept.take().map(|fields| Ok(Frame::trailers(fields))));
                }
                return Poll::Ready(None);
            }
            // Of a body that never rests; before its first piece the head has been in time.
            if (self.entry.down > 0 || self.cut.is_some())
                && self.deadline.is_some_and(|at| at < Instant::now())
            {
                self.entry.broke_off(Refusal::UpstreamTimeout);
                return Poll::Ready(Some(Err(BodyError::TimedOut)));
            }
            if let Err(error) = ready!(self.poll_in_time(cx)) {
                return Poll::Ready(Some(Err(error)));
            }
        }
    }

    /// Whether a slice of it has been passed on whole.
    fn is_cut_off(&self) -> bool {
        self.cut.is_some_and(|cut| cut.left() == 0)
    }

    fn is_end_stream(&self) -> bool {
        if self.is_cut_off() {
            return true;
        }
        let trailers = matches!(&self.trailers, Trailers::Keep(_, Some(_)));
        self.ready.is_empty() && !trailers && self.ended
    }

    fn size_hint(&self) -> SizeHint {
        if let Some(cut) = self.cut {
            return SizeHint::with_exact(cut.left());
        }
        match &self.stages {
            _ if self.ended => SizeHint::with_exact(self.gathered() as u64),
            // Masking keeps every length, so what is known of the upstream's body is known of ours.
            Stages::Pass | Stages::Scrub(_) if self.ready.is_empty() => self.incoming.size_hint(),
            Stages::Pass | Stages::Scrub(_) | Stages::Decode(..) => SizeHint::default(),
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.get_mut().0 {
            Inner::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Inner::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Inner::Up(up) => up.poll_frame(cx),
            Inner::Chunks(chunked) => chunked.poll_frame(cx),
            Inner::Answer(answer) => answer.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Full(bytes) => bytes.is_empty(),
            Inner::Up(up) => up.is_end_stream(),
            Inner::Chunks(chunked) => chunked.is_end_stream(),
            Inner::Answer(answer) => answer.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Inner::Up(up) => up.size_hint(),
            Inner::Chunks(chunked) => chunked.size_hint(),
            Inner::Answer(answer) => answer.size_hint(),
        }
    }
}
