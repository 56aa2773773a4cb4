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
        assert_eq!([out, scrubber.finish()].concat(), chunk);
    }
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
