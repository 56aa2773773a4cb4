//! What injects is what is enforced: the decision beside one computed from the texts alone.

use std::sync::Arc;

use proptest::prelude::*;

use super::{Conditions, Policy, Query, Verdict};
use crate::clock::{Clock as _, ManualClock};
use crate::head::Head;
use crate::host::Target;
use crate::inject::Placement;
use crate::route::{MethodSet, Route, Table};

const HOSTS: [&str; 4] = ["api.test", "www.api.test", "*.test", "*.api.test"];
const ASKED: [&str; 4] = ["api.test", "www.api.test", "other.test", "api.example"];
const METHODS: [&str; 3] = ["GET", "POST", "DELETE"];
const PATTERNS: [&str; 5] = ["/**", "/a/**", "/a/*", "/a/b", "/b"];
const PATHS: [&str; 6] = ["/", "/a", "/a/b", "/a/b/c", "/b", "/ab"];
const AGENTS: [&str; 2] = ["one", "two"];
const CREDENTIALS: [&str; 2] = ["mail", "files"];

/// A route as its author writes it.
#[derive(Debug, Clone)]
struct Written {
    host: &'static str,
    method: Option<&'static str>,
    path: Option<&'static str>,
    agent: Option<&'static str>,
    credential: Option<&'static str>,
}

impl Written {
    fn route(&self, index: usize) -> Route {
        Route {
            name: format!("route-{}", index + 1).into(),
            index,
            hosts: vec![self.host.parse().unwrap()],
            methods: self
                .method
                .map(|method| MethodSet::parse([method]).unwrap()),
            paths: self
                .path
                .map(|path| path.parse().unwrap())
                .into_iter()
                .collect(),
            agents: self
                .agent
                .map(|agent| agent.parse().unwrap())
                .into_iter()
                .collect(),
            credential: self.credential.map(|name| name.parse().unwrap()),
            placements: vec![Placement::Bearer],
            slot: 0,
            ranges: false,
            encoded_slash: false,
            empty_segments: false,
            websocket: true,
            preset: None,
            narrow: Arc::default(),
            answer: None,
            peers: None,
        }
    }

    /// The same question, answered by comparing texts.
    fn speaks_of(&self, host: &str, method: &str, path: &str, agent: &str) -> bool {
        let host_fits = match self.host.strip_prefix("*.") {
            Some(rest) => host.split_once('.').is_some_and(|(_, tail)| tail == rest),
            None => self.host == host,
        };
        let path_fits = match self.path {
            None | Some("/**") => true,
            Some("/a/**") => path == "/a" || path.starts_with("/a/"),
            Some("/a/*") => path
                .strip_prefix("/a/")
                .is_some_and(|last| !last.is_empty() && !last.contains('/')),
            Some(exact) => exact == path,
        };
        host_fits
            && path_fits
            && self.method.is_none_or(|own| own == method)
            && self.agent.is_none_or(|own| own == agent)
    }
}

fn one_of<const N: usize>(choices: [&'static str; N]) -> impl Strategy<Value = &'static str> {
    (0..N).prop_map(move |index| choices[index])
}

fn written() -> impl Strategy<Value = Written> {
    (
        one_of(HOSTS),
        proptest::option::of(one_of(METHODS)),
        proptest::option::of(one_of(PATTERNS)),
        proptest::option::of(one_of(AGENTS)),
        proptest::option::of(one_of(CREDENTIALS)),
    )
        .prop_map(|(host, method, path, agent, credential)| Written {
            host,
            method,
            path,
            agent,
            credential,
        })
}

proptest! {
    /// HOST-18: a credential goes with a request if and only if the first route that speaks of it names that
    /// credential; what no route of the host speaks of is refused.
    #[test]
    fn the_route_that_injects_is_the_route_that_judged(
        file in proptest::collection::vec(written(), 1..6),
        (host, method) in (one_of(ASKED), one_of(METHODS)),
        (path, agent) in (one_of(PATHS), one_of(AGENTS)),
    ) {
        let routes: Vec<Route> = file.iter().enumerate().map(|(at, one)| one.route(at)).collect();
        let policy = Policy::new(vec![Conditions::default(); routes.len()]);
        let target = Arc::new(Target::from_connect(&format!("{host}:443")).unwrap());
        let agent_id = agent.parse().unwrap();
        let candidates = Table::new(routes).candidates(&target, &agent_id);
        let request = http::Request::builder().method(method).uri(path).header("host", host);
        let head = Head::clean(request.body(()).unwrap().into_parts().0, &target).unwrap();
        let query = Query {
            agent: &agent_id,
            session: &"s".into(),
            chain: std::slice::from_ref(&agent_id),
            person: None,
            scope: &crate::delegation::Scope::ALL,
            permissions: &crate::delegation::Scope::ALL,
            target: &target,
            source: None,
            now: ManualClock::new("2026-11-20T12:00:00Z".parse().unwrap()).now(),
            candidates: &candidates,
        };
        let expected = file.iter().find(|one| one.speaks_of(host, method, path, agent));
        match policy.evaluate(&query, head) {
            Verdict::Allow(permit) => {
                let expected = expected.expect("a route speaks of what is allowed");
                prop_assert_eq!(permit.credential().map(crate::agent::Name::as_str), expected.credential);
            }
            Verdict::Ask(..) => prop_assert!(false, "nobody is asked"),
            Verdict::Deny(..) => prop_assert!(expected.is_none()),
        }
    }
}

/// What is said to a request of `api.test`: `None`, or the denial.
fn denied(routes: Vec<(Route, Conditions)>, method: &str, path: &str) -> Option<super::Denial> {
    let (routes, conditions): (Vec<_>, Vec<_>) = routes.into_iter().unzip();
    let policy = Policy::new(conditions);
    let target = Arc::new(Target::from_connect("api.test:443").unwrap());
    let agent: crate::agent::AgentId = "one".parse().unwrap();
    let request = http::Request::builder().method(method).uri(path);
    let request = request.header("host", "api.test").body(()).unwrap();
    let query = Query {
        agent: &agent,
        session: &"s".into(),
        chain: std::slice::from_ref(&agent),
        person: None,
        scope: &crate::delegation::Scope::ALL,
        permissions: &crate::delegation::Scope::ALL,
        target: &target,
        source: None,
        now: ManualClock::new("2026-11-20T12:00:00Z".parse().unwrap()).now(),
        candidates: &Table::new(routes).candidates(&target, &agent),
    };
    let head = Head::clean(request.into_parts().0, &target).unwrap();
    match policy.evaluate(&query, head) {
        Verdict::Deny(denial, _) => Some(denial),
        Verdict::Allow(_) | Verdict::Ask(_) => None,
    }
}

/// A route over these paths that lets `%2F` through, with these guards.
fn encoded(index: usize, path: &'static str, conditions: Conditions) -> (Route, Conditions) {
    let written = Written {
        host: "api.test",
        method: None,
        path: Some(path),
        agent: None,
        credential: Some("mail"),
    };
    let route = Route {
        encoded_slash: true,
        ..written.route(index)
    };
    (route, conditions)
}

fn guarded() -> Conditions {
    Conditions {
        source: vec!["192.0.2.0/24".parse().unwrap()],
        ..Conditions::default()
    }
}

#[test]
fn an_encoded_slash_passes_no_stricter_route() {
    use super::Denial::{Condition, DecodedSlash};

    let before = || {
        vec![
            encoded(0, "/v1/admin/**", guarded()),
            encoded(1, "/**", Conditions::default()),
        ]
    };
    let after = || {
        vec![
            encoded(0, "/v1/*", Conditions::default()),
            encoded(1, "/v1/*/**", guarded()),
        ]
    };
    for path in [
        "/v1/admin%2fx",
        "/v1%2Fadmin/x",
        "/v1/%2fadmin/x",
        "/v1%2F%2Fadmin",
        "/%2fv1/admin/x",
        "/v1%2Fadmin;y/x",
        "/v1;%2Fadmin/x",
    ] {
        let said = denied(before(), "GET", path);
        // One with a parameter is told apart already where nothing is decoded.
        let refused = matches!(
            said,
            Some(DecodedSlash { .. } | super::Denial::EmptySegment { .. })
        );
        assert!(refused, "{path}: {said:?}");
    }
    let said = denied(before(), "GET", "/v1/admin/x");
    assert!(matches!(said, Some(Condition { .. })), "{said:?}");
    for path in ["/v1/a%2fadmin", "/sites/https%3A%2F%2Fexample.com%2F/query"] {
        assert_eq!(denied(before(), "GET", path), None, "{path}");
    }
    let said = denied(after(), "GET", "/v1/a%2fb");
    assert!(matches!(said, Some(DecodedSlash { .. })), "{said:?}");
    let alone = vec![encoded(0, "/v1/*", Conditions::default())];
    assert_eq!(denied(alone, "GET", "/v1/group%2fproject"), None);
}

#[test]
fn an_encoded_slash_mints_nothing() {
    let presets = crate::preset::Presets::shipped();
    let gitlab = || Conditions {
        minting: presets.get("gitlab").cloned(),
        ..Conditions::default()
    };
    let routes = || vec![encoded(0, "/**", gitlab())];
    let plain = || {
        let own = encoded(0, "/api/v4/user%2F*", Conditions::default());
        vec![own, encoded(1, "/**", gitlab())]
    };
    for path in [
        "/api/v4/user/keys",
        "/api/v4/user/%2fkeys",
        "/api/v4/user%2f%2fkeys",
        "/%2fapi/v4/user/keys",
        "/api/v4/user%2Fkeys",
    ] {
        let said = denied(routes(), "POST", path);
        let minting = matches!(said, Some(super::Denial::Minting { .. }));
        assert!(minting, "{path}: {said:?}");
    }
    let said = denied(plain(), "POST", "/api/v4/user%2Fkeys");
    assert!(
        matches!(said, Some(super::Denial::DecodedSlash { .. })),
        "{said:?}"
    );
    for path in [
        "/api/v4/projects/group%2Fproject/issues",
        "/api/v4/projects/1/repository/files/src%2Flib.rs",
        "/@scope%2fname",
    ] {
        assert_eq!(denied(routes(), "POST", path), None, "{path}");
    }
}

/// What a request's digest covers, as plain values.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    session: String,
    user: Option<(String, String)>,
    chain: Vec<String>,
    path: String,
    fields: Vec<(String, String)>,
    body: String,
}

fn told() -> impl Strategy<Value = Told> {
    let user = proptest::option::of(("[ab]{1,2}", "[ab]{0,2}"));
    let fields = proptest::collection::vec(("[xy]-[ab]{1,2}", "[ab]{0,2}"), 0..3);
    let chain = proptest::collection::vec("[ab]{1,2}", 1..3);
    ("[ab]{0,2}", user, chain, "/[ab]{0,2}", fields, "[ab]{0,2}").prop_map(
        |(session, user, chain, path, fields, body)| Told {
            session,
            user,
            chain,
            path,
            fields,
            body,
        },
    )
}

impl Told {
    /// In the order that counts: of one name the values stay in theirs, and names are sorted.
    fn sorted(&self) -> Self {
        let mut same = self.clone();
        same.fields.sort_by(|one, two| one.0.cmp(&two.0));
        same
    }

    fn pending(&self) -> super::Pending {
        let one = Written {
            host: "api.test",
            method: None,
            path: None,
            agent: None,
            credential: None,
        };
        let conditions = Conditions {
            approval: Some("ops".parse().unwrap()),
            ..Conditions::default()
        };
        let policy = Policy::new(vec![conditions]);
        let target = Arc::new(Target::from_connect("api.test:443").unwrap());
        let agents: Vec<crate::agent::AgentId> = self
            .chain
            .iter()
            .map(|agent| agent.parse().unwrap())
            .collect();
        let agent = agents.last().unwrap();
        let mut request = http::Request::builder()
            .uri(&self.path)
            .header("host", "api.test");
        for (name, value) in &self.fields {
            request = request.header(name, value);
        }
        let head = Head::clean(request.body(()).unwrap().into_parts().0, &target).unwrap();
        let person = self.user.as_ref().map(|(provider, name)| {
            let user = crate::agent::User {
                provider: provider.parse().unwrap(),
                name: name.as_str().into(),
            };
            Arc::new(super::Person::new(user, Vec::new()))
        });
        let query = Query {
            agent,
            session: &self.session.as_str().into(),
            chain: &agents,
            person: person.as_ref(),
            scope: &crate::delegation::Scope::ALL,
            permissions: &crate::delegation::Scope::ALL,
            target: &target,
            source: None,
            now: ManualClock::new("2026-11-20T12:00:00Z".parse().unwrap()).now(),
            candidates: &Table::new(vec![one.route(0)]).candidates(&target, agent),
        };
        match policy.evaluate(&query, head) {
            Verdict::Ask(pending) => pending,
            other => panic!("{other:?}"),
        }
    }

    fn digest(&self) -> super::Digest {
        let body = super::Digest::of(self.body.as_bytes());
        self.pending().digest(&body)
    }
}

proptest! {
    /// Digests are equal where everything is, and nowhere else: no part runs into the next.
    #[test]
    fn two_requests_have_one_digest_where_they_are_one(one in told(), two in told()) {
        prop_assert_eq!(one.digest() == two.digest(), one.sorted() == two.sorted());
        let grant = super::Grant::consumed("id", two.digest());
        let body = super::Digest::of(one.body.as_bytes());
        let permit = one.pending().redeem(&grant, &body);
        prop_assert_eq!(permit.is_ok(), one.sorted() == two.sorted());
    }
}
