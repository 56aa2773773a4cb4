//! Scrubbing a stream: what is cut anywhere comes out as if it had come in one piece, and as long as it was.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use zeroize::Zeroize as _;

use super::patterns::{Findings, Thread, mask};
use super::watch::Watch;

/// Masks every hit in a stream with the same number of bytes, so that every length said elsewhere stays true. It holds
/// back nothing but an end of the input that is a proper beginning of some form, which is the memory it takes.
#[derive(Debug)]
pub struct Scrubber {
    watch: Watch,
    /// The end of the input that is not yet released.
    held: BytesMut,
    /// Hits that may yet come to be; offsets of `held`.
    open: Vec<Thread>,
    /// Hits of which some bytes are held; offsets of `held`.
    hits: Vec<Range<usize>>,
    altered: bool,
}

impl Scrubber {
    /// A scrubber at the beginning of a stream.
    pub fn new(watch: impl Into<Watch>) -> Self {
        Self {
            watch: watch.into(),
            held: BytesMut::new(),
            open: Vec::new(),
            hits: Vec::new(),
            altered: false,
        }
    }

    /// Takes `chunk`, and gives what may go on. A chunk without hits, while nothing is held, is given back as it is.
    pub fn push(&mut self, chunk: Bytes) -> Bytes {
        self.look();
        if self.watch.is_empty() {
            return chunk;
        }
        let mut found = Findings::default();
        if self.held.is_empty() {
            self.watch.scan(&chunk, 0, &mut found);
            if found.hits.is_empty() && found.open.is_empty() {
                return chunk;
            }
            return self.release_chunk(chunk, found);
        }
        let from = self.held.len();
        let mut both = BytesMut::with_capacity(from + chunk.len());
        both.extend_from_slice(&self.held);
        both.extend_from_slice(&chunk);
        self.held.as_mut().zeroize();
        self.held = both;
        found.hits = std::mem::take(&mut self.hits);
        self.watch.scan(&self.held, from, &mut found);
        let open = std::mem::take(&mut self.open);
        self.watch.follow(&self.held, open, &mut found);
        self.release(found)
    }

    /// Takes up what is to be searched for from now on, and searches what is held for it.
    pub(super) fn look(&mut self) {
        if self.watch.look() && !self.held.is_empty() {
            let mut found = Findings::default();
            self.watch.scan(&self.held, 0, &mut found);
            // Whatever was open began in what is held, and so is found again.
            self.open = found.open;
            self.hits.extend(found.hits);
        }
    }

    /// What is searched for.
    pub(super) fn watch(&self) -> &Watch {
        &self.watch
    }

    /// The end of the stream, or of a part after which nothing can go on (a message): gives all that is held; of a secret
    /// that is cut short there, no more than seven bytes. The scrubber is at a beginning again.
    pub fn finish(&mut self) -> Bytes {
        let mut found = Findings {
            hits: std::mem::take(&mut self.hits),
            open: std::mem::take(&mut self.open),
        };
        self.watch.end_of(self.held.len(), &mut found);
        self.release(found)
    }

    /// Whether anything was masked in what was given so far.
    pub fn altered(&self) -> bool {
        self.altered
    }

    /// How many bytes are held back.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Releases what may go of a chunk that nothing stands before; only what is held is copied, if there is no hit.
    fn release_chunk(&mut self, mut chunk: Bytes, found: Findings) -> Bytes {
        if found.hits.is_empty() {
            let kept = chunk.split_off(boundary(&found.open, chunk.len()));
            self.held = BytesMut::from(&*kept);
            self.keep(found, chunk.len());
            return chunk;
        }
        self.held = BytesMut::from(chunk);
        self.release(found)
    }

    fn release(&mut self, found: Findings) -> Bytes {
        let released = boundary(&found.open, self.held.len());
        let mut out = self.held.split_to(released);
        for hit in &found.hits {
            self.altered |= hit.start < released;
            mask(&mut out, hit.clone());
        }
        self.keep(found, released);
        out.freeze()
    }

    /// Keeps what was found of the bytes that are still held, now that `released` are not.
    fn keep(&mut self, found: Findings, released: usize) {
        self.open
            .extend(found.open.into_iter().map(|thread| thread.moved(released)));
        self.hits.extend(
            found
                .hits
                .into_iter()
                .filter(|hit| hit.end > released)
                .map(|hit| hit.start.saturating_sub(released)..hit.end - released),
        );
    }
}

impl Drop for Scrubber {
    /// What is held may be most of a secret.
    fn drop(&mut self) {
        self.held.as_mut().zeroize();
    }
}

/// Up to where a chunk may be released: where the earliest hit that may come to be starts.
fn boundary(open: &[Thread], len: usize) -> usize {
    open.iter().map(|thread| thread.start).min().unwrap_or(len)
}
