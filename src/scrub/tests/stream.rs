use proptest::prelude::*;

use super::*;

#[test]
fn a_chunk_without_a_hit_is_given_back_uncopied() {
    let mut scrubber = Scrubber::new(patterns(&[KEY]));
    let chunk = Bytes::from(vec![b'x'; 70_000]);
    let out = scrubber.push(chunk.clone());
    assert_eq!((out.as_ptr(), out.len()), (chunk.as_ptr(), chunk.len()));
    assert!(!scrubber.altered());
}

#[test]
fn an_event_is_released_whole_at_its_end() {
    let mut scrubber = Scrubber::new(patterns(&["sk-Qm7vX2pLr9TzWc4NdYb8"]));
    for event in [
        "data: {\"ask\":\"s\"}\n\n",
        "data: sk-Qm7v\n\n",
        "data: \\u00\n\n",
        ": %7\n\n",
        "data: 736b2d\n\n",
    ] {
        assert_eq!(scrubber.push(Bytes::from(event)), event.as_bytes());
        assert_eq!(scrubber.held(), 0);
    }
}

#[test]
fn only_a_beginning_of_a_form_is_held() {
    for (chunk, held) in [
        (&b"the task is ris"[..], 1),
        (b"the task is risk", 2),
        (b"the task is risky", 0),
        (b"sk-Qm7vX2pLr9TzWc4NdYb", 22),
        (b"x sk-Qm7v %", 1),
        (b"x sk-Qm7v%7", 2),
        (b"x sk-Qm7v%5", 9),
        (b"x%7", 2),
        (b"x%5", 0),
        (b"x\\u00", 4),
        (b"x\\u01", 0),
        (b"x&#0000", 6),
        (b"x&#12", 0),
        (b"x&", 1),
    ] {
        let mut scrubber = Scrubber::new(patterns(&["sk-Qm7vX2pLr9TzWc4NdYb8"]));
        let out = scrubber.push(Bytes::from(chunk));
        assert_eq!(scrubber.held(), held, "{}", String::from_utf8_lossy(chunk));
        // At the end, seven bytes of a secret and a begun escape are the most that is shown.
        let end = if held > 9 {
            vec![b'*'; held]
        } else {
            chunk[chunk.len() - held..].to_vec()
        };
        assert_eq!(out, chunk[..chunk.len() - held]);
        assert_eq!(scrubber.finish(), end);
    }
}

#[test]
fn an_echo_that_is_cut_short_shows_seven_bytes_at_most() {
    let secret = "sk-Qm7vX2pLr9TzWc4NdYb8";
    let patterns = patterns(&[secret]);
    for (name, form) in forms(secret) {
        // How many bytes of this form tell eight of the secret.
        let telling = match &*name {
            _ if name.starts_with("base64") => continue,
            _ if name.contains("hex") || name.starts_with("utf-16") => 16,
            "raw" => 8,
            _ => form.len() - 2,
        };
        for len in telling..form.len() {
            let input = [b"padding ", &form[..len]].concat();
            let masked = [&b"padding "[..], &vec![b'*'; len]].concat();
            let all: Vec<usize> = (0..input.len()).collect();
            assert_eq!(scrubbed(&patterns, &input, &[]), masked, "{name} {len}");
            assert_eq!(scrubbed(&patterns, &input, &all), masked, "{name} {len}");
            assert_eq!(patterns.scrub_value(&input), Some(masked), "{name} {len}");
        }
    }
    for text in ["padding sk-Qm7v", "736b2d516d3776", "sk-Qm7vX2pLr9TzWc."] {
        assert_eq!(scrubbed(&patterns, text.as_bytes(), &[]), text.as_bytes());
    }
    let echo = STANDARD.encode(secret);
    assert_eq!(scrubbed(&patterns, &echo.as_bytes()[..11], &[]), [b'*'; 11]);
    assert_eq!(
        patterns.scrub_value(b"sk-Qm7vX").as_deref(),
        Some(&[b'*'; 8][..])
    );
}

#[test]
fn overlapping_and_adjacent_hits_are_masked_whole() {
    let patterns = patterns(&["abcdefghijkl", "ghijklmnopqr", "cdefgh"]);
    for (input, out) in [
        ("-abcdefghijklmnopqr-", "-******************-"),
        ("-abcdefghijklabcdefghijkl-", "-************************-"),
        ("-abcdefghijkmnopqr-", "-ab******ijkmnopqr-"),
        ("ababcdefghijkl", "ab************"),
    ] {
        let all: Vec<usize> = (0..input.len()).collect();
        assert_eq!(scrubbed(&patterns, input.as_bytes(), &[]), out.as_bytes());
        assert_eq!(scrubbed(&patterns, input.as_bytes(), &all), out.as_bytes());
    }
}

#[test]
fn what_an_endless_beginning_holds_is_bounded() {
    let secret = "sk-Qm7vX2pLr9TzWc4NdYb8";
    let mut scrubber = Scrubber::new(patterns(&[secret]));
    for unit in [
        "sk-Qm7vX2pLr9TzWc4NdYb",
        "%73",
        "\\u0073\\u006b",
        "&#000000",
        "&#x00000073;",
        "ss",
    ] {
        for _ in 0..2000 {
            scrubber.push(Bytes::from(unit));
            assert!(scrubber.held() <= secret.len() * 16, "{unit}");
        }
        scrubber.finish();
    }
}

#[test]
fn a_finished_scrubber_is_at_a_beginning() {
    let mut scrubber = Scrubber::new(patterns(&["abcdefghijkl"]));
    assert_eq!(scrubber.push(Bytes::from("abcdef")), "");
    assert_eq!(scrubber.finish(), "abcdef");
    assert_eq!(scrubber.push(Bytes::from("ghijkl")), "ghijkl");
    assert!(!scrubber.altered());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Over an alphabet in which beginnings, overlaps and broken escapes abound.
    #[test]
    fn any_cuts_give_what_one_piece_gives(
        input in prop::collection::vec(prop::sample::select(vec![
            "a", "b", "%", "6", "1", "%61", "\\", "u", "\\u0061", "&#", "97;", "&#x61;", "0", "\\\\", "%25", "&amp;", "YWJh", "FiYW", "hYmFi", "abab",
        ]), 0..60),
        cuts in prop::collection::vec(0usize..200, 0..12),
    ) {
        let patterns = patterns(&["ababaab", "a%61b\\a", "&aab", "bbaabb%"]);
        let input = input.concat();
        let mut cuts = cuts;
        cuts.sort_unstable();
        let out = scrubbed(&patterns, input.as_bytes(), &cuts);
        prop_assert_eq!(out, scrubbed(&patterns, input.as_bytes(), &[]));
    }
}

/// A source that has nothing at first, and then `more`.
struct Later {
    mark: std::sync::atomic::AtomicU64,
    first: Arc<Patterns>,
    more: Arc<Patterns>,
}

impl Source for Later {
    fn mark(&self) -> u64 {
        self.mark.load(std::sync::atomic::Ordering::SeqCst)
    }

    fn patterns(&self) -> Arc<Patterns> {
        Arc::clone(if self.mark() == 0 {
            &self.first
        } else {
            &self.more
        })
    }
}

impl Later {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            mark: 0.into(),
            first: patterns(&["first-secret-0123"]),
            more: patterns(&["first-other-secret"]),
        })
    }

    fn watch(self: &Arc<Self>) -> Watch {
        Watch::new(Arc::clone(&self.first), self.clone(), 0)
    }

    fn comes(&self) {
        self.mark.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }
}

#[test]
fn what_comes_while_a_stream_lasts_is_masked_beside_what_was_there() {
    let later = Later::new();
    let mut scrubber = Scrubber::new(later.watch());
    let mut out = Vec::new();
    let mut say = |scrubber: &mut Scrubber, text: &'static str| {
        out.extend(scrubber.push(Bytes::from(text)));
    };
    say(&mut scrubber, "first-other-secret is nobody's yet; ");
    say(&mut scrubber, "first-secret-0123 first-");
    later.comes();
    // What was held when it came may go on as either.
    say(&mut scrubber, "other-secret first-");
    later.comes();
    say(&mut scrubber, "secret-0123 first-other-");
    say(&mut scrubber, "secret");
    out.extend(scrubber.finish());
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "first-other-secret is nobody's yet; \
         ***************** ****************** ***************** ******************"
    );
}

#[test]
fn a_websocket_is_searched_for_what_comes_while_it_lasts() {
    let later = Later::new();
    let mut scrubber = crate::scrub::WebSocketScrubber::new(later.watch());
    let frame = |first: u8, text: &str| {
        let mut frame = vec![first, u8::try_from(text.len()).unwrap()];
        frame.extend(text.bytes());
        Bytes::from(frame)
    };
    let plain = frame(0x81, "first-other-secret");
    assert_eq!(scrubber.push(plain.clone()).unwrap(), plain);
    later.comes();
    for first in [0x81, 0x89] {
        let out = scrubber.push(frame(first, "first-other-secret")).unwrap();
        assert_eq!(out, frame(first, "******************"));
        let out = scrubber.push(frame(first, "first-secret-0123")).unwrap();
        assert_eq!(out, frame(first, "*****************"));
    }
}
