//! The order of the house, read from `src/lib.rs` and held: who may import whom, and what must not stand anywhere.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// The most lines of one file under `src`.
const LONGEST: usize = 520;

/// Files that may be longer, each with its reason.
const LONGER: [(&str, &str); 1] = [(
    "src/inject/apply/mod.rs",
    "one placement after the other; each is short and stands alone",
)];

/// Rooms that decide and never do: what they may not mention, whatever block they stand in.
const PURE: [&str; 10] = [
    "agent",
    "delegation",
    "head",
    "host",
    "inject",
    "policy",
    "preset",
    "route",
    "scrub",
    "secret",
];
const IMPURE: [&str; 6] = [
    "tokio::",
    "std::fs",
    "std::process",
    "std::env",
    "TcpStream",
    "async fn",
];

/// Types of these crates stay behind one room's door, so that a change of the crate is a change of the room.
const BEHIND: [(&str, &str); 4] = [
    ("rustls::", "tls"),
    ("tokio_rustls::", "tls"),
    ("rcgen::", "tls"),
    ("keyring::", "credential"),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: impl AsRef<Path>) -> String {
    let path = root().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every file below `folder` whose name ends so, by its path from the root.
fn files(folder: &str, ends: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let path: PathBuf = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                let made = ["target", "node_modules", "__pycache__", ".git", ".cache"];
                if !made.contains(&name) {
                    folders.push(path);
                }
            } else if ends.iter().any(|end| name.ends_with(end)) {
                let path = path.strip_prefix(root()).unwrap();
                found.push(path.to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// The rooms of `src/lib.rs`, each with the number of its block from the top.
fn rooms() -> BTreeMap<String, usize> {
    let mut block = 0;
    let mut rooms = BTreeMap::new();
    for line in read("src/lib.rs").lines() {
        if line.starts_with("// block ") {
            block += 1;
        }
        let name = line.strip_prefix("pub mod ").or(line.strip_prefix("mod "));
        if let Some(name) = name.and_then(|rest| rest.strip_suffix(';')) {
            assert!(block > 0, "{name} stands in no block");
            rooms.insert(name.to_owned(), block);
        }
    }
    assert!(rooms.len() > 10, "the map was not read: {rooms:?}");
    rooms
}

/// The room of a file under `src`; none for `lib.rs` and `main.rs`.
fn room_of(file: &str) -> Option<&str> {
    let rest = file.strip_prefix("src/")?;
    let room = rest.split('/').next()?;
    let room = room.strip_suffix(".rs").unwrap_or(room);
    (room != "lib" && room != "main").then_some(room)
}

/// The lines that are code, with their numbers: whole-line comments are left out.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..)
        .zip(text.lines())
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// The names that follow `crate::` in a line.
fn imports(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("crate::").map(|(at, found)| {
        let rest = &line[at + found.len()..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        &rest[..end.unwrap_or(rest.len())]
    })
}

/// Every import in `text` that the order forbids to `room`.
fn forbidden(room: &str, text: &str, rooms: &BTreeMap<String, usize>) -> Vec<(usize, String)> {
    let own = rooms[room];
    let mut found = Vec::new();
    for (number, line) in code(text) {
        for name in imports(line) {
            if name == room {
                continue;
            }
            match rooms.get(name) {
                Some(block) if *block < own => {}
                Some(_) => found.push((number, format!("{room} imports {name}"))),
                // A list (`crate::{…}`) hides its names from this reader.
                None => found.push((number, format!("`crate::{name}` names no room"))),
            }
        }
    }
    found
}

/// Fails with every fault at once.
fn none(faults: &str) {
    assert!(faults.is_empty(), "\n{faults}");
}

#[test]
fn a_room_imports_only_from_blocks_above_its_own() {
    let rooms = rooms();
    let mut faults = String::new();
    let mut seen = BTreeSet::new();
    for file in files("src", &[".rs"]) {
        let Some(room) = room_of(&file) else { continue };
        assert!(rooms.contains_key(room), "{file} is in no room of lib.rs");
        seen.insert(room.to_owned());
        let text = read(&file);
        for (line, fault) in forbidden(room, &text, &rooms) {
            writeln!(faults, "{file}:{line}: {fault}").unwrap();
        }
        // From a room's door, `super` is the crate: the same import by another name.
        let door = file == format!("src/{room}.rs") || file == format!("src/{room}/mod.rs");
        if door && text.lines().any(|line| line.starts_with("use super::")) {
            writeln!(faults, "{file}: `super` leaves the room").unwrap();
        }
    }
    none(&faults);
    let named: BTreeSet<String> = rooms.keys().cloned().collect();
    assert_eq!(seen, named, "rooms in files, and rooms in lib.rs");
}

#[test]
fn an_import_from_below_or_beside_is_seen() {
    let rooms = rooms();
    let see = |room, text| forbidden(room, text, &rooms).len();
    assert_eq!(see("policy", "use crate::proxy::Refusal;"), 1);
    assert_eq!(
        see("audit", "    let x = crate::credential::Broker::new();"),
        1
    );
    assert_eq!(see("audit", "use crate::{tls, agent};"), 1);
    assert_eq!(see("audit", "// crate::tls is another room"), 0);
    assert_eq!(
        see("proxy", "use crate::policy::Permit; use crate::app::App;"),
        1
    );
}

#[test]
fn rooms_that_decide_do_no_work() {
    let mut faults = String::new();
    for file in files("src", &[".rs"]) {
        let Some(room) = room_of(&file) else { continue };
        let test = file.contains("/tests");
        if !PURE.contains(&room) || test {
            continue;
        }
        for (line, text) in code(&read(&file)) {
            for word in IMPURE.iter().filter(|word| text.contains(**word)) {
                writeln!(faults, "{file}:{line}: {word} in a room without I/O").unwrap();
            }
        }
    }
    none(&faults);
}

#[test]
fn crates_stay_behind_the_door_of_their_room() {
    let mut faults = String::new();
    for file in files("src", &[".rs"]) {
        let Some(room) = room_of(&file) else { continue };
        for (line, text) in code(&read(&file)) {
            for (name, owner) in BEHIND {
                let named = text.match_indices(name).any(|(at, _)| {
                    let before = text[..at].chars().next_back();
                    !before.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
                });
                if named && room != owner {
                    writeln!(faults, "{file}:{line}: {name} belongs to {owner}").unwrap();
                }
            }
        }
    }
    none(&faults);
}

#[test]
fn only_the_file_of_system_calls_is_unsafe() {
    let mut faults = String::new();
    for file in files("src", &[".rs"]) {
        if file == "src/syscall.rs" {
            continue;
        }
        for (line, text) in code(&read(&file)) {
            let words = ["unsafe {", "unsafe fn", "unsafe impl", "(unsafe_code"];
            if words.iter().any(|word| text.contains(word)) {
                writeln!(faults, "{file}:{line}: {}", text.trim()).unwrap();
            }
        }
    }
    none(&faults);
}

#[test]
fn no_file_is_longer_than_a_reader_holds() {
    let mut faults = String::new();
    for file in files("src", &[".rs"]) {
        let lines = read(&file).lines().count();
        if lines > LONGEST && !LONGER.iter().any(|(name, _)| *name == file) {
            writeln!(faults, "{file}: {lines} lines").unwrap();
        }
    }
    for (name, reason) in LONGER {
        assert!(!reason.is_empty());
        if !root().join(name).exists() {
            writeln!(faults, "{name} has leave to be long, and is not there").unwrap();
        }
    }
    none(&faults);
}

#[test]
fn nothing_is_left_open_or_switched_off_without_a_word() {
    let mut faults = String::new();
    let mut sources = files("src", &[".rs"]);
    sources.extend(files("tests", &[".rs"]));
    sources.extend(files("examples", &[".rs"]));
    sources.extend(files("benches", &[".rs"]));
    let open = [concat!("todo", "!("), concat!("unimplemented", "!(")];
    for file in sources {
        let text = read(&file);
        // A room's own tests are its last module, and their point is the room's.
        let inner = file.ends_with("/tests.rs") || file.contains("/tests/");
        if !inner && !text.starts_with("//!") {
            writeln!(faults, "{file}: the first line does not say its point").unwrap();
        }
        for (line, text) in code(&text) {
            let trimmed = text.trim();
            if open.iter().any(|word| trimmed.contains(word)) || trimmed == "#[ignore]" {
                writeln!(faults, "{file}:{line}: {trimmed}").unwrap();
            }
        }
    }
    none(&faults);
}

#[test]
fn no_file_knows_the_machine_that_it_was_written_on() {
    let here = root().to_str().unwrap();
    let homes = [concat!("/ho", "me/"), concat!("/Use", "rs/")];
    let mut faults = String::new();
    let ends = [
        ".rs", ".md", ".toml", ".sh", ".py", ".cjs", ".json", ".service", ".socket", ".snap", "run",
    ];
    for file in files(".", &ends) {
        let Ok(text) = std::fs::read_to_string(root().join(&file)) else {
            continue;
        };
        for (number, line) in (1..).zip(text.lines()) {
            // A short root such as `/src` is a word of many files.
            let mine = here.matches('/').count() > 1 && line.contains(here);
            if mine || homes.iter().any(|home| line.contains(home)) {
                writeln!(faults, "{file}:{number}: {}", line.trim()).unwrap();
            }
        }
    }
    none(&faults);
}

#[test]
fn the_architecture_names_every_room() {
    let page = read("ARCHITECTURE.md");
    let missing: Vec<String> = rooms()
        .into_keys()
        .filter(|room| !page.contains(&format!("`{room}`")))
        .collect();
    assert!(
        missing.is_empty(),
        "ARCHITECTURE.md does not name {missing:?}"
    );
}

/// DOS-20: with `panic = "abort"` one connection's panic would end all others.
#[test]
fn the_release_profile_unwinds() {
    let manifest = std::fs::read_to_string("Cargo.toml").unwrap();
    let (_, release) = manifest.split_once("[profile.release]").unwrap();
    let release = release.split("\n[").next().unwrap();
    assert!(release.contains("panic = \"unwind\""), "{release}");
}
