//! Approvals on both databases: the state machine, who counts, and that a yes is used once.

use std::collections::HashMap;

use tokio_util::task::TaskTracker;

use super::*;
use crate::agent::{AgentId, Name, User};
use crate::approval::{
    ApprovalStore as _, Approvals, Approver, Ask, By, Console, Decision, Entry, Kept as Asked,
    Mode, NotAsked, NotCounted, NotGranted, Parts, Reach, Room, Settings as Table, Status, Subject,
};
use crate::audit::{self, Audit, Sink};
use crate::clock::{Clock, ManualClock};
use crate::policy::Digest;

/// One replica: its own memory, the shared store.
struct Replica {
    approvals: Approvals,
    audit: Arc<Audit>,
    clock: Arc<ManualClock>,
}

const EXPIRES: Duration = Duration::from_mins(2);

fn approver(name: &str) -> Approver {
    let login = name
        .split_once(':')
        .map(|(login, user)| (login.parse().unwrap(), user.into()));
    Approver {
        name: name.into(),
        login,
    }
}

fn table(quorum: u32) -> Table {
    let names = [
        "alice",
        "bob",
        "carol@example.com",
        "corp:carol@example.com",
        "corp:dora",
    ];
    Table {
        name: "ops".parse().unwrap(),
        mode: Mode::Ticket,
        expires: EXPIRES,
        max_pending: 3,
        console: Console {
            approvers: names.into_iter().map(approver).collect(),
            quorum,
            webhook: None,
        },
    }
}

impl Replica {
    fn on(store: Store, quorum: u32) -> Self {
        let clock = Arc::new(ManualClock::new(jiff::Timestamp::now()));
        let time: Arc<dyn Clock> = Arc::clone(&clock) as Arc<dyn Clock>;
        let audit = Audit::open(audit::Settings::new(Sink::Memory), Arc::clone(&time));
        let audit = Arc::new(audit.unwrap());
        let approvals = Approvals::new(Parts {
            store: Arc::new(store),
            audit: Arc::clone(&audit),
            clock: time,
            tracker: TaskTracker::new(),
            reach: Reach::Everywhere,
        });
        approvals.reconfigure(vec![table(quorum)], HashMap::new());
        Self {
            approvals,
            audit,
            clock,
        }
    }

    async fn ask(&self, agent: &str, body: &str) -> Result<Entry, NotAsked> {
        self.ask_of(agent, body, None, false).await
    }

    async fn ask_of(
        &self,
        agent: &str,
        body: &str,
        user: Option<&User>,
        held: bool,
    ) -> Result<Entry, NotAsked> {
        let name: Name = "ops".parse().unwrap();
        let chain: [AgentId; 1] = [agent.parse().unwrap()];
        let subject = Subject {
            method: Some("POST".into()),
            url: Some("https://api.test/x?q=1".into()),
            ..Subject::default()
        };
        let ask = Ask {
            name: &name,
            session: &"s1".into(),
            chain: &chain,
            user,
            subject: &subject,
            digest: Digest::of(body.as_bytes()),
            held,
        };
        self.approvals.ask(&ask).await
    }

    async fn say(&self, entry: &Entry, name: &str, yes: bool) -> Result<Status, NotCounted> {
        let by = By::Operator(name);
        let said = self
            .approvals
            .decide(&entry.id, (by, yes), Some("why"))
            .await;
        said.map(|entry| entry.status)
    }

    async fn look(&self, entry: &Entry) -> Result<Status, NotGranted> {
        let found = self.approvals.look(&entry.id, &entry.digest).await;
        found.map(|entry| entry.status)
    }

    /// The outcomes in the trail, in order.
    fn outcomes(&self) -> Vec<String> {
        let lines = String::from_utf8(self.audit.lines().unwrap()).unwrap();
        let records = lines
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let of_approvals = records.filter(|record| record["event"] == "approval");
        of_approvals
            .map(|record| record["outcome"].as_str().unwrap().to_owned())
            .collect()
    }
}

#[tokio::test]
async fn a_yes_is_used_once_whoever_tries_how_often() {
    for place in places() {
        let (one, two) = (place.open().await, place.open().await);
        let (one, two) = (Replica::on(one, 1), Replica::on(two, 1));
        let asked = one.ask("a", "x").await.unwrap();
        assert_eq!(one.look(&asked).await, Ok(Status::Pending));
        let early = one.approvals.take(&asked).await;
        assert_eq!(early.unwrap_err(), NotGranted::Over, "nobody said yes");
        assert_eq!(two.say(&asked, "alice", true).await, Ok(Status::Approved));
        assert_eq!(one.look(&asked).await, Ok(Status::Approved));
        let (one, two) = (Arc::new(one), Arc::new(two));
        let mut tries = tokio::task::JoinSet::new();
        for number in 0..1000 {
            let replica = Arc::clone(if number % 2 == 0 { &one } else { &two });
            let asked = asked.clone();
            tries.spawn(async move { replica.approvals.take(&asked).await });
        }
        let tries = tries.join_all().await;
        let won: Vec<_> = tries.into_iter().filter_map(Result::ok).collect();
        assert_eq!(won.len(), 1, "one of a thousand");
        assert_eq!(*won[0].digest(), asked.digest);
        for replica in [&one, &two] {
            assert_eq!(replica.look(&asked).await, Err(NotGranted::Over));
        }
        // Nor does another process find it again.
        let third = Replica::on(place.open().await, 1);
        assert_eq!(third.look(&asked).await, Err(NotGranted::Over));
        assert!(third.approvals.take(&asked).await.is_err());
        let used = [one.outcomes(), two.outcomes()].concat();
        assert_eq!(used.iter().filter(|word| *word == "used").count(), 1);
    }
}

#[tokio::test]
async fn a_quorum_counts_people_and_one_denial_denies() {
    for place in places() {
        let store = place.open().await;
        let here = Replica::on(store, 2);
        let asked = here.ask("a", "x").await.unwrap();
        assert_eq!(here.say(&asked, "alice", true).await, Ok(Status::Pending));
        assert_eq!(
            here.say(&asked, "alice", true).await,
            Err(NotCounted::Decided),
            "one person counts once"
        );
        assert_eq!(
            here.say(&asked, "mallory", true).await,
            Err(NotCounted::NotAnApprover)
        );
        assert_eq!(here.look(&asked).await, Ok(Status::Pending));
        assert_eq!(here.say(&asked, "bob", true).await, Ok(Status::Approved));
        assert_eq!(
            here.say(&asked, "carol@example.com", false).await,
            Err(NotCounted::Decided)
        );
        let shown = here.approvals.show(&asked.id, By::Operator("x")).await;
        let shown = shown.unwrap().unwrap().shown();
        assert_eq!(shown["decisions"].as_array().unwrap().len(), 2);
        assert_eq!(shown["decisions"][0]["reason"], "why");

        let other = here.ask("a", "y").await.unwrap();
        assert_eq!(here.say(&other, "alice", true).await, Ok(Status::Pending));
        assert_eq!(here.say(&other, "bob", false).await, Ok(Status::Denied));
        assert_eq!(here.look(&other).await, Err(NotGranted::Denied));
        assert!(here.approvals.take(&other).await.is_err());
        assert_eq!(
            here.outcomes(),
            [
                "asked", "approved", "approved", "asked", "approved", "denied"
            ]
        );
    }
}

#[tokio::test]
async fn nobody_approves_for_themselves() {
    let place = place();
    let here = Replica::on(place.open().await, 1);
    let user = |provider: &str, name: &str| User {
        provider: provider.parse().unwrap(),
        name: name.into(),
    };
    let carol = user("corp", "carol@example.com");
    let asked = here.ask_of("a", "x", Some(&carol), false).await.unwrap();
    let decide = async |entry: &Entry, by: By<'_>| {
        let said = here.approvals.decide(&entry.id, (by, true), None).await;
        said.map(|entry| entry.status)
    };
    assert_eq!(
        decide(&asked, By::Person(&carol)).await,
        Err(NotCounted::Own)
    );
    assert_eq!(
        decide(&asked, By::Operator("carol@example.com")).await,
        Err(NotCounted::Own)
    );
    assert_eq!(here.look(&asked).await, Ok(Status::Pending));
    // `corp:dora` is dora of that login, and no operator or namesake; `alice` is the operator, and no login's user.
    for by in [
        By::Person(&user("guests", "alice")),
        By::Person(&user("corp", "alice")),
        By::Person(&user("guests", "dora")),
        By::Operator("dora"),
        By::Operator("corp:dora"),
    ] {
        assert_eq!(decide(&asked, by).await, Err(NotCounted::NotAnApprover));
    }
    let dora = user("corp", "dora");
    assert_eq!(
        decide(&asked, By::Person(&dora)).await,
        Ok(Status::Approved)
    );
}

#[tokio::test]
async fn what_the_same_agent_asks_again_is_one_entry_and_it_has_only_so_many() {
    for place in places() {
        let (one, two) = (place.open().await, place.open().await);
        let (one, two) = (Replica::on(one, 1), Replica::on(two, 1));
        let asked = one.ask("a", "x").await.unwrap();
        let again = two.ask("a", "x").await.unwrap();
        assert_eq!((&again.id, again.asks), (&asked.id, 2));
        assert_ne!(one.ask("b", "x").await.unwrap().id, asked.id);
        let (one, two) = (Arc::new(one), Arc::new(two));
        let mut flood = tokio::task::JoinSet::new();
        for number in 0..50 {
            let one = Arc::clone(&one);
            flood.spawn(async move { one.ask("a", &number.to_string()).await.map(|_| ()) });
        }
        let flood = flood.join_all().await;
        assert_eq!(flood.iter().filter(|asked| asked.is_ok()).count(), 2);
        assert!(flood.contains(&Err(NotAsked::Throttled)));
        // What is asked already is no further question, and another agent has room of its own.
        assert_eq!(two.ask("a", "x").await.unwrap().asks, 3);
        assert!(two.ask("b", "y").await.is_ok());
        // A decision makes room.
        assert_eq!(two.say(&asked, "bob", false).await, Ok(Status::Denied));
        assert!(one.ask("a", "z").await.is_ok());
        let open = two.approvals.list(Some(Status::Pending), By::Operator("x"));
        assert_eq!(open.await.unwrap().len(), 5);
    }
}

/// An open store of every kind, and what must live as long.
async fn stores() -> Vec<(Store, Option<Place>)> {
    let mut all = vec![(Store::memory().unwrap(), None)];
    for place in places() {
        all.push((place.open().await, Some(place)));
    }
    all
}

/// The entry as this agent's question for something else, asked so many milliseconds later.
fn like(entry: &Entry, agent: &str, number: u32) -> Entry {
    let later = Duration::from_millis(number.into());
    Entry {
        id: format!("{agent:0<8}{number:024x}").into(),
        agent: agent.parse().unwrap(),
        digest: Digest::of(number.to_string().as_bytes()),
        requested: entry.requested + later,
        ..entry.clone()
    }
}

/// Agents that ask and hang up fill no store, and nobody's questions but their own go by it.
#[tokio::test]
async fn what_was_withdrawn_is_kept_up_to_a_bound_and_the_oldest_goes_first() {
    for (store, _place) in stores().await {
        let here = Replica::on(store.clone(), 1);
        let gone = here.ask_of("b", "gone", None, true).await.unwrap();
        here.approvals.withdraw(&gone).await;
        let open = here.ask_of("b", "open", None, true).await.unwrap();
        let denied = here.ask("a", "denied").await.unwrap();
        assert_eq!(here.say(&denied, "bob", false).await, Ok(Status::Denied));
        let mut asked = Vec::new();
        for number in 0..130 {
            here.clock.advance(Duration::from_millis(1));
            let held = here.ask_of("a", &number.to_string(), None, true).await;
            here.approvals.withdraw(held.as_ref().unwrap()).await;
            asked.push(held.unwrap().id);
        }
        here.ask("a", "last").await.unwrap();
        let of = async |status, agent: &str| {
            let all = here.approvals.list(status, By::Operator("x")).await;
            let mut all = all.unwrap();
            all.retain(|entry| entry.agent.as_str() == agent);
            let ids = all.into_iter().map(|entry| entry.id);
            ids.collect::<Vec<_>>()
        };
        let mut kept = of(Some(Status::Expired), "a").await;
        kept.reverse();
        assert_eq!(kept, asked[30..], "the newest hundred");
        assert_eq!(of(None, "b").await.len(), 2);
        assert_eq!(of(Some(Status::Expired), "b").await, [gone.id]);
        assert_eq!(of(Some(Status::Denied), "a").await, [denied.id]);
        assert_eq!(here.look(&open).await, Ok(Status::Pending));
        // Of all agents together it has a bound as well.
        store.trim(&open.agent, 100, 40).await.unwrap();
        assert_eq!(of(Some(Status::Expired), "a").await.len(), 40);
        assert!(of(Some(Status::Expired), "b").await.is_empty());
        assert_eq!(here.look(&open).await, Ok(Status::Pending));
        // What the trail says of them is not trimmed.
        let outcomes = here.outcomes();
        let ended = outcomes.iter().filter(|word| *word == "expired");
        assert_eq!(ended.count(), 131);
    }
}

#[tokio::test]
async fn open_questions_have_a_bound_of_one_agent_and_of_all() {
    for (store, _place) in stores().await {
        let here = Replica::on(store.clone(), 1);
        let first = here.ask("a", "x").await.unwrap();
        let room = Room {
            of_name: 2,
            of_agent: 3,
            in_all: 5,
        };
        let ask = async |entry: &Entry, room: &Room| {
            let kept = store.ask(entry, room, false).await.unwrap();
            matches!(kept, Asked::Entry(_))
        };
        let elsewhere = |entry: Entry| Entry {
            name: "others".parse().unwrap(),
            ..entry
        };
        assert!(ask(&like(&first, "a", 1), &room).await);
        assert!(!ask(&like(&first, "a", 2), &room).await, "of one name");
        let third = elsewhere(like(&first, "a", 3));
        assert!(ask(&third, &room).await);
        let more = elsewhere(like(&first, "a", 4));
        assert!(!ask(&more, &room).await, "of one agent");
        assert!(ask(&like(&first, "b", 5), &room).await);
        assert!(ask(&like(&first, "c", 6), &room).await);
        assert!(!ask(&like(&first, "d", 7), &room).await, "of all");
        assert!(ask(&like(&first, "c", 6), &room).await, "asked already");
        // An answer makes room.
        let no = Decision {
            approver: "bob".into(),
            approve: false,
            reason: None,
            made: first.requested,
        };
        assert!(store.decide(&third.id, &no).await.unwrap());
        assert!(ask(&like(&first, "d", 7), &room).await);
    }
}

/// An approver finds everybody's questions, whoever has the most.
#[tokio::test]
async fn no_agents_questions_fill_the_list() {
    for (store, _place) in stores().await {
        let here = Replica::on(store.clone(), 1);
        let first = here.ask("b", "x").await.unwrap();
        let room = Room {
            of_name: 5000,
            of_agent: 5000,
            in_all: 5000,
        };
        for number in 1..=1010 {
            let kept = store.ask(&like(&first, "a", number), &room, true).await;
            assert!(matches!(kept, Ok(Asked::Entry(_))));
        }
        for status in [None, Some(Status::Pending)] {
            let listed = here.approvals.list(status, By::Operator("x")).await;
            let listed = listed.unwrap();
            assert_eq!(listed.len(), 1000);
            assert!(listed.is_sorted_by_key(|entry| std::cmp::Reverse(entry.requested)));
            assert_eq!(listed.last().map(|entry| &entry.id), Some(&first.id));
        }
        // Nor does what is over, however new it is.
        for number in 1..=1010 {
            let id = like(&first, "a", number).id;
            assert_eq!(store.withdraw(&id).await, Ok(true));
        }
        let listed = here.approvals.list(None, By::Operator("x")).await.unwrap();
        assert_eq!(listed.last().map(|entry| &entry.id), Some(&first.id));
    }
}

#[tokio::test]
async fn a_question_and_a_yes_end_by_either_clock() {
    for place in places() {
        let store = place.open().await;
        let here = Replica::on(store.clone(), 1);
        let (asked, approved) = (
            here.ask("a", "x").await.unwrap(),
            here.ask("a", "y").await.unwrap(),
        );
        assert_eq!(here.say(&approved, "bob", true).await, Ok(Status::Approved));
        // The wall clock is set back: the other one goes on.
        let began = here.clock.now().wall;
        here.clock.advance(EXPIRES + Duration::from_secs(1));
        here.clock.set_wall(began - Duration::from_hours(1));
        for entry in [&asked, &approved] {
            assert_eq!(here.look(entry).await, Err(NotGranted::Over));
            assert!(here.approvals.take(entry).await.is_err());
            assert!(here.say(entry, "alice", true).await.is_err());
        }
        here.approvals.sweep().await;
        // So it is for every other replica, however late it is there.
        let other = Replica::on(store, 1);
        for entry in [&asked, &approved] {
            assert_eq!(other.look(entry).await, Err(NotGranted::Over));
        }
        assert_eq!(
            here.outcomes()
                .iter()
                .filter(|word| *word == "expired")
                .count(),
            2
        );
        let fresh = other.ask("a", "x").await.unwrap();
        assert_ne!(fresh.id, asked.id);
        other.clock.set_wall(fresh.expires);
        assert_eq!(
            other.look(&fresh).await,
            Err(NotGranted::Over),
            "by the wall"
        );
    }
}

#[tokio::test]
async fn another_digest_or_an_id_that_is_none_gets_nothing() {
    let place = place();
    let here = Replica::on(place.open().await, 1);
    let asked = here.ask("a", "x").await.unwrap();
    assert_eq!(here.say(&asked, "bob", true).await, Ok(Status::Approved));
    let look = async |id: &str, body: &str| {
        let digest = Digest::of(body.as_bytes());
        here.approvals.look(id, &digest).await.unwrap_err()
    };
    assert_eq!(look(&asked.id, "y").await, NotGranted::Mismatch);
    for guess in [
        "",
        "1",
        &asked.code,
        &"0".repeat(32),
        "' OR 1=1 --",
        &asked.id.to_uppercase(),
    ] {
        if guess != &*asked.id {
            assert_eq!(look(guess, "x").await, NotGranted::Over, "{guess}");
        }
    }
    // Somebody else's try does not use it up.
    let found = here.approvals.look(&asked.id, &asked.digest).await.unwrap();
    assert!(here.approvals.take(&found).await.is_ok());
    assert_eq!(here.outcomes(), ["asked", "approved", "mismatch", "used"]);
}

#[tokio::test]
async fn whoever_waits_hears_at_once_and_who_leaves_takes_the_question_along() {
    let place = place();
    let here = Arc::new(Replica::on(place.open().await, 1));
    let asked = here.ask_of("a", "x", None, true).await.unwrap();
    let twin = here.ask_of("a", "x", None, true).await.unwrap();
    assert_eq!(twin.id, asked.id);
    let waiting = TaskTracker::new().spawn({
        let (here, asked) = (Arc::clone(&here), asked.clone());
        async move { here.approvals.wait(&asked).await }
    });
    tokio::task::yield_now().await;
    assert_eq!(here.say(&asked, "alice", true).await, Ok(Status::Approved));
    let got = tokio::time::timeout(Duration::from_millis(400), waiting).await;
    assert_eq!(got.unwrap().unwrap().unwrap().status, Status::Approved);

    let other = here.ask_of("a", "y", None, true).await.unwrap();
    let again = here.ask_of("a", "y", None, true).await.unwrap();
    here.approvals.withdraw(&other).await;
    assert_eq!(
        here.look(&again).await,
        Ok(Status::Pending),
        "one waits still"
    );
    here.approvals.withdraw(&again).await;
    assert_eq!(here.look(&again).await, Err(NotGranted::Over));
    assert_eq!(
        here.say(&again, "alice", true).await,
        Err(NotCounted::Decided)
    );
}
