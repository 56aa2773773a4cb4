//! What scrubbing costs: GB/s on benign and on hostile answers, and the price of compiling a secret.
//!
//! `cargo bench --bench scrub`. Each figure is the best of several runs, so that a busy machine shows less.
#![expect(
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "a bench prints figures, and may panic"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use keyward::scrub::{Patterns, Scrubber};
use keyward::secret::Secret;

const CHUNK: usize = 64 * 1024;
const ROUNDS: u32 = 64;

fn main() {
    let token = b"sk-Qm7vX2pLr9TzWc4NdYb8KfHs3GjUe6Aa1VoR".to_vec();
    let jwt = {
        let mut jwt = b"eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.".to_vec();
        jwt.extend(letters(1500 - jwt.len(), 7));
        jwt
    };
    for (name, secrets) in [
        ("one key of 40 bytes", vec![token.clone()]),
        ("one JWT of 1,500 bytes", vec![jwt.clone()]),
        (
            "four keys",
            (0..4u8)
                .map(|seed| letters(40, u64::from(seed) + 90))
                .collect(),
        ),
    ] {
        let secrets: Vec<Secret> = secrets.into_iter().map(Secret::new).collect();
        compile(name, &secrets);
        let patterns = Arc::new(Patterns::compile(&secrets));
        let first = secrets.first().map(Secret::expose).unwrap_or_default();
        for (input, unit) in benign().into_iter().chain(hostile(first)) {
            measure(&patterns, input, &unit);
        }
    }
}

fn benign() -> Vec<(&'static str, Vec<u8>)> {
    let json = br#"{"id":"chatcmpl-9x","object":"chat.completion.chunk","created":1731,"model":"m","choices":[{"index":0,"delta":{"content":" the task is \"risky\",\n so ask"},"finish_reason":null}]}"#;
    let text = b"It was the best of times, it was the worst of times, it was the age of wisdom, 100% of it. ";
    let hex = b"8f14e45fceea167a5a36dedd4bea2543c9f0f895fb98ab9159f51fd0297e236d\n";
    vec![
        ("json", json.to_vec()),
        ("text", text.to_vec()),
        ("random", random(CHUNK, 3)),
        ("base64", letters(CHUNK, 4)),
        ("hex", hex.to_vec()),
    ]
}

fn hostile(secret: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let each = |write: fn(&u8) -> String| -> Vec<u8> {
        let almost = secret.split_last().map_or(secret, |(_, rest)| rest);
        almost.iter().map(write).collect::<String>().into_bytes()
    };
    let head = |len: usize| secret.get(..len).unwrap_or_default().to_vec();
    vec![
        ("all but the last byte", each(|&b| char::from(b).into())),
        ("its first 4 bytes", head(4)),
        ("its first 8 bytes", head(8)),
        ("%", b"%".to_vec()),
        (
            "%XX of its first",
            each(|b| format!("%{b:02x}")).into_iter().take(3).collect(),
        ),
        ("%XX of all but one", each(|b| format!("%{b:02X}"))),
        ("\\u00", b"\\u00".to_vec()),
        (
            "\\u00XX of its first",
            each(|b| format!("\\u{b:04x}"))
                .into_iter()
                .take(6)
                .collect(),
        ),
        ("\\u00XX of all but one", each(|b| format!("\\u{b:04x}"))),
        ("&#", b"&#".to_vec()),
        ("&#0", b"&#0".to_vec()),
        ("&#DD; of all but one", each(|b| format!("&#{b};"))),
        ("hex of all but one", each(|b| format!("{b:02x}"))),
    ]
}

fn measure(patterns: &Arc<Patterns>, name: &str, unit: &[u8]) {
    let chunk: Vec<u8> = unit.iter().copied().cycle().take(CHUNK).collect();
    let chunk = Bytes::from(chunk);
    let best = best_of(|| {
        let mut scrubber = Scrubber::new(Arc::clone(patterns));
        for _ in 0..ROUNDS {
            black_box(scrubber.push(chunk.clone()));
        }
        assert!(!scrubber.altered(), "{name} holds no secret");
    });
    let bytes = f64::from(ROUNDS) * CHUNK as f64;
    println!("  {:6.2} GB/s  {name}", bytes / best.as_secs_f64() / 1e9);
}

fn compile(name: &str, secrets: &[Secret]) {
    let best = best_of(|| {
        black_box(Patterns::compile(black_box(secrets)));
    });
    let patterns = Patterns::compile(secrets);
    println!(
        "{name}: compiled in {:.0} us, {} KiB",
        best.as_secs_f64() * 1e6,
        patterns.size() / 1024
    );
}

fn best_of(mut run: impl FnMut()) -> Duration {
    (0..9)
        .map(|_| {
            let begun = Instant::now();
            run();
            begun.elapsed()
        })
        .min()
        .unwrap_or_default()
}

fn random(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[4]
        })
        .collect()
}

fn letters(len: usize, seed: u64) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-";
    random(len, seed)
        .into_iter()
        .map(|byte| ALPHABET[usize::from(byte & 63)])
        .collect()
}
