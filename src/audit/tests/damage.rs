//! What was done to a trail: edited, cut, moved, torn.

use super::*;

#[test]
fn a_thousand_edited_bytes_and_a_thousand_cut_ends_are_all_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    trail(&path, 20);
    let whole = std::fs::read(&path).unwrap();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 1000,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let places = (0..whole.len(), 1..=255_u8);
    runner
        .run(&places, |(place, flip)| {
            let mut edited = whole.clone();
            edited[place] ^= flip;
            std::fs::write(&path, &edited).unwrap();
            prop_assert!(!check(&path).ok, "byte {place} flipped by {flip}");
            std::fs::write(&path, &whole[..place]).unwrap();
            prop_assert!(!check(&path).ok, "cut at {place}");
            Ok(())
        })
        .unwrap();
    std::fs::write(&path, &whole).unwrap();
    assert!(check(&path).ok);
}

#[test]
fn a_line_taken_out_doubled_or_moved_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    trail(&path, 5);
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let with = |edit: &dyn Fn(&mut Vec<&str>)| {
        let mut lines = lines.clone();
        edit(&mut lines);
        std::fs::write(&path, lines.concat()).unwrap();
        check(&path)
    };
    let gone = with(&|lines| {
        lines.remove(4);
    });
    assert_eq!(kinds(&gone), [FaultKind::Missing]);
    assert_eq!(gone.faults[0].place.line, 5);
    assert_eq!(gone.faults[0].detail, "records 5 to 5 are missing");
    assert_eq!(
        kinds(&with(&|lines| lines.insert(4, lines[3]))),
        [FaultKind::Order]
    );
    assert!(!with(&|lines| lines.swap(3, 4)).ok);
    let cut = with(&|lines| lines.truncate(7));
    assert_eq!(kinds(&cut), [FaultKind::Checkpoint]);
    assert!(with(&|_| {}).ok);
}

#[test]
fn a_chain_written_anew_is_not_what_was_signed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    trail(&path, 5);
    let forged = dir.path().join("forged.jsonl");
    trail(&forged, 5);
    assert!(check(&forged).ok);
    std::fs::copy(&forged, &path).unwrap();
    assert_eq!(kinds(&check(&path)), [FaultKind::Checkpoint]);
    // With his own key beside it the forger passes, unless the reader knows the right one.
    let right = check(&path).keys[0].clone();
    std::fs::copy(
        dir.path().join("forged.checkpoints"),
        dir.path().join("audit.checkpoints"),
    )
    .unwrap();
    assert!(check(&path).ok);
    let options = Options {
        key: Some(right),
        ..Options::default()
    };
    let pinned = verify(std::slice::from_ref(&path), &options).unwrap();
    assert_eq!(kinds(&pinned), [FaultKind::Checkpoint]);
}

#[test]
fn a_torn_end_is_kept_told_by_the_next_start_and_accepted_only_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let fresh = dir.path().join("fresh.jsonl");
    trail(&fresh, 3);
    let whole = std::fs::read(&fresh).unwrap();
    // Without checkpoints, as after a power cut that came before the first one.
    for cut in [
        1,
        9,
        200,
        whole.len() - 1,
        whole.len() - 30,
        whole.len() - 400,
    ] {
        std::fs::write(&path, &whole[..cut]).unwrap();
        assert_eq!(kinds(&check(&path)), [FaultKind::Torn], "cut at {cut}");
        trail(&path, 1);
        let report = check(&path);
        assert!(report.ok, "cut at {cut}: {report:?}");
        assert_eq!(
            report.torn.len(),
            usize::from(cut != whole.len() - 1),
            "cut at {cut}"
        );
        let now = std::fs::read(&path).unwrap();
        assert!(now.starts_with(&whole[..cut]), "no torn byte is lost");
        if cut > 1 && cut < whole.len() - 1 {
            let mut edited = now.clone();
            edited[cut - 2] ^= 1;
            std::fs::write(&path, edited).unwrap();
            assert!(!check(&path).ok, "torn bytes edited, cut at {cut}");
        }
        for name in ["audit.jsonl", "audit.checkpoints", "audit.key"] {
            std::fs::remove_file(dir.path().join(name)).unwrap();
        }
    }
}

#[test]
fn junk_of_a_power_cut_is_told_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    trail(&path, 3);
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .open(&path)
        .unwrap();
    file.write_all(b"\0\0\0\n\0\0{\"time\":\n\n").unwrap();
    trail(&path, 1);
    let report = check(&path);
    assert!(report.ok, "{report:?}");
    assert_eq!(report.torn.len(), 1);
}

#[test]
fn a_cut_file_is_noticed_and_said() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let hand = Arc::new(ManualClock::new("2026-11-21T08:00:00Z".parse().unwrap()));
    let audit = Audit::open(at(&path), Arc::clone(&hand) as Arc<dyn Clock>).unwrap();
    let runtime = runtime(1);
    runtime.block_on(exchange(&audit, "r-1")).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(30));
    let copy = dir.path().join("audit.jsonl.1");
    std::fs::copy(&path, &copy).unwrap();
    std::fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(0)
        .unwrap();
    hand.advance(std::time::Duration::from_secs(2));
    runtime.block_on(exchange(&audit, "r-2")).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(100));
    audit.close();
    let report = verify(&[path.clone(), copy], &Options::default()).unwrap();
    assert!(report.ok, "{report:?}");
    let lines = values(&std::fs::read(&path).unwrap());
    assert!(
        lines
            .iter()
            .any(|line| line["event"] == "start" && line["outcome"] == "cut")
    );
}
