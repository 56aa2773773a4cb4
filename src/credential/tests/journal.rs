//! What the broker writes down, and when.

use std::sync::atomic::AtomicBool;

use super::*;

/// A journal that remembers what it was told, and fails on demand.
#[derive(Debug, Default)]
struct Book {
    down: AtomicBool,
    /// It takes what is about to be issued, and not what was.
    full: AtomicBool,
    left: Mutex<Vec<Note>>,
    told: Mutex<Vec<String>>,
    lost: AtomicBool,
}

impl Book {
    fn tell(&self, what: String) -> Result<(), OutOfReach> {
        if self.down.load(Ordering::SeqCst) {
            return Err(OutOfReach);
        }
        self.told.lock().push(what);
        Ok(())
    }

    fn of(&self, word: &str) -> usize {
        let told = self.told.lock();
        told.iter().filter(|line| line.starts_with(word)).count()
    }
}

#[async_trait]
impl Journal for Book {
    fn lasts(&self) -> bool {
        true
    }
    async fn put(&self, note: &Note) -> Result<(), OutOfReach> {
        let credential = &note.scope.credential;
        let Some(handle) = &note.handle else {
            return self.tell(format!("intend {credential} {:?}", note.ends));
        };
        assert!(!handle.content().is_empty());
        if self.full.load(Ordering::SeqCst) {
            return Err(OutOfReach);
        }
        self.tell(format!("put {credential}"))
    }
    async fn owe(&self, _: &LeaseId, owed: &Owed) -> Result<(), OutOfReach> {
        self.tell(format!("owe {} {}", owed.reason.word(), owed.attempts))
    }
    async fn prolong(&self, _: &LeaseId, ends: Option<jiff::Timestamp>) -> Result<(), OutOfReach> {
        self.tell(format!("prolong {}", ends.unwrap()))
    }
    async fn remove(&self, _: &LeaseId) -> Result<(), OutOfReach> {
        self.tell("remove".into())
    }
    async fn beat(&self) -> Result<Pulse, OutOfReach> {
        self.tell("beat".into())?;
        Ok(if self.lost.swap(false, Ordering::SeqCst) {
            Pulse::New
        } else {
            Pulse::Known
        })
    }
    async fn adopt(&self, names: &[Name], _: Option<&LeaseId>) -> Result<Left, OutOfReach> {
        self.tell(format!("adopt {}", names.len()))?;
        if names.is_empty() {
            return Ok(Left::default());
        }
        Ok(Left {
            notes: std::mem::take(&mut *self.left.lock()),
            next: None,
        })
    }
    async fn leave(&self) -> Result<(), OutOfReach> {
        self.tell("leave".into())
    }
}

fn with(book: &Arc<Book>) -> Scene {
    let mut scene = Scene::new(|_| {});
    scene.broker = Broker::with_journal(
        vec![(scene.spec.clone(), scene.fake.clone())],
        scene.clock.clone(),
        scene.heard.clone(),
        book.clone(),
    );
    scene
}

fn left(id: &str, owed: Option<Owed>) -> Note {
    Note {
        lease: LeaseId::from(id),
        scope: Scope {
            credential: "crm".parse().unwrap(),
            holder: Holder::Agent("a".parse().unwrap()),
            person: None,
            narrow: Arc::default(),
        },
        chain: Arc::default(),
        handle: Some(Handle::new(Arc::new(Secret::from(format!("handle-{id}"))))),
        issued: "2026-11-20T11:00:00Z".parse().unwrap(),
        ends: None,
        owed,
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_written_down_before_it_is_used_and_taken_out_when_it_is_revoked() {
    let book = Arc::new(Book::default());
    let scene = with(&book);
    scene.lease("a", "s1").await.unwrap();
    assert_eq!((book.of("put crm"), book.of("remove")), (1, 0));
    scene.lease("a", "s1").await.unwrap();
    assert_eq!(book.of("put"), 1);
    scene
        .fake
        .revokes
        .lock()
        .push_back(Err(RevokeError::Failed));
    scene.broker.end_session(&"s1".into());
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(
        (book.of("owe session-end 1"), book.of("remove")),
        (1, 1),
        "{book:?}"
    );
    scene.broker.shutdown(Duration::from_secs(1)).await;
    assert_eq!(book.of("leave"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_cannot_be_written_down_is_revoked_and_not_used() {
    let book = Arc::new(Book::default());
    let scene = with(&book);
    settle().await;
    book.full.store(true, Ordering::SeqCst);
    let error = scene.lease("a", "s1").await.unwrap_err();
    assert_eq!(
        (error, error.word()),
        (IssueError::Store, "store-unavailable")
    );
    settle().await;
    assert_eq!(scene.calls(), 1, "asking the issuer again would not help");
    assert_eq!(scene.fake.revoked.lock().len(), 1);
    assert_eq!(scene.heard.of("issued"), [""; 0]);
    assert_eq!(scene.heard.of("failed"), ["failed first store-unavailable"]);
    assert_eq!(scene.heard.of("revoked"), ["revoked store revoked 1"]);
    book.full.store(false, Ordering::SeqCst);
    book.down.store(true, Ordering::SeqCst);
    scene.pass(5.0).await;
    let error = scene.lease("a", "s1").await.unwrap_err();
    assert_eq!((error, scene.calls()), (IssueError::Store, 1), "not asked");
    book.down.store(false, Ordering::SeqCst);
    scene.pass(5.0).await;
    assert!(scene.lease("a", "s1").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_the_dead_left_is_revoked_at_the_start_and_later_with_its_count() {
    let book = Arc::new(Book::default());
    let ordered = Owed {
        reason: Reason::Order,
        by: Some("alice".into()),
        attempts: 2,
    };
    let mut ended = left("l3", None);
    ended.ends = Some("2026-11-20T11:59:59Z".parse().unwrap());
    *book.left.lock() = vec![left("l1", None), left("l2", Some(ordered)), ended];
    let scene = with(&book);
    settle().await;
    let mut revoked = scene.fake.revoked.lock().clone();
    revoked.sort();
    assert_eq!(revoked, [b"handle-l1", b"handle-l2"]);
    let mut heard = scene.heard.of("revoked");
    heard.sort();
    assert_eq!(
        heard,
        ["revoked order revoked 3", "revoked shutdown revoked 1"]
    );
    assert_eq!(book.of("remove"), 2);
    book.left.lock().push(left("l4", None));
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(scene.fake.revoked.lock().len(), 3);
    assert!(scene.broker.snapshot().is_empty());
}

#[tokio::test(start_paused = true)]
async fn that_a_lease_is_about_to_be_issued_is_noted_before_and_told_after_a_crash() {
    let book = Arc::new(Book::default());
    let lost = |id: &str, ends: Option<&str>| Note {
        handle: None,
        ends: ends.map(|ends| ends.parse().unwrap()),
        ..left(id, None)
    };
    *book.left.lock() = vec![lost("l1", None), lost("l2", Some("2026-11-20T12:09:00Z"))];
    let scene = with(&book);
    settle().await;
    assert_eq!(
        scene.heard.of("orphaned"),
        ["orphaned l1 None", "orphaned l2 Some(2026-11-20T12:09:00Z)"]
    );
    assert_eq!((scene.fake.revoked.lock().len(), book.of("remove")), (0, 2));

    // Noted before the call, without an end that nobody knows yet; the next one has one.
    let gate = Arc::new(Notify::new());
    *scene.fake.gate.lock() = Some(Arc::clone(&gate));
    let scene = Arc::new(scene);
    let asking = TaskTracker::new().spawn({
        let scene = Arc::clone(&scene);
        async move { scene.lease("a", "s1").await }
    });
    settle().await;
    assert_eq!((book.of("intend crm None"), book.of("put")), (1, 0));
    gate.notify_one();
    asking.await.unwrap().unwrap();
    assert_eq!(book.of("put"), 1);
    *scene.fake.gate.lock() = None;
    scene.lease("a", "s2").await.unwrap();
    assert_eq!(
        book.of("intend crm Some(2026-11-20T12:10:10Z)"),
        1,
        "{book:?}"
    );

    // What was not issued, or cannot be revoked, leaves no note.
    scene.script(Err(IssueError::Refused));
    scene.lease("a", "s3").await.unwrap_err();
    assert_eq!(book.of("remove"), 3);
    let mut without = token("nothing-revokes-this", Life::For(Duration::from_mins(1)));
    without.handle = None;
    scene.script(Ok(without));
    scene.lease("a", "s4").await.unwrap();
    assert_eq!(book.of("remove"), 4);
}

#[tokio::test(start_paused = true)]
async fn who_was_held_to_be_dead_drops_its_leases() {
    let book = Arc::new(Book::default());
    let scene = with(&book);
    let old = scene.lease("a", "s1").await.unwrap();
    settle().await;
    book.lost.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_ne!(scene.lease("a", "s1").await.unwrap().id(), old.id());
}

#[tokio::test(start_paused = true)]
async fn a_later_end_is_written_down_before_it_is_asked_for() {
    let book = Arc::new(Book::default());
    let scene = with(&book);
    let mut issued = token("renewable-secret", Life::For(Duration::from_mins(10)));
    issued.handle = issued.handle.map(|handle| {
        handle.renewed_by(Renewable {
            seconds: 600,
            mark: 0,
        })
    });
    scene.script(Ok(issued));
    scene
        .fake
        .renews
        .lock()
        .push_back(Ok(Life::For(Duration::from_mins(9))));
    let first = scene.lease("a", "s1").await.unwrap();
    scene.pass(480.0).await;
    assert_eq!(scene.lease("a", "s1").await.unwrap().id(), first.id());
    assert_eq!(book.of("prolong 2026-11-20T12:18:00Z"), 1, "{book:?}");
    assert_eq!(book.of("put"), 1);

    // What cannot be written down is not asked for.
    book.down.store(true, Ordering::SeqCst);
    scene.pass(450.0).await;
    assert_eq!(scene.lease("a", "s1").await.unwrap_err(), IssueError::Store);
    assert_eq!(scene.fake.renewed.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_comes_after_the_deadline_is_noted_and_given_back() {
    let book = Arc::new(Book::default());
    let scene = with(&book);
    let gate = Arc::new(Notify::new());
    *scene.fake.gate.lock() = Some(Arc::clone(&gate));
    assert_eq!(
        scene.lease("a", "s1").await.unwrap_err(),
        IssueError::TimedOut
    );
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!((book.of("intend"), book.of("remove")), (1, 0), "not known");
    gate.notify_one();
    settle().await;
    assert_eq!(scene.heard.of("revoked"), ["revoked unusable revoked 1"]);
    assert_eq!(scene.heard.of("orphaned"), [""; 0]);
    assert_eq!((book.of("put crm"), book.of("remove")), (1, 1), "{book:?}");
    assert_eq!(scene.fake.revoked.lock().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_never_comes_is_told_of_and_one_that_says_no_is_not() {
    let book = Arc::new(Book::default());
    let scene = with(&book);
    *scene.fake.gate.lock() = Some(Arc::new(Notify::new()));
    assert!(scene.lease("a", "s1").await.is_err());
    assert_eq!(
        (book.of("remove"), scene.heard.of("orphaned").len()),
        (0, 0)
    );
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(
        (book.of("remove"), scene.heard.of("orphaned").len()),
        (1, 1)
    );

    // An answer that was lost will not come; one that says no is one.
    *scene.fake.gate.lock() = None;
    scene.pass(6.0).await;
    scene.script(Err(IssueError::Lost));
    scene.lease("a", "s2").await.unwrap();
    assert_eq!(
        (book.of("remove"), scene.heard.of("orphaned").len()),
        (2, 2)
    );
    for known in [IssueError::Refused, unavailable(), IssueError::Sealed] {
        scene.script(Err(known));
        scene.pass(6.0).await;
        scene.lease("a", "s3").await.unwrap_err();
    }
    assert_eq!(
        (book.of("remove"), scene.heard.of("orphaned").len()),
        (5, 2)
    );
}

#[tokio::test(start_paused = true)]
async fn at_the_shutdown_what_is_not_known_is_left_to_the_next() {
    let book = Arc::new(Book::default());
    let scene = with(&book);
    *scene.fake.gate.lock() = Some(Arc::new(Notify::new()));
    assert!(scene.lease("a", "s1").await.is_err());
    let began = tokio::time::Instant::now();
    scene.broker.shutdown(Duration::from_secs(30)).await;
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "nobody waits for it"
    );
    assert_eq!((book.of("intend"), book.of("remove")), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_note_that_could_not_be_taken_out_is_taken_out_later() {
    let book = Arc::new(Book::default());
    let scene = with(&book);
    scene.lease("a", "s1").await.unwrap();
    book.down.store(true, Ordering::SeqCst);
    scene.broker.end_session(&"s1".into());
    settle().await;
    assert_eq!((scene.fake.revoked.lock().len(), book.of("remove")), (1, 0));
    // Neither can it be noted that another is about to be issued: perhaps it was.
    assert!(scene.lease("a", "s2").await.is_err());
    book.down.store(false, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!((scene.fake.revoked.lock().len(), book.of("remove")), (1, 2));
}

/// A crowd before an issuer that hangs: not all of their calls hang on.
#[tokio::test(start_paused = true)]
async fn no_more_calls_go_on_past_their_deadlines_than_are_bounded() {
    let book = Arc::new(Book::default());
    let scene = with(&book);
    *scene.fake.gate.lock() = Some(Arc::new(Notify::new()));
    let scene = Arc::new(scene);
    let mut asking = tokio::task::JoinSet::new();
    for n in 0..300 {
        let scene = Arc::clone(&scene);
        asking.spawn(async move { scene.lease("a", &format!("s{n}")).await });
    }
    while let Some(outcome) = asking.join_next().await {
        assert_eq!(outcome.unwrap().unwrap_err(), IssueError::TimedOut);
    }
    settle().await;
    assert_eq!(scene.heard.of("orphaned").len(), 300 - 256);
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(scene.heard.of("orphaned").len(), 300);
    assert_eq!((book.of("intend"), book.of("remove")), (300, 300));
}

/// An issuer that revokes nothing just now holds up its own notes, and no more of them than are bounded.
#[tokio::test(start_paused = true)]
async fn no_more_of_the_dead_is_taken_over_than_can_be_revoked() {
    let book = Arc::new(Book::default());
    *book.left.lock() = (0..1500).map(|n| left(&format!("l{n}"), None)).collect();
    let scene = with(&book);
    let failed = std::iter::repeat_n(Err(RevokeError::Failed), 15_000);
    scene.fake.revokes.lock().extend(failed);
    settle().await;
    assert_eq!(book.of("adopt 1"), 1);
    book.left.lock().push(left("l-last", None));
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!((book.of("adopt 1"), book.of("adopt 0")), (1, 1));
    scene.fake.revokes.lock().clear();
    tokio::time::sleep(Duration::from_mins(3)).await;
    assert_eq!(scene.heard.of("revoked shutdown revoked").len(), 1501);
}
