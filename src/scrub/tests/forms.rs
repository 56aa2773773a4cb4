use proptest::prelude::*;

use super::*;

#[test]
fn a_secret_is_found_in_every_form_and_its_length_stays() {
    let patterns = patterns(&[KEY]);
    for (name, form) in forms(KEY) {
        let input = [b"before \x00", &*form, b"\x00 after"].concat();
        let out = scrubbed(&patterns, &input, &[]);
        assert_eq!(out.len(), input.len(), "{name}");
        if name.starts_with("base64") {
            assert!(
                !leaks(&out, &form[7..]),
                "{name}: {}",
                String::from_utf8_lossy(&out)
            );
        } else {
            let hit = &out[8..8 + form.len()];
            assert!(
                hit.iter().all(|&byte| byte == b'*'),
                "{name}: {}",
                String::from_utf8_lossy(&out)
            );
        }
        assert!(
            out.starts_with(b"before \x00") && out.ends_with(b"\x00 after"),
            "{name}"
        );
    }
}

#[test]
fn a_secret_is_found_in_every_form_at_every_cut() {
    let patterns = patterns(&[KEY]);
    for (name, form) in forms(KEY) {
        let input = [b" <", &*form, b"> "].concat();
        let whole = scrubbed(&patterns, &input, &[]);
        for cut in 0..input.len() {
            assert_eq!(
                scrubbed(&patterns, &input, &[cut]),
                whole,
                "{name} cut at {cut}"
            );
        }
        let each: Vec<usize> = (0..input.len()).collect();
        assert_eq!(
            scrubbed(&patterns, &input, &each),
            whole,
            "{name} byte by byte"
        );
    }
}

#[test]
fn a_value_is_scrubbed_as_a_stream_is() {
    let patterns = patterns(&[KEY]);
    for (name, form) in forms(KEY) {
        let value = patterns.scrub_value(&form).expect(&name);
        assert_eq!(value, scrubbed(&patterns, &form, &[]), "{name}");
    }
    assert_eq!(
        patterns.scrub_value(b"application/json; charset=utf-8"),
        None
    );
    assert_eq!(patterns.scrub_value(b""), None);
}

#[test]
fn a_name_holds_a_secret_in_any_case() {
    let patterns = patterns(&["sk-Qm7vX2pLr9TzWc4NdYb8"]);
    let encoded = STANDARD_NO_PAD.encode("u:sk-Qm7vX2pLr9TzWc4NdYb8");
    for name in [
        "x-sk-qm7vx2plr9tzwc4ndyb8-y",
        "sk-%51m7vx2plr9tzwc4ndyb8",
        "SK-QM7VX2PLR9TZWC4NDYB8",
        "sk-Qm7vX2pLr9TzWc4NdYb8",
        "x%73k-qm7vx2plr9tzwc4ndyb8",
        "x-736B2D516d37765832704c7239547a5763344e64596238",
        encoded.to_ascii_lowercase().as_str(),
    ] {
        assert!(patterns.is_in_name(name.as_bytes()), "{name}");
    }
    for name in ["", "content-type", "x-sk-qm7vx2plr9tzwc4ndyb9-y"] {
        assert!(!patterns.is_in_name(name.as_bytes()), "{name}");
    }
}

#[test]
fn a_percent_encoded_grpc_message_is_masked() {
    let patterns = patterns(&["hunter2-hunter2%"]);
    assert_eq!(
        patterns
            .scrub_value(b"bad token hunter2-hunter2%25!")
            .as_deref(),
        Some(&b"bad token ******************!"[..])
    );
}

#[test]
fn bytes_that_are_no_text_are_found_too() {
    let secret = Secret::new(vec![
        0xff, 0xfe, 0x00, 0x81, 0xc3, 0x28, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06,
    ]);
    let patterns = Arc::new(Patterns::compile([&secret]));
    let percent: String = secret
        .expose()
        .iter()
        .map(|byte| format!("%{byte:02x}"))
        .collect();
    let json: String = secret
        .expose()
        .iter()
        .map(|byte| format!("\\u{byte:04x}"))
        .collect();
    for form in [secret.expose(), percent.as_bytes(), json.as_bytes()] {
        assert_eq!(scrubbed(&patterns, form, &[3]), vec![b'*'; form.len()]);
    }
}

#[test]
fn a_key_of_several_lines_is_found_in_json() {
    let patterns = patterns(&["-----BEGIN KEY-----\nMIIabc/def\r\n-----END KEY-----\n"]);
    let form = b"-----BEGIN KEY-----\\nMIIabc\\/def\\r\\n-----END KEY-----\\n";
    assert_eq!(scrubbed(&patterns, form, &[20]), vec![b'*'; form.len()]);
}

#[test]
fn near_misses_and_other_text_stay() {
    let patterns = patterns(&["sk-Qm7vX2pLr9TzWc4NdYb8", "ghp_0123456789abcdefghij"]);
    for text in [
        &b"sk-Qm7vX2pLr9TzWc4NdYb9"[..],
        b"Sk-Qm7vX2pLr9TzWc4NdYb8",
        b"sk-Qm7vX2pLr9TzWc4NdYb",
        b"k-Qm7vX2pLr9TzWc4NdYb8",
        b"sk-Qm7vX2pLr9TzWc 4NdYb8",
        b"%73%6b-Qm7vX2pLr9TzWc4NdYb%39",
        b"\\u0073k-Qm7vX2pLr9TzWc4NdYb\\u0039",
        b"&#115;k-Qm7vX2pLr9TzWc4NdYb&#56",
        b"&#000000000115;k-Qm7vX2pLr9TzWc4NdYb8",
        b"ghp_ghp_ghp_0123456789abcdefghi",
        b"%%%%%%%%%%\\u\\u\\u\\u00\\u00&#&#&#x&#x0&#0;;;&amp&",
        b"{\"id\":\"chatcmpl-1\",\"text\":\"the task is \\\"risky\\\"\\n\",\"q\":\"a%20b&amp;c\"}",
        b"c2stUW03dlgycExyOVR6V2M0TmRZ",
    ] {
        // Something follows: a beginning at the very end is masked.
        let text = [text, b"."].concat();
        let all: Vec<usize> = (0..text.len()).collect();
        assert_eq!(scrubbed(&patterns, &text, &[]), text);
        assert_eq!(scrubbed(&patterns, &text, &all), text);
    }
}

#[test]
fn short_and_repeating_secrets_break_nothing() {
    for secret in [
        "",
        "a",
        "abc",
        "aaaa",
        "%25%25%25%25%25",
        "&&&&&&&&",
        "\\\\\\\\\\\\",
        "++++",
        "aaaaaaaaaaaaaaaab",
    ] {
        let patterns = patterns(&[secret]);
        assert_eq!(patterns.is_empty(), secret.len() < 4);
        let input = [secret, secret, "--", secret].concat();
        let out = scrubbed(&patterns, input.as_bytes(), &[1, 2, 5]);
        assert_eq!(out, scrubbed(&patterns, input.as_bytes(), &[]));
        if secret.len() >= 4 {
            assert!(
                out.iter().all(|&byte| byte == b'*' || byte == b'-'),
                "{secret}"
            );
        }
    }
}

#[test]
fn two_readings_of_one_input_do_not_multiply() {
    let patterns = patterns(&[&"%25".repeat(12), &"\\\\".repeat(12)]);
    for input in ["%25".repeat(60), "\\".repeat(180)] {
        let out = scrubbed(&patterns, input.as_bytes(), &[77]);
        assert_eq!(out, vec![b'*'; input.len()]);
    }
}

/// The worst that these cost is a fraction of the bound, unoptimised; two readings that multiplied would not end.
#[test]
fn a_secret_that_overlaps_itself_costs_no_more_than_its_length_a_byte() {
    for unit in ["%25", "\\", "%", "&amp;", "&#38;", "a", "\\u005c", "33%"] {
        let begun = std::time::Instant::now();
        let secret = unit.repeat(240 / unit.len());
        let patterns = patterns(&[&secret]);
        let input = unit.repeat(2_400 / unit.len());
        let cuts: Vec<usize> = (0..8).map(|cut| 300 + 197 * cut).collect();
        let out = scrubbed(&patterns, input.as_bytes(), &cuts);
        assert!(out.iter().all(|&byte| byte == b'*'), "{unit}");
        let almost = format!("{}!", unit.repeat(240 / unit.len() - 1)).repeat(6);
        let out = scrubbed(&patterns, almost.as_bytes(), &cuts);
        assert_eq!(out, almost.as_bytes(), "{unit}");
        assert!(
            begun.elapsed().as_secs() < 60,
            "{unit}: {:?}",
            begun.elapsed()
        );
    }
}

/// Long enough that it is read in several lanes, and that the automaton forgets.
#[test]
fn a_secret_in_a_dense_place_is_found_wherever_it_stands() {
    let secrets = ["sk-Qm7vX2pLr9TzWc4NdYb8", "%25a&b\\c%2525a&b"];
    let patterns = patterns(&secrets);
    for unit in [
        "sk-Qm7v",
        "%73%6b",
        "\\u00",
        "%25a&",
        "&#115;&#0",
        "736b2d5",
    ] {
        for secret in secrets {
            for at in (0..9_000).step_by(439) {
                let before: Vec<u8> = unit.bytes().cycle().take(at).chain([0]).collect();
                let after: Vec<u8> = [0]
                    .into_iter()
                    .chain(unit.bytes().cycle().take(9_000 - at))
                    .collect();
                let form = escaped(secret, |index| (at + index * at) % 10);
                let out = scrubbed(&patterns, &[&*before, &form, &after].concat(), &[]);
                assert_eq!(
                    out,
                    [&*before, &vec![b'*'; form.len()], &after].concat(),
                    "{unit} {at}"
                );
            }
        }
    }
}

#[test]
fn a_union_finds_what_its_parts_find() {
    let parts = [
        patterns(&["first-secret-1"]),
        patterns(&["second-secret-2"]),
        patterns(&["first-secret-1"]),
    ];
    let union = Patterns::union(&parts);
    let out = scrubbed(&union, b"first-secret-1 second-secret-2", &[7]);
    assert_eq!(out, b"************** ***************");
    assert!(Arc::ptr_eq(&Patterns::union(&parts[..1]), &parts[0]));
    assert!(Patterns::union(&[] as &[Arc<Patterns>]).is_empty());
}

#[test]
fn many_secrets_are_found_as_few_are() {
    let secrets: Vec<String> = (0..40)
        .map(|n| format!("{}-secret-{n:02}", n * 7919))
        .collect();
    let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
    let patterns = patterns(&secrets);
    for secret in secrets {
        let input = format!(
            "a quite long beginning of some answer {secret} and its end, which is long too"
        );
        let out = scrubbed(&patterns, input.as_bytes(), &[40]);
        assert_eq!(
            out,
            input
                .replace(secret, &"*".repeat(secret.len()))
                .into_bytes()
        );
    }
}

#[test]
fn nothing_of_a_secret_is_printed() {
    let scrubber = Scrubber::new(patterns(&["hunter2-hunter2"]));
    assert!(!format!("{scrubber:?}").contains("hunter"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_characters_may_be_escaped_in_any_way(
        secret in "[ -~éß€😀]{12,40}",
        picks in prop::collection::vec(0usize..13, 40),
        before in "[ -~]{0,20}",
        after in "[ -~]{0,20}",
        cuts in prop::collection::vec(0usize..400, 0..6),
    ) {
        let patterns = patterns(&[&secret]);
        let form = escaped(&secret, |at| picks[at]);
        let input = [before.as_bytes(), &form, after.as_bytes()].concat();
        let mut cuts = cuts;
        cuts.sort_unstable();
        let out = scrubbed(&patterns, &input, &cuts);
        prop_assert_eq!(&out, &scrubbed(&patterns, &input, &[]));
        let hit = &out[before.len()..before.len() + form.len()];
        prop_assert!(hit.iter().all(|&byte| byte == b'*'), "{}", String::from_utf8_lossy(&out));
    }

    #[test]
    fn any_bytes_are_found_in_base64_and_hex(
        secret in prop::collection::vec(any::<u8>(), 12..60),
        before in prop::collection::vec(any::<u8>(), 0..9),
        after in prop::collection::vec(any::<u8>(), 0..9),
        cut in 0usize..100,
    ) {
        let patterns = Arc::new(Patterns::compile([&Secret::new(secret.clone())]));
        let text = [&*before, &*secret, &*after].concat();
        for engine in [&STANDARD, &URL_SAFE_NO_PAD] {
            let encoded = engine.encode(&text).into_bytes();
            let out = scrubbed(&patterns, &encoded, &[cut]);
            prop_assert_eq!(&out, &scrubbed(&patterns, &encoded, &[]));
            let from = (before.len() * 8).div_ceil(6);
            let to = (before.len() + secret.len()) * 8 / 6;
            prop_assert!(out[from..to].iter().all(|&byte| byte == b'*'));
            prop_assert_eq!(&out[..from], &encoded[..from]);
            prop_assert_eq!(&out[to..], &encoded[to..]);
        }
    }
}
