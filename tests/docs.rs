//! The pages that list what the program knows, held to the program.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

use std::collections::BTreeMap;
use std::path::Path;

use keyward::proxy::Refusal;

/// The fixed statuses of every word, those of rooms that are still to come included: clients are written against it.
const STATUSES: [(u16, &[&str]); 11] = [
    (400, &["bad-request"]),
    (405, &["method"]),
    (413, &["too-large"]),
    (421, &["host-mismatch"]),
    (431, &["head-too-large"]),
    (
        403,
        &[
            "suspended",
            "unregistered",
            "no-route",
            "denied",
            "condition",
            "private-address",
            "cleartext",
            "user-required",
            "not-connected",
            "issuance-suspended",
            "approval-required",
            "approval-denied",
            "approval-expired",
            "approval-mismatch",
        ],
    ),
    (407, &["unidentified", "session-ended", "wrong-peer"]),
    (429, &["over-quota", "throttled", "too-many-connections"]),
    (
        502,
        &[
            "upstream-unreachable",
            "upstream-untrusted",
            "bad-upstream",
            "leak-blocked",
            "undecodable",
            "broker-refused",
        ],
    ),
    (
        503,
        &[
            "broker-unavailable",
            "broker-sealed",
            "identity-unavailable",
            "store-unavailable",
            "approval-unavailable",
            "audit-unavailable",
            "ca-unavailable",
            "policy-error",
            "draining",
        ],
    ),
    (504, &["upstream-timeout", "broker-timeout"]),
];

fn read(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// What the program answers: each word with its status.
fn known() -> BTreeMap<String, u16> {
    Refusal::ALL
        .iter()
        .map(|refusal| {
            let (status, word) = refusal.status();
            (word.to_owned(), status.as_u16())
        })
        .collect()
}

/// The rows `| STATUS | \`WORD\` | …` of a page's tables.
fn listed(page: &str) -> BTreeMap<String, u16> {
    let mut rows = BTreeMap::new();
    for line in page.lines() {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let (Some(status), Some(word)) = (cells.next(), cells.next()) else {
            continue;
        };
        let word = word.strip_prefix('`').and_then(|w| w.strip_suffix('`'));
        if let (Ok(status), Some(word)) = (status.parse(), word) {
            assert!(
                cells.all(|cell| cell.len() > 10 || cell.is_empty()),
                "{word} is not explained"
            );
            assert!(
                rows.insert(word.to_owned(), status).is_none(),
                "{word} stands twice"
            );
        }
    }
    rows
}

#[test]
fn the_page_of_refusals_lists_the_words_of_the_program_and_no_other() {
    assert_eq!(listed(&read("docs/refusals.md")), known());
}

#[test]
fn every_word_has_the_status_that_clients_know() {
    let fixed: BTreeMap<&str, u16> = STATUSES
        .iter()
        .flat_map(|(status, words)| words.iter().map(|word| (*word, *status)))
        .collect();
    for (word, status) in known() {
        assert_eq!(fixed.get(word.as_str()), Some(&status), "{word}");
    }
}

#[test]
fn the_list_of_refusals_is_whole() {
    // A variant that `ALL` lacks still has an arm in `status`, and that arm names its word.
    let source = read("src/proxy/refusal/mod.rs");
    let (_, rest) = source.split_once("fn status(self)").unwrap();
    let (arms, _) = rest.split_once("fn word(self)").unwrap();
    let mut words: Vec<&str> = arms.split('"').skip(1).step_by(2).collect();
    words.sort_unstable();
    let all = known();
    assert_eq!(words, all.keys().collect::<Vec<_>>());
}

/// The files and folders that a page links to.
fn links(page: &str) -> Vec<&str> {
    page.match_indices("](")
        .filter_map(|(at, _)| page.get(at + 2..)?.split_once(')'))
        .map(|(link, _)| link.split('#').next().unwrap_or(link))
        .filter(|link| !link.is_empty() && !link.contains("://"))
        .collect()
}

fn pages() -> Vec<std::path::PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = Vec::new();
    for folder in ["", "docs", "docs/adr"] {
        for entry in std::fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    assert!(pages.len() > 10, "{pages:?}");
    pages
}

#[test]
fn no_link_leads_nowhere() {
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for link in links(&text) {
            let to = page.parent().unwrap().join(link);
            assert!(to.exists(), "{}: {link}", page.display());
        }
    }
}

#[test]
fn every_test_that_a_page_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join("src"), root.join("tests")];
    let mut sources = String::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
    for page in [
        "docs/incidents.md",
        "docs/threat-model.md",
        "ARCHITECTURE.md",
    ] {
        let text = read(page);
        let mut named = 0;
        for word in text.split('`').skip(1).step_by(2) {
            // The name of a test is a sentence.
            if word.matches('_').count() >= 3
                && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            {
                named += 1;
                assert!(sources.contains(&format!("fn {word}(")), "{page}: {word}");
            }
        }
        assert!(named > 0, "{page} names no test");
    }
}
