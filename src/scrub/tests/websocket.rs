use proptest::prelude::*;

use super::*;
use crate::scrub::{WebSocketError, WebSocketScrubber};

const TOKEN: &str = "sk-Qm7vX2pLr9TzWc4NdYb8";

fn frame(first: u8, payload: &[u8], key: Option<[u8; 4]>) -> Vec<u8> {
    let mut out = vec![first];
    let masked = if key.is_some() { 0x80 } else { 0 };
    match payload.len() {
        len @ 0..=125 => out.push(masked | len as u8),
        len @ 126..=0xffff => {
            out.push(masked | 126);
            out.extend((len as u16).to_be_bytes());
        }
        len => {
            out.push(masked | 127);
            out.extend((len as u64).to_be_bytes());
        }
    }
    let key = key.inspect(|key| out.extend(key)).unwrap_or_default();
    out.extend(
        payload
            .iter()
            .zip(key.iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
    out
}

fn pass(wire: &[u8], cuts: &[usize]) -> Result<Vec<u8>, WebSocketError> {
    let mut scrubber = WebSocketScrubber::new(patterns(&[TOKEN]));
    let mut out = Vec::new();
    let mut from = 0;
    for &cut in cuts.iter().chain([&wire.len()]) {
        let cut = cut.clamp(from, wire.len());
        out.extend(scrubber.push(Bytes::copy_from_slice(&wire[from..cut]))?);
        from = cut;
    }
    out.extend(scrubber.finish());
    assert_eq!(scrubber.altered(), out != wire);
    Ok(out)
}

#[test]
fn a_secret_in_a_message_is_masked_and_the_framing_stays() {
    for len in [0, 90, 200, 70_000] {
        for key in [None, Some([1, 2, 3, 250])] {
            let text = format!("{}{TOKEN}!", "x".repeat(len));
            let masked = text.replace(TOKEN, &"*".repeat(TOKEN.len()));
            let out = pass(&frame(0x81, text.as_bytes(), key), &[5, 11, 30]).unwrap();
            assert_eq!(out, frame(0x81, masked.as_bytes(), key));
        }
    }
}

#[test]
fn a_secret_over_fragments_with_a_ping_between_is_masked_at_every_split() {
    let stars = "*".repeat(TOKEN.len());
    for split in 0..=TOKEN.len() {
        for key in [None, Some([9, 8, 7, 6])] {
            let wire = |text: &str| {
                [
                    frame(0x01, &text.as_bytes()[..split], key),
                    frame(0x89, b"ping", None),
                    frame(0x00, b"", key),
                    frame(0x80, &text.as_bytes()[split..], key),
                ]
                .concat()
            };
            let input = wire(TOKEN);
            let all: Vec<usize> = (0..input.len()).collect();
            assert_eq!(pass(&input, &[]).unwrap(), wire(&stars));
            assert_eq!(pass(&input, &all).unwrap(), wire(&stars));
        }
    }
}

#[test]
fn control_payloads_are_scrubbed_and_a_close_keeps_its_code() {
    let stars = "*".repeat(TOKEN.len());
    let close = |text: &str| frame(0x88, &[&[3, 232], text.as_bytes()].concat(), None);
    assert_eq!(pass(&close(TOKEN), &[4]).unwrap(), close(&stars));
    let ping = |text: &str| frame(0x89, text.as_bytes(), Some([5; 4]));
    assert_eq!(pass(&ping(TOKEN), &[9]).unwrap(), ping(&stars));
}

#[test]
fn a_close_whose_code_begins_the_secret_is_masked_whole() {
    let close = |text: &str| frame(0x88, text.as_bytes(), Some([7, 0, 1, 2]));
    let stars = "*".repeat(TOKEN.len());
    assert_eq!(pass(&close(TOKEN), &[]).unwrap(), close(&stars));
}

#[test]
fn a_message_that_ends_within_the_secret_is_masked() {
    let wire = |text: &str| [frame(0x01, text.as_bytes(), None), frame(0x80, b"", None)].concat();
    let stars = "*".repeat(TOKEN.len() - 1);
    let cut = &TOKEN[..TOKEN.len() - 1];
    assert_eq!(pass(&wire(cut), &[5]).unwrap(), wire(&stars));
    assert_eq!(pass(&wire(&TOKEN[..7]), &[5]).unwrap(), wire(&TOKEN[..7]));
}

#[test]
fn what_waits_is_bounded() {
    for fragments in [
        frame(0x00, b"", None),
        [frame(0x00, b"", None), frame(0x8a, b"pong", None)].concat(),
    ] {
        let begun = frame(0x01, &TOKEN.as_bytes()[..1], None);
        let few = [&*begun, &fragments.repeat(100)].concat();
        assert_eq!(pass(&few, &[3]).unwrap(), few);
        let many = [&*begun, &fragments.repeat(10_000)].concat();
        assert_eq!(pass(&many, &[3]), Err(WebSocketError::Fragments));
    }
    // One frame that comes a byte at a time is one part of what waits.
    let long = "sk-Qm7vX2pLr9TzWc4NdYb8".repeat(200);
    let wire = frame(0x81, long.as_bytes(), Some([1, 2, 3, 4]));
    let mut scrubber = WebSocketScrubber::new(patterns(&[&long]));
    let mut out = Vec::new();
    for byte in wire {
        out.extend(scrubber.push(Bytes::from(vec![byte])).unwrap());
    }
    let stars = "*".repeat(long.len());
    assert_eq!(out, frame(0x81, stars.as_bytes(), Some([1, 2, 3, 4])));
}

#[test]
fn a_complete_message_is_released_at_once() {
    let mut scrubber = WebSocketScrubber::new(patterns(&[TOKEN]));
    let wire = Bytes::from(frame(0x81, &TOKEN.as_bytes()[..7], None));
    let out = scrubber.push(wire.clone()).unwrap();
    assert_eq!((out.as_ptr(), &out), (wire.as_ptr(), &wire));
    let fragment = frame(0x01, b"half sk-Qm", None);
    let out = scrubber.push(fragment.clone().into()).unwrap();
    assert_eq!(out, fragment[..fragment.len() - 5]);
    let end = frame(0x80, b"", None);
    assert_eq!(
        scrubber.push(end.clone().into()).unwrap(),
        [b"sk-Qm", &*end].concat()
    );
    let next = frame(0x82, &TOKEN.as_bytes()[5..], None);
    assert_eq!(
        scrubber.push(next.clone().into()).unwrap(),
        next,
        "messages do not join"
    );
}

#[test]
fn a_frame_that_may_not_be_is_an_error() {
    let text = frame(0x01, b"a", None);
    for (wire, error) in [
        (frame(0xc1, b"a", None), WebSocketError::Extension),
        (frame(0x91, b"a", None), WebSocketError::Extension),
        (frame(0x83, b"a", None), WebSocketError::Extension),
        (frame(0x8b, b"a", None), WebSocketError::Extension),
        (frame(0x80, b"a", None), WebSocketError::Malformed),
        (frame(0x09, b"a", None), WebSocketError::Malformed),
        (frame(0x89, &[0; 126], None), WebSocketError::Malformed),
        (vec![0x81, 126, 0, 5], WebSocketError::Malformed),
        (
            vec![0x81, 127, 0, 0, 0, 0, 0, 0, 1, 0],
            WebSocketError::Malformed,
        ),
        (
            vec![0x81, 127, 128, 0, 0, 0, 0, 0, 0, 0],
            WebSocketError::Malformed,
        ),
        ([&*text, &*text].concat(), WebSocketError::Malformed),
        (frame(0x88, b"", None).repeat(2), WebSocketError::Malformed),
    ] {
        assert_eq!(pass(&wire, &[]), Err(error), "{wire:?}");
    }
}

proptest! {
    #[test]
    fn any_cuts_give_what_one_piece_gives(
        texts in prop::collection::vec(prop::sample::select(vec!["", "a", "sk-Qm7v", "X2pLr9TzWc4NdYb8", "sk-Qm7vX2pLr9TzWc4NdYb8", "%73k-Qm7v"]), 1..8),
        masked in any::<bool>(),
        pings in any::<u8>(),
        cuts in prop::collection::vec(0usize..120, 0..8),
    ) {
        let key = masked.then_some([1, 99, 3, 4]);
        let mut wire = Vec::new();
        for (at, text) in texts.iter().enumerate() {
            let first = u8::from(at == 0) | if at + 1 == texts.len() { 0x80 } else { 0 };
            wire.extend(frame(first, text.as_bytes(), key));
            if pings >> at & 1 == 1 {
                wire.extend(frame(0x8a, text.as_bytes(), key));
            }
        }
        let mut cuts = cuts;
        cuts.sort_unstable();
        let out = pass(&wire, &cuts).unwrap();
        prop_assert_eq!(&out, &pass(&wire, &[]).unwrap());
        prop_assert_eq!(out.len(), wire.len());
    }
}
