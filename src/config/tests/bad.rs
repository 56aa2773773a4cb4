//! Files with mistakes, each with the report that a person reads.

use std::path::Path;

use proptest::prelude::*;

use super::{TestPresets, files, read, root};
use crate::config::{Report, Severity, parse};

#[test]
fn every_mistake_has_a_report_that_helps() {
    let bad = files("tests/configs/bad", "toml");
    assert!(bad.len() >= 30, "{} files", bad.len());
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(root().join("tests/configs/bad"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        for path in bad {
            let name = path.file_stem().unwrap().to_str().unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            let file = format!("{name}.toml");
            let report = parse(&text, &file, Path::new("/etc/keyward"), &TestPresets).unwrap_err();
            assert!(report.faults() > 0);
            insta::assert_snapshot!(name, report.to_string());
        }
    });
}

/// `hunter2` stands in these files wherever somebody might write a secret by mistake.
#[test]
fn no_report_shows_a_secret_that_stands_in_the_file() {
    let mut seen = 0;
    for path in files("tests/configs/bad", "toml") {
        let text = std::fs::read_to_string(&path).unwrap();
        seen += text.matches("hunter2").count();
        let report = parse(&text, "x.toml", Path::new("."), &TestPresets).unwrap_err();
        for shown in [report.to_string(), report.to_json()] {
            assert!(!shown.contains("hunter2"), "{}:\n{shown}", path.display());
        }
    }
    assert!(seen > 6, "{seen}");
}

#[test]
fn a_report_for_programs_has_the_fixed_members() {
    let report = read("[proxy]\nunmatched = \"tunel\"\nx = 1\n").unwrap_err();
    let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
    assert_eq!(
        json[0],
        serde_json::json!({
            "severity": "error",
            "message": "\"unmatched\" is \"refuse\" or \"tunnel\"",
            "file": "test.toml",
            "line": 2,
            "column": 13,
            "help": "did you mean \"tunnel\"?",
        })
    );
}

#[test]
fn columns_are_characters_and_carets_stand_under_them() {
    let report = read("[agent.a]\npurpose = \"ü€𝄞\"; x\n").unwrap_err();
    assert_eq!((report.notes()[0].line, report.notes()[0].column), (2, 16));
    let crlf = read("[proxy]\r\nunmatched = \"tunel\"\r\n").unwrap_err();
    assert_eq!(
        crlf.to_string(),
        "test.toml:2:13: \"unmatched\" is \"refuse\" or \"tunnel\"\n   | unmatched = \"tunel\"\n   |             ^\n   = did you mean \"tunnel\"?\n"
    );
}

#[test]
fn a_file_that_is_none_is_a_fault_too() {
    let folder = tempfile::tempdir().unwrap();
    let missing = crate::config::load(&folder.path().join("none.toml"), &TestPresets).unwrap_err();
    assert_eq!(missing.faults(), 1);
    let path = folder.path().join("latin1.toml");
    std::fs::write(&path, b"# caf\xe9\n").unwrap();
    let report = crate::config::load(&path, &TestPresets).unwrap_err();
    assert!(report.to_string().contains("not UTF-8"), "{report}");
}

fn has_valid_places(text: &str, report: &Report) {
    let lines: Vec<&str> = text.split('\n').collect();
    for note in report.notes() {
        assert!(note.line >= 1 && note.line <= lines.len(), "{note:?}");
        let width = lines[note.line - 1].chars().count();
        assert!(
            note.column >= 1 && note.column <= width + 1,
            "{note:?} in {text:?}"
        );
        assert!(!note.message.is_empty());
    }
    let shown = report.to_string();
    assert!(!shown.contains('\u{1b}'), "{shown}");
    assert!(serde_json::from_str::<serde_json::Value>(&report.to_json()).is_ok());
}

/// Reads whatever it is, and looks at the report.
fn digest(text: &str) {
    match read(text) {
        Ok(loaded) => {
            let warns = |note: &crate::config::Note| note.severity == Severity::Warning;
            assert!(loaded.warnings.notes().iter().all(warns));
            has_valid_places(text, &loaded.warnings);
        }
        Err(report) => {
            assert!(report.faults() > 0);
            has_valid_places(text, &report);
        }
    }
}

/// Pieces of which files are made, so that arbitrary texts get further than the parser.
fn piece() -> impl Strategy<Value = String> {
    let words: Vec<&'static str> = vec![
        "[proxy]\n",
        "[[route]]\n",
        "[credential.x]\n",
        "[credential.x.static]\n",
        "[agent.a]\n",
        "[upstream]\n",
        "[route]\n",
        "[credential]\n",
        "[admin]\n",
        "listen = ",
        "hosts = ",
        "value = ",
        "inject = ",
        "when = ",
        "in = ",
        "token = ",
        "static = ",
        "connect-to = ",
        "credential = ",
        "deadline = ",
        "\"x\"",
        "\"\"",
        "'",
        "\"\"\"",
        "{ ",
        " }",
        "[",
        "]",
        ", ",
        "=",
        "\n",
        "#",
        ".",
        "{ env = \"X\" }",
        "{ header = \"x-a\" }",
        "\"bearer\"",
        "\"*.com\"",
        "\"5m\"",
        "-1",
        "1e9",
        "true",
        "1979-05-27",
        "ü€",
        "\u{202e}",
        "\u{0}",
        "\r",
        "\t",
    ];
    prop_oneof![
        4 => prop::sample::select(words).prop_map(str::to_owned),
        1 => "\\PC{0,6}",
    ]
}

proptest! {
    #[test]
    fn no_text_makes_it_panic_and_every_fault_has_a_place(text in any::<String>()) {
        digest(&text);
    }

    #[test]
    fn nor_does_a_text_of_likely_pieces(pieces in prop::collection::vec(piece(), 0..40)) {
        digest(&pieces.concat());
    }

    #[test]
    fn a_secret_does_not_show_however_its_line_is_mistyped(
        at in 0usize..80,
        cut in 0usize..4,
        with in prop::sample::select(vec!["", "\"", "'", "=", "\n", "#", "[", "]", "{", "}", ",", ".", " ", "\\"]),
    ) {
        let whole = "[credential.x.static]\nvalue = \"hunter2hunter2\"\n\n[[route]]\nhosts = [\"a.test\"]\n";
        let (from, to) = (at.min(whole.len()), (at + cut).min(whole.len()));
        let text = format!("{}{with}{}", &whole[..from], &whole[to..]);
        if let Err(report) = read(&text) {
            for shown in [report.to_string(), report.to_json()] {
                prop_assert!(!shown.contains("unter"), "{}\n{}", text, shown);
            }
        }
    }

    #[test]
    fn nor_does_a_real_file_with_a_piece_cut_out(from in 0usize..4000, len in 0usize..60, with in piece()) {
        let whole = std::fs::read_to_string(root().join("config/gateway.toml")).unwrap();
        let chars: Vec<char> = whole.chars().collect();
        let from = from.min(chars.len());
        let to = (from + len).min(chars.len());
        let cut: String = chars[..from].iter().copied().chain(with.chars()).chain(chars[to..].iter().copied()).collect();
        digest(&cut);
    }
}
