use super::*;
use crate::clock::{Clock, ManualClock};
use crate::delegation::{Bounds, Scope};

fn clock() -> ManualClock {
    ManualClock::new("2026-11-21T10:00:00Z".parse().unwrap())
}

fn opening(chain: &[&str]) -> Opening {
    Opening {
        chain: chain.iter().map(|id| id.parse().unwrap()).collect(),
        trust: "token".into(),
        person: None,
        bounds: Bounds {
            scope: Scope::ALL,
            expires: None,
            depth: 0,
        },
        parent: None,
        bound: None,
        idles: true,
    }
}

fn until(mut opening: Opening, clock: &ManualClock, secs: u64) -> Opening {
    opening.bounds.expires = Some(clock.now().wall + Duration::from_secs(secs));
    opening
}

fn words(ended: &[Ended]) -> Vec<Reason> {
    let mut words: Vec<_> = ended.iter().map(|(_, reason)| *reason).collect();
    words.sort_unstable();
    words
}

#[test]
fn a_session_is_one_agent_at_one_peer_until_idle() {
    let clock = clock();
    let sessions = Sessions::new(Settings::default());
    let open = |peer: &str| {
        let opened = sessions.open(opening(&["a"]), (peer, None), &clock.now());
        opened.unwrap()
    };
    let (first, new) = open("127.0.0.1");
    assert!(new);
    let (second, new) = open("127.0.0.1");
    assert!(!new && Arc::ptr_eq(first.session(), second.session()));
    assert!(open("127.0.0.2").1, "another peer");

    clock.advance(Duration::from_secs(601));
    let ended = sessions.sweep(&clock.now());
    assert_eq!(words(&ended), ["idle"], "the one that nothing holds");
    let held = Arc::clone(first.session());
    drop((first, second));
    clock.advance(Duration::from_secs(1));
    assert_eq!(sessions.sweep(&clock.now()).len(), 1);
    assert!(held.ended().is_cancelled() && sessions.is_empty());
}

#[test]
fn a_parents_end_ends_the_tree() {
    let clock = clock();
    let sessions = Sessions::new(Settings::default());
    let start = |chain: &[&str], parent: Option<&Arc<Session>>| {
        let parent = parent.map(|parent| Arc::clone(parent.id()));
        let opening = Opening {
            parent,
            ..opening(chain)
        };
        sessions.start(opening, &clock.now()).unwrap()
    };
    let top = start(&["a"], None);
    let (one, two) = (
        start(&["a", "b"], Some(&top)),
        start(&["a", "c"], Some(&top)),
    );
    let below = start(&["a", "b", "d"], Some(&one));
    let other = start(&["a"], None);
    sessions.knows([7; 32], &below);
    assert_eq!(sessions.by_token(&[7; 32]).unwrap().id(), below.id());

    let ended = sessions.end(top.id(), "revoked");
    assert_eq!(words(&ended), ["parent", "parent", "parent", "revoked"]);
    for session in [&top, &one, &two, &below] {
        assert!(session.is_over(&clock.now()) && sessions.by_id(session.id()).is_none());
    }
    assert!(
        sessions.by_token(&[7; 32]).is_none(),
        "its token is not known any more"
    );
    sessions.knows([7; 32], &below);
    assert!(sessions.by_token(&[7; 32]).is_none(), "nor again");
    assert!(!other.is_over(&clock.now()));
    assert!(sessions.end(top.id(), "revoked").is_empty(), "it ends once");
}

#[test]
fn time_ends_a_session_by_either_clock() {
    let clock = clock();
    let sessions = Sessions::new(Settings::default());
    let session = sessions
        .start(until(opening(&["a"]), &clock, 60), &clock.now())
        .unwrap();
    clock.advance(Duration::from_millis(59_999));
    assert!(sessions.sweep(&clock.now()).is_empty() && !session.is_over(&clock.now()));
    clock.advance(Duration::from_millis(1));
    assert!(session.is_over(&clock.now()), "before anybody swept");
    assert_eq!(words(&sessions.sweep(&clock.now())), ["expired"]);

    // A wall clock that is set back gives no more time.
    let session = sessions
        .start(until(opening(&["a"]), &clock, 60), &clock.now())
        .unwrap();
    clock.advance(Duration::from_secs(61));
    clock.set_wall("2026-11-21T09:00:00Z".parse().unwrap());
    assert!(session.is_over(&clock.now()));
}

#[test]
fn whoever_waits_for_a_sub_agent_is_not_idle() {
    let clock = clock();
    let sessions = Sessions::new(Settings::default());
    let top = sessions.start(opening(&["a"]), &clock.now()).unwrap();
    let child = Opening {
        parent: Some(Arc::clone(top.id())),
        ..opening(&["a", "b"])
    };
    let child = sessions.start(child, &clock.now()).unwrap();
    for _ in 0..3 {
        clock.advance(Duration::from_mins(5));
        child.touch(&clock.now());
        assert!(sessions.sweep(&clock.now()).is_empty());
    }
    clock.advance(Duration::from_mins(11));
    assert_eq!(words(&sessions.sweep(&clock.now())), ["idle"]);
    clock.advance(Duration::from_secs(2));
    assert_eq!(
        words(&sessions.sweep(&clock.now())),
        ["idle"],
        "now the parent"
    );
}

#[test]
fn blocked_evidence_stays_blocked_until_its_own_end() {
    let clock = clock();
    let sessions = Sessions::new(Settings::default());
    let open = |agent: &str, evidence: u8| {
        let opening = until(opening(&[agent]), &clock, 300);
        sessions.open(opening, ("", Some([evidence; 32])), &clock.now())
    };
    let (hold, _) = open("a", 1).unwrap();
    // The same evidence as another agent's, since the table of who is who was changed; and another evidence.
    let (other, apart) = (open("b", 1).unwrap().0, open("a", 2).unwrap().0);
    let (evidence, end) = sessions.evidence_of(hold.session().id()).unwrap();
    assert_eq!(evidence, [1; 32]);
    let beyond = end.as_second() - hold.session().bounds().expires.unwrap().as_second();
    assert!(beyond > 30, "whoever verifies gives it some seconds more");
    let ended = sessions.revoke(evidence, end.as_millisecond(), "revoked");
    assert_eq!(words(&ended), ["revoked", "revoked"]);
    assert!(hold.session().is_over(&clock.now()) && other.session().is_over(&clock.now()));
    assert!(!apart.session().is_over(&clock.now()));
    assert!(sessions.is_blocked(&[1; 32], &clock.now()));
    assert_eq!(open("a", 1).unwrap_err(), Revoked);
    assert_eq!(open("c", 1).unwrap_err(), Revoked);
    assert!(!open("a", 2).unwrap().1, "the session that there was");
    clock.advance(Duration::from_secs(361));
    assert!(!sessions.is_blocked(&[1; 32], &clock.now()));
}

/// What identification costs, and what a session costs: printed by
/// `cargo test --release --lib session::tests::figures -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement, not a test"]
fn figures() {
    let clock = clock();
    let sessions = Sessions::new(Settings::default());
    let keys = Keys::new(&clock.now()).unwrap();
    let token_of = |session: &Session| {
        mint(
            &keys,
            session,
            "https://keyward.example.com",
            ("route:a", 0, i64::MAX / 2000),
        )
        .unwrap()
    };
    let mut token = String::new();
    let before = resident();
    for _ in 0..10_000 {
        let session = sessions.start(opening(&["agent"]), &clock.now()).unwrap();
        token = token_of(&session);
        sessions.knows(digest_of(token.as_bytes()), &session);
    }
    let held = (resident() - before) / 10_000;
    let rounds = 200_000_u32;
    let began = std::time::Instant::now();
    for _ in 0..rounds {
        let session = sessions.by_token(&digest_of(std::hint::black_box(token.as_bytes())));
        assert!(!session.unwrap().is_over(&clock.now()));
    }
    let known = began.elapsed() / rounds;
    let began = std::time::Instant::now();
    for _ in 0..2_000 {
        read(&keys, std::hint::black_box(token.as_bytes()), 0).unwrap();
    }
    let first = began.elapsed() / 2_000;
    let began = std::time::Instant::now();
    for _ in 0..100 {
        sessions.next.store(0, Ordering::Relaxed);
        assert!(sessions.sweep(&clock.now()).is_empty());
    }
    let swept = began.elapsed() / 100;
    let shown = format!(
        "a known token of {} bytes: {known:?}; an unknown one: {first:?}; a sweep of 10,000: {swept:?}; {} bytes each, {held} with all that finds it\n",
        token.len(),
        size_of::<Session>(),
    );
    std::io::Write::write_all(&mut std::io::stderr(), shown.as_bytes()).unwrap();
}

/// What this process holds in memory, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: usize = line.unwrap().trim_end_matches("kB").trim().parse().unwrap();
    kib * 1024
}

fn digest_of(token: &[u8]) -> Digest {
    let mut out = [0; 32];
    out.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token).as_ref());
    out
}

/// Whoever hands on fills its own room, and nobody else's.
#[test]
fn what_an_agent_hands_on_counts_as_its_own() {
    let clock = clock();
    let sessions = Sessions::new(Settings::default());
    let start = |chain: &[&str]| sessions.start(opening(chain), &clock.now());
    for _ in 0..MOST_OF_AN_AGENT {
        start(&["a", "b"]).unwrap();
    }
    assert!(start(&["a", "b"]).is_err() && start(&["a"]).is_err());
    let own = start(&["b"]).unwrap();
    assert!(start(&["b", "a"]).is_ok());
    sessions.end_where(|session| session.chain().len() == 2, "order");
    assert!(start(&["a"]).is_ok());
    assert!(!own.ended().is_cancelled());
}
