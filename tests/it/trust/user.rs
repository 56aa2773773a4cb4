//! Sessions that act for a person: whose token counts, and that one person's leases are never another's.

use serde_json::{Value, json};

use super::super::agent::request;
use super::super::harness::{Harness, Setup, TOKEN_A};
use super::super::token::{ACCESS_TOKEN, EXCHANGE, Granted, JWT, part};
use super::super::upstream::{Upstream, ok};
use super::issuer::Issuer;
use super::mint::Pair;

const ID_TOKEN: &str = "urn:ietf:params:oauth:token-type:id_token";

struct World {
    pair: Pair,
    issuer: Issuer,
    exchanger: Upstream,
    upstream: Upstream,
    harness: Harness,
}

fn form(body: &[u8]) -> Vec<(String, String)> {
    form_urlencoded::parse(body).into_owned().collect()
}

impl World {
    /// One issuer for people and for agents, a service that exchanges people's tokens, and one that takes the outcome.
    async fn new() -> Self {
        Self::with("").await
    }

    /// With these further lines of the login.
    async fn with(lines: &str) -> Self {
        let pair = Pair::p256();
        let issuer = Issuer::start(vec![pair.jwk("k1")]).await;
        let exchanger = Upstream::plain(|seen| {
            let fields = form(&seen.body);
            let subject = fields.iter().find(|(name, _)| name == "subject_token");
            let sub = part(&subject.unwrap().1, 1)["sub"].clone();
            let token = format!("lease-of-{}-0123456789abcdef", sub.as_str().unwrap());
            let answer = json!({"access_token": token, "token_type": "Bearer", "expires_in": 300});
            Box::pin(async move { ok(answer.to_string()) })
        })
        .await;
        let upstream = Upstream::service(&["http/1.1"], |_| Box::pin(async { ok("fine") })).await;
        let text = format!(
            "[login.corp.oidc]\nissuer = \"{url}\"\nclient-id = \"keyward\"\n{lines}\
             [trust.t]\nagent = {{ map = {{ \"robot:*\" = \"a\" }} }}\n\
             [trust.t.jwt]\nissuer = \"{url}\"\naudience = [\"keyward\"]\n\
             [credential.crm.token-exchange]\ntoken-url = \"http://{exchanger}/token\"\nclient-id = \"tx\"\n\
             client-secret = {{ env = \"CANARY\" }}\nsubject-token = \"user\"\n\
             [[route]]\nhosts = [\"api.test\"]\ncredential = \"crm\"\ninject = \"bearer\"\n",
            url = issuer.url,
            exchanger = exchanger.address,
        );
        let setup = Setup::new(&text).to("api.test:443", &upstream);
        let harness = setup.start().await;
        Self {
            pair,
            issuer,
            exchanger,
            upstream,
            harness,
        }
    }

    fn claims(&self, sub: &str) -> Value {
        let now = jiff::Timestamp::now().as_second();
        json!({"iss": self.issuer.url, "sub": sub, "aud": "keyward", "iat": now - 5, "exp": now + 300})
    }

    fn sign(&self, claims: &Value) -> String {
        let header = json!({"alg": "ES256", "kid": "k1", "typ": "JWT"});
        self.pair.token(&header, claims)
    }

    /// A person's token that says who may act for them.
    fn may_act(&self, may_act: &Value) -> String {
        let mut claims = self.claims("alice");
        claims["may_act"] = may_act.clone();
        self.sign(&claims)
    }

    async fn bind(&self, subject: (&str, &str), actor: (&str, &str)) -> Granted {
        let parameters = [
            ("grant_type", EXCHANGE),
            ("subject_token", subject.0),
            ("subject_token_type", subject.1),
            ("actor_token", actor.0),
            ("actor_token_type", actor.1),
        ];
        self.harness.agent().form("/token", "", &parameters).await
    }

    /// A request with this session; its status.
    async fn ask(&self, token: &str) -> u16 {
        let agent = self.harness.agent().with_token(token);
        let mut sender = agent.h1("api.test:443").await;
        let asked = agent.ask(&mut sender, request("GET", "/", "api.test"));
        asked.await.status
    }
}

/// One agent for two people: two leases, and each session uses its own person's only.
#[tokio::test]
async fn two_people_of_one_agent_have_two_leases() {
    let world = World::new().await;
    let own = world.harness.session(("a", TOKEN_A), &[]).await;
    let own = own.token().to_owned();
    assert_eq!(world.ask(&own).await, 403, "for nobody");
    let evidence = world.sign(&world.claims("robot:1"));
    let mut sessions = Vec::new();
    // By a session token, and by evidence.
    for (person, actor) in [("alice", (&*own, ACCESS_TOKEN)), ("bob", (&*evidence, JWT))] {
        let token = world.sign(&world.claims(person));
        let granted = world.bind((&token, ID_TOKEN), actor).await;
        let claims = part(granted.token(), 1);
        assert_eq!(
            (&claims["user"], &claims["sub"]),
            (&json!(person), &json!("a"))
        );
        let left = granted.json["expires_in"].as_i64().unwrap();
        assert!(left <= 300, "not longer than the person's token: {left}");
        let picks =
            |r: &Value| r["event"] == "session-start" && r["session"] == granted.json["session"];
        assert_eq!(world.harness.record(picks).await["user"], person);
        sessions.push((person, granted));
    }
    for _ in 0..2 {
        for (person, granted) in &sessions {
            let before = world.upstream.requests().len();
            assert_eq!(world.ask(granted.token()).await, 200);
            let seen = world.upstream.requests()[before].all("authorization");
            assert_eq!(seen, [format!("Bearer lease-of-{person}-0123456789abcdef")]);
            let picks =
                |r: &Value| r["event"] == "request" && r["session"] == granted.json["session"];
            assert_eq!(world.harness.record(picks).await["user"], *person);
        }
    }
    let dialled = world.upstream.dialled();
    assert_eq!(dialled, 2, "a connection for each, and each used again");
    let exchanged = world.exchanger.requests();
    assert_eq!(exchanged.len(), 2, "a lease for each, and each used again");
    let kind = ("subject_token_type".to_owned(), ID_TOKEN.to_owned());
    assert!(form(&exchanged[0].body).contains(&kind));
    // Who acts for one person never acts for another.
    let bob = world.sign(&world.claims("bob"));
    let alices = (sessions[0].1.token(), ACCESS_TOKEN);
    let refused = world.bind((&bob, ID_TOKEN), alices).await;
    assert_eq!(refused.error(), (400, "invalid_request"));
    // A sub-agent acts for the same person.
    let sub = world.harness.delegate(alices.0, "b", &[]).await;
    assert_eq!(part(sub.token(), 1)["user"], "alice");
    // The agent's own session takes along what acts for somebody.
    world
        .harness
        .agent()
        .form("/revoke", "", &[("token", &own)])
        .await;
    let ended = world.harness.agent().with_token(alices.0);
    let (answer, _) = ended.connect("api.test:443").await;
    assert_eq!(answer.status(), 407);
    world.harness.finish().await;
}

/// OpenID Connect Core 1.0 §5.7: an address that nobody verified is whoever's wrote it.
#[tokio::test]
async fn an_email_that_is_not_verified_names_nobody() {
    let world = World::with("user-claim = \"email\"\n").await;
    let own = world.harness.session(("a", TOKEN_A), &[]).await;
    let own = own.token().to_owned();
    let access = json!({"alg": "ES256", "kid": "k1", "typ": "at+jwt"});
    for verified in [
        None,
        Some(json!(false)),
        Some(json!("true")),
        Some(json!(true)),
    ] {
        let mut claims = world.claims("alice");
        claims["email"] = json!("alice@example.com");
        if let Some(verified) = &verified {
            claims["email_verified"] = verified.clone();
        }
        let access = world.pair.token(&access, &claims);
        for (token, kind) in [(world.sign(&claims), ID_TOKEN), (access, ACCESS_TOKEN)] {
            let bound = world.bind((&token, kind), (&own, ACCESS_TOKEN)).await;
            if verified == Some(json!(true)) {
                assert_eq!(part(bound.token(), 1)["user"], "alice@example.com");
            } else {
                assert_eq!(bound.error(), (400, "invalid_request"), "{verified:?}");
                let why = bound.text("error_description");
                assert!(why.contains("email_verified"), "{why}");
            }
        }
    }
    world.harness.finish().await;
}

/// What is no token of a person for us makes no session for one.
#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a list of tokens")]
async fn what_is_no_persons_token_is_refused() {
    let world = World::new().await;
    let own = world.harness.session(("a", TOKEN_A), &[]).await;
    let own = own.token().to_owned();
    let with = |name: &str, value: Value| {
        let mut claims = world.claims("alice");
        claims[name] = value;
        claims
    };
    let good = world.sign(&world.claims("alice"));
    let now = jiff::Timestamp::now().as_second();
    let access = json!({"alg": "ES256", "kid": "k1", "typ": "at+jwt"});
    let access = world.pair.token(&access, &world.claims("alice"));
    let several = |party: &str| {
        let mut claims = with("aud", json!(["keyward", "other"]));
        claims["azp"] = json!(party);
        claims
    };
    let others = world.sign(&several("other"));
    let robot = world.sign(&world.claims("robot:1"));
    let header = json!({"alg": "ES256", "kid": "k1"});
    let stranger = Pair::p256().token(&header, &world.claims("alice"));
    for (what, token, kind) in [
        (
            "another issuer",
            world.sign(&with("iss", json!("https://evil.example"))),
            ID_TOKEN,
        ),
        (
            "another audience",
            world.sign(&with("aud", json!("other"))),
            ID_TOKEN,
        ),
        (
            "another audience",
            world.sign(&with("aud", json!("other"))),
            ACCESS_TOKEN,
        ),
        (
            "another party",
            world.sign(&with("azp", json!("other"))),
            ID_TOKEN,
        ),
        (
            "several audiences, and no party",
            world.sign(&with("aud", json!(["keyward", "other"]))),
            ID_TOKEN,
        ),
        (
            "one that ended",
            world.sign(&with("exp", json!(now - 1))),
            ID_TOKEN,
        ),
        ("no end", world.sign(&with("exp", Value::Null)), ID_TOKEN),
        ("no name", world.sign(&with("sub", json!(""))), ID_TOKEN),
        (
            "two lines",
            world.sign(&with("sub", json!("a\nb"))),
            ID_TOKEN,
        ),
        ("another's key", stranger, ID_TOKEN),
        ("an access token as an ID token", access.clone(), ID_TOKEN),
        ("the agent's own evidence", robot.clone(), ID_TOKEN),
        ("the agent's own session token", own.clone(), ACCESS_TOKEN),
        ("a static token", TOKEN_A.to_owned(), ACCESS_TOKEN),
        ("another type", good.clone(), JWT),
        ("another's ID token", others, ACCESS_TOKEN),
        (
            "an ID token of several, and no party",
            world.sign(&with("aud", json!(["keyward", "other"]))),
            ACCESS_TOKEN,
        ),
    ] {
        let refused = world.bind((&token, kind), (&own, ACCESS_TOKEN)).await;
        assert_eq!(refused.error(), (400, "invalid_request"), "{what}");
    }
    for (what, actor, kind) in [
        ("the person's token as the agent's", &good, JWT),
        ("a static token", &TOKEN_A.to_owned(), JWT),
        ("no session token", &robot, ACCESS_TOKEN),
        ("no type", &own, ""),
    ] {
        let refused = world.bind((&good, ID_TOKEN), (actor, kind)).await;
        assert_eq!(refused.error(), (400, "invalid_request"), "{what}");
    }
    // A person's token alone opens nothing.
    let alone = [
        ("grant_type", EXCHANGE),
        ("subject_token", &good),
        ("subject_token_type", ID_TOKEN),
    ];
    let refused = world.harness.agent().form("/token", "", &alone).await;
    assert_eq!(refused.error(), (400, "invalid_request"));
    // The same are good where they belong. An access token says what it is, is for us alone, or was issued to us.
    let marked = json!({"alg": "ES256", "kid": "k1", "typ": "application/at+jwt"});
    let marked = world.pair.token(&marked, &several("other"));
    let mut bearer = several("other");
    bearer["typ"] = json!("Bearer");
    for (token, kind) in [
        (&good, ID_TOKEN),
        (&world.sign(&several("keyward")), ID_TOKEN),
        (&access, ACCESS_TOKEN),
        (&marked, ACCESS_TOKEN),
        (&world.sign(&bearer), ACCESS_TOKEN),
        (&good, ACCESS_TOKEN),
        (&world.sign(&with("azp", json!("other"))), ACCESS_TOKEN),
        (&world.sign(&several("keyward")), ACCESS_TOKEN),
    ] {
        let granted = world.bind((token, kind), (&own, ACCESS_TOKEN)).await;
        assert_eq!(part(granted.token(), 1)["user"], "alice");
    }
    world.harness.finish().await;
}

/// DEL-03: a person's token that says who may act for them is for that agent alone (RFC 8693 §4.4).
#[tokio::test]
async fn who_may_act_for_a_person_is_what_their_token_says() {
    let world = World::new().await;
    let own = world.harness.session(("a", TOKEN_A), &[]).await;
    let (own, evidence) = (own.token(), world.sign(&world.claims("robot:1")));
    let issuer = part(own, 1)["iss"].clone();
    for good in [json!({"sub": "a"}), json!({"sub": "a", "iss": issuer})] {
        let token = world.may_act(&good);
        for actor in [(own, ACCESS_TOKEN), (&*evidence, JWT)] {
            assert_eq!(world.bind((&token, ID_TOKEN), actor).await.status, 200);
        }
    }
    for other in [
        json!({"sub": "b"}),
        json!({"sub": "A"}),
        json!({"sub": ["a"]}),
        json!({"sub": "a", "iss": world.issuer.url}),
        json!({"sub": "a", "client_id": "x"}),
        json!({}),
        json!([{"sub": "a"}]),
        json!("a"),
        json!(null),
    ] {
        let token = world.may_act(&other);
        for actor in [(own, ACCESS_TOKEN), (&*evidence, JWT)] {
            let granted = world.bind((&token, ID_TOKEN), actor).await;
            assert_eq!(granted.error(), (400, "invalid_request"), "{other}");
        }
    }
    world.harness.finish().await;
}
