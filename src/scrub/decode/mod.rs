//! Undoing `Content-Encoding`, so that what is scrubbed is what the agent reads.

mod coding;

use bytes::Bytes;

use coding::Coding;

/// Decodes a body as it comes: [`push`](Decoder::push) what came, then [`pull`](Decoder::pull) until there is no more.
/// Output is made a piece at a time, so that a small body that grows large never stands in memory; what a server
/// flushed comes out before more goes in.
#[derive(Debug)]
pub struct Decoder {
    /// The coding that was applied last stands first.
    stages: Vec<Stage>,
    /// Bytes that came over the wire.
    taken: u64,
    ended: bool,
}

/// Why a body cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// A coding that is not known here, or too many of them.
    #[error("the content coding is not known")]
    Unknown,
    /// The body is not what its coding says, or ends too early.
    #[error("the body does not hold to its content coding")]
    Corrupt,
    /// The body grows by more than [`RATIO`].
    #[error("the body grows too much when it is decoded")]
    Bomb,
}

/// The most that a body may grow, once it gave more than [`GRACE`]: just under what deflate can reach (1032).
pub const RATIO: u64 = 1000;
/// What a body may give in any case.
pub const GRACE: u64 = 1024 * 1024;
/// The largest piece that [`Decoder::pull`] gives.
pub const PIECE: usize = 64 * 1024;
/// The most codings that may be stacked (RFC 9110 §8.4 sets no bound).
const MOST: usize = 3;

#[derive(Debug)]
struct Stage {
    coding: Coding,
    input: Bytes,
    /// Nothing more comes to `input`.
    ended: bool,
    given: u64,
}

impl Decoder {
    /// A decoder for the values of `Content-Encoding`, in their order. `None` where nothing is to be decoded.
    pub fn new<'a>(values: impl IntoIterator<Item = &'a str>) -> Result<Option<Self>, DecodeError> {
        let mut stages = Vec::new();
        for name in values.into_iter().flat_map(|value| value.split(',')) {
            if let Some(coding) = Coding::named(name.trim_matches([' ', '\t']))? {
                stages.insert(0, Stage::new(coding));
            }
        }
        match stages.len() {
            0 => Ok(None),
            1..=MOST => Ok(Some(Self {
                stages,
                taken: 0,
                ended: false,
            })),
            _ => Err(DecodeError::Unknown),
        }
    }

    /// Takes a chunk of the body. Pull until there is no more before the next one.
    pub fn push(&mut self, chunk: Bytes) {
        self.taken += chunk.len() as u64;
        if let Some(first) = self.stages.first_mut() {
            first.put(chunk);
        }
    }

    /// Says that the body is at its end. Pull what is left; a body that was cut short shows there.
    pub fn finish(&mut self) {
        self.ended = true;
    }

    /// The next piece, of at most [`PIECE`] bytes; `None` when more has to come, or after the end.
    pub fn pull(&mut self) -> Result<Option<Bytes>, DecodeError> {
        let taken = self.taken;
        pull(&mut self.stages, self.ended, taken)
    }
}

/// Pulls from the last of `stages`; `ended` says whether the first gets no more.
fn pull(stages: &mut [Stage], ended: bool, taken: u64) -> Result<Option<Bytes>, DecodeError> {
    let Some((last, before)) = stages.split_last_mut() else {
        return Ok(None);
    };
    loop {
        if let Some(piece) = last.step(taken)? {
            return Ok(Some(piece));
        }
        if last.ended {
            return Ok(None);
        }
        match pull(before, ended, taken)? {
            Some(piece) => last.put(piece),
            None if ended => last.ended = true,
            None => return Ok(None),
        }
    }
}

impl Stage {
    fn new(coding: Coding) -> Self {
        Self {
            coding,
            input: Bytes::new(),
            ended: false,
            given: 0,
        }
    }

    fn put(&mut self, chunk: Bytes) {
        if self.input.is_empty() {
            self.input = chunk;
        } else {
            self.input = [&*self.input, &*chunk].concat().into();
        }
    }

    fn step(&mut self, taken: u64) -> Result<Option<Bytes>, DecodeError> {
        let piece = self.coding.step(&mut self.input, self.ended)?;
        self.given += piece.len() as u64;
        if self.given > GRACE && self.given / RATIO > taken {
            return Err(DecodeError::Bomb);
        }
        Ok(Some(piece)
            .filter(|piece| !piece.is_empty())
            .map(Bytes::from))
    }
}
