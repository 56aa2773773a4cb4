//! Whom a lease serves: its holder, its user, and what it was narrowed to.

use super::*;
use crate::agent::User;

fn person(name: &str) -> Arc<Person> {
    let user = User {
        provider: "corp".parse().unwrap(),
        name: name.into(),
    };
    Arc::new(Person::new(user, Vec::new()))
}

fn narrowed(scopes: &[&str]) -> Arc<Narrow> {
    Arc::new(Narrow {
        scopes: Some(scopes.iter().map(|scope| Arc::from(*scope)).collect()),
        ..Narrow::default()
    })
}

impl Scene {
    async fn lease_for(
        &self,
        (agent, session): (&str, &str),
        person: Option<&Arc<Person>>,
        narrow: &Arc<Narrow>,
    ) -> LeaseId {
        let permit = permit_for((agent, session, "crm"), person, Arc::clone(narrow));
        self.broker.lease(&permit).await.unwrap().id().clone()
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_route_and_a_write_route_have_leases_of_their_own() {
    for share in [Share::Session, Share::Agent, Share::All] {
        let scene = Scene::new(|spec| spec.share = share);
        let (read, write, all) = (narrowed(&["read"]), narrowed(&["write"]), Arc::default());
        let mut ids = Vec::new();
        for narrow in [&read, &write, &all] {
            ids.push(scene.lease_for(("a", "s1"), None, narrow).await);
        }
        assert_eq!(scene.calls(), 3, "{share:?}");
        let asked: Vec<_> = scene
            .fake
            .asked
            .lock()
            .iter()
            .map(|scope| Arc::clone(&scope.narrow))
            .collect();
        assert_eq!(asked, [read.clone(), write.clone(), all.clone()]);
        // After a reload an equal one is the same.
        let again = [narrowed(&["read"]), narrowed(&["write"]), Arc::default()];
        for (id, narrow) in ids.iter().zip(&again) {
            assert_eq!(scene.lease_for(("a", "s1"), None, narrow).await, *id);
        }
        assert_eq!(scene.calls(), 3);
        let agent = "a".parse().unwrap();
        let patterns = scene
            .broker
            .patterns(&agent, "s1", None, [&scene.spec.name]);
        assert!(!patterns.is_empty());
        // The session's end takes them all.
        scene.broker.end_session(&"s1".into());
        settle().await;
        assert_eq!(scene.fake.revoked.lock().len(), 3, "{share:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_never_serves_another_user_however_far_it_is_shared() {
    let long = "x".repeat(300);
    for (share, expected) in [(Share::Session, 6), (Share::Agent, 5), (Share::All, 4)] {
        let scene = Scene::new(|spec| spec.share = share);
        let people = [person("alice"), person("bob"), person(&long)];
        let all = Arc::default();
        let mut ids = std::collections::HashSet::new();
        for (agent, session, person) in [
            ("a", "s1", Some(&people[0])),
            ("a", "s2", Some(&people[0])),
            ("b", "s3", Some(&people[0])),
            ("a", "s4", Some(&people[1])),
            ("a", "s5", Some(&people[2])),
            ("a", "s6", None),
        ] {
            ids.insert(scene.lease_for((agent, session), person, &all).await);
        }
        assert_eq!(ids.len(), expected, "{share:?}");
        let asked = scene.fake.asked.lock();
        assert!(asked.iter().filter(|scope| scope.person.is_some()).count() == expected - 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_users_shared_lease_ends_with_the_last_session_that_it_may_serve() {
    for share in [Share::Agent, Share::All] {
        let scene = Scene::new(|spec| spec.share = share);
        let (alice, bob) = (person("alice"), person("bob"));
        let all = Arc::default();
        for (session, person) in [("s1", &alice), ("s2", &alice), ("s3", &bob)] {
            let agent = "a".parse().unwrap();
            scene
                .broker
                .begin_session(&session.into(), &agent, Some(person));
            scene.lease_for(("a", session), Some(person), &all).await;
        }
        assert_eq!(scene.calls(), 2, "{share:?}");
        scene.broker.end_session(&"s1".into());
        settle().await;
        assert!(scene.fake.revoked.lock().is_empty());
        scene.broker.end_session(&"s2".into());
        settle().await;
        assert_eq!(scene.fake.revoked.lock().len(), 1, "alice's alone");
        scene.lease_for(("a", "s3"), Some(&bob), &all).await;
        assert_eq!(scene.calls(), 2, "bob's lives on");
    }
}

#[tokio::test(start_paused = true)]
async fn answers_to_one_user_are_scrubbed_of_that_users_secrets() {
    let scene = Scene::new(|spec| spec.share = Share::All);
    let (alice, bob) = (person("alice"), person("bob"));
    scene
        .lease_for(("a", "s1"), Some(&alice), &Arc::default())
        .await;
    let patterns = |person| {
        let agent = "a".parse().unwrap();
        scene
            .broker
            .patterns(&agent, "s1", person, [&scene.spec.name])
    };
    assert!(!patterns(Some(&alice)).is_empty());
    assert!(patterns(Some(&bob)).is_empty() && patterns(None).is_empty());
}
