//! The scrubber: any cut of a stream comes out as the whole does, as long as it went in, and without the secret.
#![no_main]

use std::sync::Arc;

use bytes::Bytes;
use keyward::scrub::{Patterns, Scrubber};
use keyward::secret::Secret;
use libfuzzer_sys::fuzz_target;

/// With what escapes and base64 treat differently.
const SECRET: &[u8] = b"kw+c&n\"ary/0%u<\\aa";

fn through(patterns: &Arc<Patterns>, input: &[u8], cuts: &[u8]) -> Vec<u8> {
    let mut scrubber = Scrubber::new(Arc::clone(patterns));
    let mut out = Vec::new();
    let mut rest = input;
    for cut in cuts {
        let (piece, after) = rest.split_at(usize::from(*cut).min(rest.len()));
        out.extend_from_slice(&scrubber.push(Bytes::copy_from_slice(piece)));
        rest = after;
    }
    out.extend_from_slice(&scrubber.push(Bytes::copy_from_slice(rest)));
    out.extend_from_slice(&scrubber.finish());
    out
}

fuzz_target!(|parts: (&[u8], &[u8], bool)| {
    let (cuts, input, planted) = parts;
    let patterns = Arc::new(Patterns::compile([&Secret::new(SECRET.to_vec())]));
    let mut input = input.to_vec();
    if planted {
        let middle = input.len() / 2;
        input.splice(middle..middle, SECRET.iter().copied());
    }
    let whole = through(&patterns, &input, &[]);
    assert_eq!(whole.len(), input.len());
    assert_eq!(through(&patterns, &input, cuts), whole, "cut as {cuts:?}");
    assert!(!whole.windows(SECRET.len()).any(|window| window == SECRET));
    let value = patterns.scrub_value(&input);
    assert_eq!(value.unwrap_or(input), whole);
});
