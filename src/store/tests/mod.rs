//! One set of tests for both databases: a file, and a real server where one is installed.

mod approval;
mod left;
mod server;

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tempfile::TempDir;

use super::*;
use crate::credential::{Handle, Holder, Journal as _, LeaseId, Note, Owed, Pulse, Reason, Scope};
use crate::credential::{Kept, Vessel as _};
use crate::policy::Person;
use crate::secret::Secret;
use database::Value;

const HANDLE: &str = "handle-canary-0123456789";

/// Where a test's stores are: each opening of it is another process.
struct Place {
    settings: Settings,
    folder: TempDir,
    server: Option<server::Server>,
}

fn key(byte: u8) -> String {
    STANDARD.encode([byte; 32])
}

fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, key(7) + "\n").unwrap();
    Place {
        settings: Settings::Sqlite {
            path: folder.path().join("keyward.db"),
            key: Source::File(file),
        },
        folder,
        server: None,
    }
}

fn on_server() -> Option<Place> {
    let server = server::Server::start()?;
    let mut place = place();
    let url = place.folder.path().join("url");
    std::fs::write(&url, &server.url).unwrap();
    place.settings = Settings::Postgres {
        url: Source::File(url),
        key: Source::File(place.folder.path().join("key")),
    };
    place.server = Some(server);
    Some(place)
}

/// Both kinds, as far as they are here.
fn places() -> Vec<Place> {
    [Some(place()), on_server()].into_iter().flatten().collect()
}

impl Place {
    async fn open(&self) -> Store {
        self.try_open().await.unwrap()
    }

    async fn try_open(&self) -> Result<Store, StoreError> {
        Store::open(&self.settings, &|_: &str| -> Option<OsString> { None }).await
    }

    fn is_file(&self) -> bool {
        matches!(self.settings, Settings::Sqlite { .. })
    }
}

fn note(id: &str, credential: &str) -> Note {
    Note {
        lease: LeaseId::from(id),
        scope: Scope {
            credential: credential.parse().unwrap(),
            holder: Holder::Session {
                agent: "a".parse().unwrap(),
                session: "s1".into(),
            },
            person: Some(Arc::new(Person::new(
                crate::agent::User {
                    provider: "corp".parse().unwrap(),
                    name: "alice@example.com".into(),
                },
                Vec::new(),
            ))),
            narrow: Arc::default(),
        },
        chain: names(&["boss", "a"]).into(),
        handle: Some(Handle::new(Arc::new(Secret::from(HANDLE.to_owned())))),
        issued: jiff::Timestamp::now(),
        ends: None,
        owed: None,
    }
}

fn names(names: &[&str]) -> Vec<crate::agent::Name> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

/// All that dead processes left of these credentials.
async fn all_left(store: &Store, credentials: &[crate::agent::Name]) -> Vec<Note> {
    let mut notes = Vec::new();
    let mut after = None;
    loop {
        let left = store.adopt(credentials, after.as_ref()).await.unwrap();
        notes.extend(left.notes);
        after = left.next;
        if after.is_none() {
            return notes;
        }
    }
}

/// Everything that the database's files hold.
fn bytes_below(folder: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with("keyward.db")
        {
            all.extend(std::fs::read(path).unwrap());
        }
    }
    all
}

#[tokio::test]
async fn what_a_dead_process_left_is_taken_over_by_one_of_the_living() {
    for place in places() {
        let dead = place.open().await;
        assert_eq!(dead.beat().await.unwrap(), Pulse::New);
        assert_eq!(dead.beat().await.unwrap(), Pulse::Known);
        dead.put(&note("l1", "crm")).await.unwrap();
        dead.put(&note("l2", "gone")).await.unwrap();
        dead.put(&note("l3", "crm")).await.unwrap();
        dead.remove(&LeaseId::from("l3")).await.unwrap();
        let owed = Owed {
            reason: Reason::Order,
            by: Some("alice".into()),
            attempts: 2,
        };
        dead.owe(&LeaseId::from("l1"), &owed).await.unwrap();
        let one = place.open().await;
        let other = place.open().await;
        one.beat().await.unwrap();
        other.beat().await.unwrap();
        let known = names(&["crm", "mail"]);
        // A living process keeps what is its own.
        assert!(all_left(&one, &known).await.is_empty());
        dead.leave().await.unwrap();
        let (mine, theirs) = tokio::join!(all_left(&one, &known), all_left(&other, &known));
        let found = [mine, theirs].concat();
        assert_eq!(found.len(), 1, "one gets it");
        let found = &found[0];
        let expected = note("l1", "crm");
        assert_eq!(found.lease, expected.lease);
        assert_eq!(found.scope, expected.scope);
        assert_eq!(found.chain, expected.chain);
        let handle = found.handle.as_ref().unwrap();
        assert_eq!(handle.content().expose(), HANDLE.as_bytes());
        assert_eq!(found.owed.as_ref(), Some(&owed));
        // What nobody here can revoke waits for one who can.
        let rest = all_left(&other, &names(&["gone"])).await;
        assert_eq!(rest.len(), 1);
    }
}

#[tokio::test]
async fn a_killed_process_is_known_to_be_dead_at_the_next_start() {
    let place = place();
    let killed = place.open().await;
    killed.beat().await.unwrap();
    killed.put(&note("l1", "crm")).await.unwrap();
    // A kill closes its files, and it says no farewell.
    killed.close().await;
    drop(killed);
    let next = place.open().await;
    next.beat().await.unwrap();
    assert_eq!(all_left(&next, &names(&["crm"])).await.len(), 1);
}

#[tokio::test]
async fn a_process_that_says_nothing_for_a_minute_is_dead_and_hears_it() {
    for place in places() {
        let (silent, other) = (place.open().await, place.open().await);
        silent.beat().await.unwrap();
        silent.put(&note("l1", "crm")).await.unwrap();
        other.beat().await.unwrap();
        let later = "UPDATE keyward_replica SET seen = seen - 61000 WHERE id = $1";
        let values = [Value::from(&*silent.0.writer)];
        silent.database().execute(later, &values).await.unwrap();
        assert_eq!(all_left(&other, &names(&["crm"])).await.len(), 1);
        assert_eq!(silent.beat().await.unwrap(), Pulse::New);
    }
}

#[tokio::test]
async fn notes_of_leases_that_have_ended_are_forgotten() {
    for place in places() {
        let store = place.open().await;
        let mut old = note("l1", "crm");
        old.ends = Some(jiff::Timestamp::now() - Duration::from_secs(61));
        store.put(&old).await.unwrap();
        store.put(&note("l2", "crm")).await.unwrap();
        store.beat().await.unwrap();
        store.leave().await.unwrap();
        let left = all_left(&store, &names(&["crm"])).await;
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].lease, LeaseId::from("l2"));
    }
}

#[tokio::test]
async fn a_lease_with_a_later_end_is_not_forgotten() {
    for place in places() {
        let store = place.open().await;
        let mut old = note("l1", "crm");
        old.ends = Some(jiff::Timestamp::now() - Duration::from_secs(61));
        store.put(&old).await.unwrap();
        let later = jiff::Timestamp::now() + Duration::from_mins(1);
        let (known, unknown) = (LeaseId::from("l1"), LeaseId::from("l9"));
        store.prolong(&known, Some(later)).await.unwrap();
        store.prolong(&unknown, Some(later)).await.unwrap();
        store.beat().await.unwrap();
        store.leave().await.unwrap();
        let left = all_left(&store, &names(&["crm"])).await;
        assert_eq!(left.len(), 1);
        assert_eq!(
            left[0].ends.map(jiff::Timestamp::as_millisecond),
            Some(later.as_millisecond())
        );
    }
}

#[tokio::test]
async fn what_was_about_to_be_issued_is_told_and_becomes_a_lease_when_it_is() {
    for place in places() {
        let dead = place.open().await;
        dead.beat().await.unwrap();
        let about = |id| Note {
            handle: None,
            ..note(id, "crm")
        };
        dead.put(&about("l1")).await.unwrap();
        dead.put(&about("l2")).await.unwrap();
        dead.put(&note("l2", "crm")).await.unwrap();
        let next = place.open().await;
        next.beat().await.unwrap();
        dead.leave().await.unwrap();
        let mut found = all_left(&next, &names(&["crm"])).await;
        found.sort_by(|left, right| left.lease.cmp(&right.lease));
        let had: Vec<_> = found.iter().map(|note| note.handle.is_some()).collect();
        assert_eq!(had, [false, true]);
        assert_eq!(found[0].chain, about("l1").chain);
        // What another has taken over is not taken back.
        assert!(dead.put(&note("l1", "crm")).await.is_err());
    }
}

/// Of many at a time each gets its own answer, and one that is not taken keeps no other out.
#[tokio::test]
async fn writes_of_one_moment_have_each_its_own_outcome() {
    for place in places() {
        let store = Arc::new(place.open().await);
        let mut writing = tokio::task::JoinSet::new();
        for number in 0..500 {
            let store = Arc::clone(&store);
            writing.spawn(async move {
                let good = if number == 7 {
                    let bad = "INSERT INTO keyward_replica (id, seen) VALUES ($1, NULL)";
                    store.database().execute(bad, &["r".into()]).await.is_ok()
                } else {
                    let note = note(&format!("l-{number}"), "crm");
                    store.put(&note).await.is_ok()
                };
                (number, good)
            });
        }
        let mut failed = Vec::new();
        while let Some(written) = writing.join_next().await {
            let (number, good) = written.unwrap();
            if !good {
                failed.push(number);
            }
        }
        assert_eq!(failed, [7]);
        let next = place.open().await;
        next.beat().await.unwrap();
        store.leave().await.unwrap();
        let left = all_left(&next, &names(&["crm"])).await;
        assert!(left.len() >= 499, "{}", left.len());
    }
}

#[tokio::test]
async fn a_rotating_secret_is_replaced_by_who_knew_the_last() {
    for place in places() {
        let (one, two) = (place.open().await, place.open().await);
        let secret = |text: &str| Secret::from(text.to_owned());
        assert!(one.load("mail").await.unwrap().is_none());
        assert!(one.replace("mail", None, &secret("first")).await.unwrap());
        assert!(!two.replace("mail", None, &secret("late")).await.unwrap());
        let Kept {
            secret: found,
            version,
        } = two.load("mail").await.unwrap().unwrap();
        assert_eq!((found.expose(), version), (&b"first"[..], 1));
        let (mine, theirs) = (secret("mine"), secret("theirs"));
        let (a, b) = tokio::join!(
            one.replace("mail", Some(1), &mine),
            two.replace("mail", Some(1), &theirs)
        );
        assert_eq!(
            [a.unwrap(), b.unwrap()].iter().filter(|won| **won).count(),
            1
        );
        assert_eq!(one.load("mail").await.unwrap().unwrap().version, 2);
        assert!(one.claim("mail", Duration::from_millis(300)).await.unwrap());
        assert!(!two.claim("mail", Duration::from_secs(9)).await.unwrap());
        two.release("mail").await.unwrap();
        assert!(
            !two.claim("mail", Duration::from_secs(9)).await.unwrap(),
            "it was not its own"
        );
        tokio::time::sleep(Duration::from_millis(400)).await;
        assert!(
            two.claim("mail", Duration::from_secs(9)).await.unwrap(),
            "its time was over"
        );
        two.release("mail").await.unwrap();
        assert!(one.claim("mail", Duration::from_secs(9)).await.unwrap());
        assert!(one.forget("mail").await.unwrap() && !one.forget("mail").await.unwrap());
    }
}

#[tokio::test]
async fn nothing_secret_stands_in_the_file_and_only_its_owner_reads_it() {
    let place = place();
    let store = place.open().await;
    store.put(&note("l1", "crm")).await.unwrap();
    let canary = Secret::from("refresh-canary-0123456789".to_owned());
    store.replace("mail", None, &canary).await.unwrap();
    let bytes = bytes_below(place.folder.path());
    assert!(
        memchr::memmem::find(&bytes, b"alice@example.com").is_some(),
        "the search finds"
    );
    for secret in [HANDLE, "refresh-canary", &key(7)] {
        assert!(
            memchr::memmem::find(&bytes, secret.as_bytes()).is_none(),
            "{secret}"
        );
    }
    for entry in std::fs::read_dir(place.folder.path()).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if name.starts_with("keyward.db") {
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{name}");
        }
    }
    let shown = format!("{store:?} {:?}", place.settings);
    assert!(!shown.contains(&key(7)), "{shown}");
}

#[tokio::test]
async fn a_handle_moved_to_another_credential_is_not_taken_for_one_of_its_own() {
    let place = place();
    let store = place.open().await;
    store.put(&note("l1", "crm")).await.unwrap();
    let moved = "UPDATE keyward_lease SET credential = 'evil'";
    store.database().execute(moved, &[]).await.unwrap();
    store.leave().await.unwrap();
    assert!(all_left(&store, &names(&["evil"])).await.is_empty());
}

#[tokio::test]
async fn another_key_a_later_version_and_no_database_are_refused_by_name() {
    for place in places() {
        let store = place.open().await;
        std::fs::write(place.folder.path().join("key"), key(8)).unwrap();
        let error = place.try_open().await.unwrap_err();
        assert_eq!(error, StoreError::WrongKey);
        assert!(error.is_of_configuration());
        std::fs::write(place.folder.path().join("key"), "hunter2").unwrap();
        assert_eq!(place.try_open().await.unwrap_err(), StoreError::BadKey);
        std::fs::remove_file(place.folder.path().join("key")).unwrap();
        let error = place.try_open().await.unwrap_err().to_string();
        assert!(error.starts_with("\"key\": "), "{error}");
        std::fs::write(place.folder.path().join("key"), key(7)).unwrap();
        let later = "UPDATE keyward_schema SET version = 9 WHERE component = 'journal'";
        store.database().execute(later, &[]).await.unwrap();
        let error = place.try_open().await.unwrap_err();
        assert!(
            matches!(
                error,
                StoreError::Newer {
                    component: "journal",
                    found: 9,
                    ..
                }
            ),
            "{error}"
        );
    }
    let place = place();
    std::fs::write(
        place.folder.path().join("keyward.db"),
        "this is a text, and no database at all",
    )
    .unwrap();
    let error = place.try_open().await.unwrap_err().to_string();
    assert_eq!(error, "the database cannot be used: file is not a database");
}

#[tokio::test]
async fn a_store_that_is_gone_gives_no_answer_and_says_so() {
    for mut place in places() {
        let store = place.open().await;
        if place.is_file() {
            store.close().await;
        } else {
            place.server = None;
        }
        assert!(store.put(&note("l1", "crm")).await.is_err());
        assert!(store.load("mail").await.is_err());
        assert!(store.beat().await.is_err());
        if !place.is_file() {
            let error = place.try_open().await.unwrap_err();
            assert!(!error.is_of_configuration(), "{error}");
        }
    }
}

#[tokio::test]
async fn a_store_in_memory_works_the_same_and_lasts_no_longer() {
    let store = Store::memory().unwrap();
    assert!(!Store::lasts(&store));
    assert!(
        store
            .replace("x", None, &Secret::from("v".to_owned()))
            .await
            .unwrap()
    );
    assert_eq!(
        store.load("x").await.unwrap().unwrap().secret.expose(),
        b"v"
    );
}

#[tokio::test]
async fn a_pass_is_of_its_digest_and_every_opening_knows_it() {
    use crate::login::{Holder, Pass, PassStore as _};
    for place in places() {
        let store = place.open().await;
        let expires = jiff::Timestamp::from_millisecond(4_000_000_000_000).unwrap();
        let alice = crate::agent::User {
            provider: "corp".parse().unwrap(),
            name: "alice'); DROP TABLE keyward_pass; --".into(),
        };
        let pass = |holder, browser| Pass {
            holder,
            browser,
            expires,
        };
        let person = pass(Holder::Person(alice), true);
        let operator = pass(Holder::Operator("alice".into()), false);
        store.keep(&[1; 32], &person).await.unwrap();
        store.keep(&[2; 32], &operator).await.unwrap();
        assert!(
            store.keep(&[2; 32], &person).await.is_err(),
            "never another's"
        );
        let other = place.open().await;
        assert_eq!(other.find(&[1; 32]).await.unwrap(), Some(person));
        assert_eq!(other.find(&[2; 32]).await.unwrap(), Some(operator.clone()));
        assert_eq!(other.find(&[3; 32]).await.unwrap(), None);
        other.end(&[1; 32]).await.unwrap();
        assert_eq!(store.find(&[1; 32]).await.unwrap(), None);
        assert_eq!(store.find(&[2; 32]).await.unwrap(), Some(operator));
    }
}
