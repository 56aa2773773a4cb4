//! The console and the sign-ins of a running keyward, by a browser's requests, and by those that no browser should make.

use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::super::agent::within;
use super::super::daemon::Place;
use super::super::harness::{ALICE, Harness, STORE_KEY, Setup, TOKEN_A, port_of_ones_own};
use super::super::oauth::peer::{Oidc, call};
use super::super::token::{ACCESS_TOKEN, EXCHANGE};
use super::super::upstream::{Upstream, ok};
use super::browser::{Browser, Page, parts, query};

const DEVICE: &str = "urn:ietf:params:oauth:grant-type:device_code";
/// What keyward shows to the provider.
const SECRET: &str = "secret-of-keyward-0123456789abcdef";
const ID_TOKEN: &str = "urn:ietf:params:oauth:token-type:id_token";

/// A keyward with a login at the certified provider, and one agent that two people use.
struct World {
    oidc: Oidc,
    harness: Harness,
    base: String,
    _upstream: Upstream,
}

impl World {
    async fn new() -> Option<Self> {
        // The provider knows each redirect URI: so the port must be known before keyward is started.
        let port = port_of_ones_own();
        let base = format!("http://127.0.0.1:{port}");
        let grants = ["authorization_code", "refresh_token", DEVICE];
        let web = json!({
            "client_id": "keyward", "client_secret": SECRET, "life": 600,
            "grant_types": grants, "response_types": ["code"], "scope": "openid offline_access email",
            "redirect_uris": [format!("{base}/login/callback"), "http://127.0.0.1/callback"],
            "application_type": "native",
        });
        let oidc = Oidc::start(json!([web]), None).await?;
        let upstream = Upstream::service(&["http/1.1"], |_| Box::pin(async { ok("fine") })).await;
        let text = format!(
            "[login.corp.oidc]\nissuer = \"{}\"\nclient-id = \"keyward\"\nclient-secret = {{ env = \"OIDC\" }}\n\
             [agent.evil]\npurpose = \"<script>alert('canary')</script>\"\nowner = \"\\\"><img src=x>\"\n\
             [[route]]\nhosts = [\"api.test\"]\ncredential = \"c\"\ninject = \"bearer\"\n",
            oidc.issuer
        );
        let harness = Setup::new(&text)
            .admin("tokens = { alice = { env = \"ALICE\" } }")
            .admin_port(port)
            .to("api.test:443", &upstream)
            .start()
            .await;
        Some(Self {
            oidc,
            harness,
            base,
            _upstream: upstream,
        })
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// Goes to the provider with this browser; the URL that leads back.
    async fn there_and_back(&self, browser: &mut Browser, who: &str) -> String {
        let page = browser.get(&self.at("/login/corp")).await;
        assert_eq!(page.status, 303);
        let cookie = page.get("set-cookie");
        assert!(
            cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"),
            "{cookie}"
        );
        browser
            .away(&format!("{}&login_hint={who}", page.get("location")))
            .await
    }

    /// A browser in which this person is signed in.
    async fn person(&self, who: &str) -> Browser {
        let mut browser = Browser::default();
        let back = self.there_and_back(&mut browser, who).await;
        let page = browser.get(&back).await;
        assert_eq!(page.status, 200, "{page:?}");
        browser
    }

    async fn operator(&self) -> Browser {
        let mut browser = Browser::default();
        let url = self.harness.app().console_url().unwrap();
        assert_eq!(browser.get(&url).await.status, 303);
        browser
    }

    /// A session of agent `a` for a person, by an ID token that the provider gave.
    async fn session_for(&self, who: &str) -> String {
        let pair = STANDARD.encode(format!("keyward:{SECRET}"));
        let basic = &*format!("authorization: Basic {pair}");
        let issuer = &self.oidc.issuer;
        let form = "client_id=keyward&scope=openid";
        let (_, begun) = call(issuer, "POST /device/auth", &[basic], form).await;
        let begun: Value = serde_json::from_slice(&begun).unwrap();
        let code = begun["user_code"].as_str().unwrap();
        let approve = format!("GET /device-approved?who={who}&user_code={code}");
        call(issuer, &approve, &[], "").await;
        let code = begun["device_code"].as_str().unwrap();
        let form = format!("grant_type={DEVICE}&device_code={code}");
        let (_, granted) = call(issuer, "POST /token", &[basic], &form).await;
        let granted: Value = serde_json::from_slice(&granted).unwrap();
        let own = self.harness.session(("a", TOKEN_A), &[]).await;
        let parameters = [
            ("grant_type", EXCHANGE),
            ("subject_token", granted["id_token"].as_str().unwrap()),
            ("subject_token_type", ID_TOKEN),
            ("actor_token", own.token()),
            ("actor_token_type", ACCESS_TOKEN),
        ];
        let bound = self.harness.agent().form("/token", "", &parameters).await;
        assert_eq!(bound.status, 200, "{:?}", bound.json);
        bound.text("session").to_owned()
    }

    /// Presses a button as its page would.
    async fn press(&self, browser: &mut Browser, form: &[(&str, &str)]) -> Page {
        let csrf = self.csrf(browser).await;
        self.post(
            browser,
            &[&[("csrf", &*csrf)], form].concat(),
            &self.origin(),
        )
        .await
    }

    async fn post(&self, browser: &mut Browser, form: &[(&str, &str)], origin: &str) -> Page {
        let mut body = form_urlencoded::Serializer::new(String::new());
        body.extend_pairs(form);
        let fields: Vec<&str> = if origin.is_empty() {
            Vec::new()
        } else {
            vec![origin]
        };
        browser
            .send("POST", &self.at("/act"), &fields, &body.finish())
            .await
    }

    fn origin(&self) -> String {
        format!("origin: {}", self.base)
    }

    async fn csrf(&self, browser: &mut Browser) -> String {
        let page = browser.get(&self.at("/")).await;
        let (_, rest) = page
            .body
            .split_once("name=\"csrf\" value=\"")
            .expect("signed in");
        rest.split('"').next().unwrap().to_owned()
    }

    /// The API with this bearer.
    async fn api(&self, what: &str, token: &str) -> (u16, Value) {
        let bearer = format!("authorization: Bearer {token}");
        let (method, path) = what.split_once(' ').unwrap();
        let (status, body) = call(
            &self.base,
            &format!("{method} /api/v1{path}"),
            &[&bearer],
            "",
        )
        .await;
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }
}

fn end(session: &str) -> [(&str, &str); 3] {
    [("view", "sessions"), ("action", "end"), ("id", session)]
}

#[tokio::test]
async fn each_person_sees_and_ends_what_is_theirs_and_an_operator_all() {
    let Some(world) = World::new().await else {
        return;
    };
    let (of_alice, of_bob) = (
        world.session_for("alice").await,
        world.session_for("bob").await,
    );
    let (mut alice, mut bob) = (world.person("alice").await, world.person("bob").await);
    for (browser, own, others) in [
        (&mut alice, &of_alice, &of_bob),
        (&mut bob, &of_bob, &of_alice),
    ] {
        let page = browser.get(&world.at("/")).await;
        assert!(page.body.contains(own.as_str()) && !page.body.contains(others.as_str()));
        for heading in ["<h2>Sessions</h2>", "<h2>Leases</h2>"] {
            assert!(page.body.contains(heading), "{heading}");
        }
        assert!(
            !page.body.contains("<h2>Agents</h2>"),
            "a person is no operator"
        );
    }
    let foreign = world.press(&mut alice, &end(&of_bob)).await;
    assert_eq!(foreign.status, 404);
    let suspend = [("view", "agents"), ("action", "suspend"), ("id", "a")];
    assert_eq!(world.press(&mut alice, &suspend).await.status, 403);
    // Below its list an id is one segment.
    let climbing = [
        ("view", "sessions"),
        ("action", "end"),
        ("id", "../agents/a"),
    ];
    assert_eq!(world.press(&mut alice, &climbing).await.status, 404);
    assert_eq!(world.press(&mut alice, &end(&of_alice)).await.status, 303);
    let ended = |record: &Value| record["event"] == "session-end" && record["session"] == of_alice;
    assert_eq!(world.harness.record(ended).await["by"], "alice");

    let mut operator = world.operator().await;
    let page = operator.get(&world.at("/")).await;
    assert!(page.body.contains(&of_bob) && page.body.contains("<h2>Agents</h2>"));
    // What agents are called and are for is text.
    assert!(!page.body.contains("<script") && !page.body.contains("<img"));
    assert!(page.body.contains("&lt;script&gt;alert(&#39;canary&#39;)"));
    let why = [
        ("view", "agents"),
        ("action", "suspend"),
        ("id", "a"),
        ("reason", "<b>odd"),
    ];
    assert_eq!(world.press(&mut operator, &why).await.status, 303);
    let page = operator.get(&world.at("/")).await;
    assert!(page.body.contains("&lt;b&gt;odd") && page.body.contains("resume"));
    let suspended = |record: &Value| record["event"] == "agent";
    assert_eq!(world.harness.record(suspended).await["by"], "console");
    world.harness.finish().await;
}

#[tokio::test]
async fn pages_are_not_framed_kept_or_scripted() {
    let Some(world) = World::new().await else {
        return;
    };
    let mut stranger = Browser::default();
    let entrance = stranger.get(&world.at("/")).await;
    assert!(entrance.body.contains("/login/corp") && !entrance.body.contains("csrf"));
    let mut operator = world.operator().await;
    let console = operator.get(&world.at("/")).await;
    let nothing = operator.get(&world.at("/login/nowhere")).await;
    assert_eq!(nothing.status, 403);
    for page in [&entrance, &console, &nothing] {
        let policy = page.get("content-security-policy");
        for part in [
            "default-src 'none'",
            "frame-ancestors 'none'",
            "form-action 'self'",
            "base-uri 'none'",
            "'sha256-",
        ] {
            assert!(policy.contains(part), "{policy}");
        }
        assert!(
            !policy.contains("unsafe")
                && !page.body.contains("<script")
                && !page.body.contains(" style=")
        );
        assert_eq!(page.get("x-frame-options"), "DENY");
        assert_eq!(page.get("cache-control"), "no-store");
        assert_eq!(page.get("referrer-policy"), "same-origin");
        assert_eq!(page.get("x-content-type-options"), "nosniff");
    }
    // A name that somebody else points at this address opens nothing.
    for path in ["/", "/login/corp", "/login/once?code=x", "/act"] {
        let rebound = operator
            .send("GET", &world.at(path), &["host: evil.example"], "")
            .await;
        assert_eq!(rebound.status, 421, "{path}");
    }
    world.harness.finish().await;
}

#[tokio::test]
async fn an_answer_is_of_the_browser_that_asked_and_good_once() {
    let Some(world) = World::new().await else {
        return;
    };
    let mut alice = Browser::default();
    let back = world.there_and_back(&mut alice, "alice").await;
    // Another's browser, led there: it would be signed in as alice.
    let mut victim = Browser::default();
    let page = victim.get(&back).await;
    assert_eq!(page.status, 403);
    assert!(
        !page
            .all("set-cookie")
            .iter()
            .any(|cookie| cookie.starts_with("keyward=") && !cookie.starts_with("keyward=;"))
    );
    // The state was used, so the one who asked begins anew too.
    assert_eq!(alice.get(&back).await.status, 403);

    let iss: String = form_urlencoded::byte_serialize(world.oidc.issuer.as_bytes()).collect();
    for (what, from, to) in [
        ("another state", "state=", "state=x"),
        ("mix-up", &*iss, "https%3A%2F%2Fevil.example"),
        ("no issuer", "iss=", "issuer="),
        ("another code", "code=", "code=x"),
    ] {
        let mut alice = Browser::default();
        let back = world.there_and_back(&mut alice, "alice").await;
        let forged = back.replacen(from, to, 1);
        assert_ne!(forged, back, "{what}");
        assert_eq!(alice.get(&forged).await.status, 403, "{what}");
    }
    let mut alice = Browser::default();
    let back = world.there_and_back(&mut alice, "alice").await;
    // No parameter leads anywhere.
    let page = alice
        .get(&format!(
            "{back}&next=https://evil.example&redirect_uri=https://evil.example"
        ))
        .await;
    assert_eq!(page.status, 200);
    assert!(!page.body.contains("evil") && page.get("location").is_empty());
    let cookie = page
        .all("set-cookie")
        .into_iter()
        .find(|cookie| cookie.starts_with("keyward="));
    let cookie = cookie.unwrap();
    for part in ["HttpOnly", "SameSite=Strict", "Path=/"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert_eq!(alice.get(&back).await.status, 403, "a second time");
    for (user, outcome) in [(json!("alice"), "signed-in"), (Value::Null, "failed")] {
        let picks = |record: &Value| record["event"] == "login" && record["outcome"] == outcome;
        let record = world.harness.record(picks).await;
        assert_eq!(
            (&record["provider"], &record["user"]),
            (&json!("corp"), &user)
        );
    }
    world.harness.finish().await;
}

#[tokio::test]
async fn a_form_of_another_page_does_nothing() {
    let Some(world) = World::new().await else {
        return;
    };
    let session = world.session_for("alice").await;
    let mut operator = world.operator().await;
    let csrf = world.csrf(&mut operator).await;
    let whole = [&[("csrf", &*csrf)], &end(&session)[..]].concat();
    for origin in [
        "",
        "origin: null",
        "origin: https://evil.example",
        "origin: http://127.0.0.1:1",
        &format!("origin: {}.evil.example", world.base),
    ] {
        assert_eq!(
            world.post(&mut operator, &whole, origin).await.status,
            403,
            "{origin}"
        );
    }
    let own = world.origin();
    let cross = format!("{own}\r\nsec-fetch-site: cross-site");
    assert_eq!(world.post(&mut operator, &whole, &cross).await.status, 403);
    for bad in ["", "x", &world.csrf(&mut world.person("alice").await).await] {
        let form = [&[("csrf", bad)], &end(&session)[..]].concat();
        assert_eq!(
            world.post(&mut operator, &form, &own).await.status,
            403,
            "{bad}"
        );
    }
    assert_eq!(
        world.post(&mut operator, &end(&session), &own).await.status,
        403,
        "without"
    );
    let mut stranger = Browser::default();
    assert_eq!(world.post(&mut stranger, &whole, &own).await.status, 403);
    let get = operator.send("GET", &world.at("/act"), &[], "").await;
    assert_eq!(get.status, 405);
    let (_, sessions) = world.api("GET /sessions", ALICE).await;
    let all = sessions["items"].as_array().unwrap();
    assert!(all.iter().any(|one| one["session"] == session), "it lives");
    assert_eq!(world.post(&mut operator, &whole, &own).await.status, 303);
    world.harness.finish().await;
}

#[tokio::test]
async fn the_consoles_url_and_a_pass_are_good_for_what_they_are() {
    let Some(world) = World::new().await else {
        return;
    };
    let url = world.harness.app().console_url().unwrap();
    let mut first = Browser::default();
    let page = first.get(&url).await;
    assert_eq!(page.status, 303);
    assert!(page.get("location").starts_with("/at/"), "{page:?}");
    assert_eq!(
        Browser::default().get(&url).await.status,
        403,
        "a second time"
    );
    assert_eq!(
        Browser::default()
            .get(&world.at("/login/once?code=guess"))
            .await
            .status,
        403
    );
    // A browser's pass is no bearer, and a bearer no cookie; nor is an agent's token either.
    let host = parts(&world.base).0;
    let pass = first.cookies[&(host.clone(), "keyward".to_owned())].clone();
    assert_eq!(world.api("GET /sessions", &pass).await.0, 401);
    for token in [ALICE, TOKEN_A] {
        let mut browser = Browser::default();
        browser
            .cookies
            .insert((host.clone(), "keyward".to_owned()), token.to_owned());
        let page = browser.get(&world.at("/")).await;
        assert!(!page.body.contains("<h2>"), "an entrance");
    }
    // By an operator's token, from our own page only.
    let mut alice = Browser::default();
    let body = format!("token={ALICE}");
    let (at, evil) = (world.at("/login/token"), ["origin: https://evil.example"]);
    let foreign = alice.send("POST", &at, &evil, &body);
    assert_eq!(foreign.await.status, 403);
    for (token, status) in [("guess", 403), (TOKEN_A, 403), (ALICE, 303)] {
        let body = format!("token={token}");
        let page = alice
            .send("POST", &world.at("/login/token"), &[&world.origin()], &body)
            .await;
        assert_eq!(page.status, status);
    }
    assert!(
        alice
            .get(&world.at("/"))
            .await
            .body
            .contains("operator alice")
    );
    // Signed out, the pass opens nothing, whoever kept it.
    let csrf = world.csrf(&mut alice).await;
    let kept = alice.cookies.clone();
    let body = format!("csrf={csrf}");
    let out = alice
        .send("POST", &world.at("/logout"), &[&world.origin()], &body)
        .await;
    assert_eq!(out.status, 303);
    alice.cookies = kept;
    assert!(
        !alice
            .get(&world.at("/"))
            .await
            .body
            .contains("operator alice")
    );
    world.harness.finish().await;
}

/// Over http a browser shows a cookie to every port of the host, but only below the cookie's path: so that is one which
/// whoever serves another port cannot have the browser come to.
#[tokio::test]
async fn the_cookie_of_a_pass_is_shown_to_no_other_port() {
    let Some(world) = World::new().await else {
        return;
    };
    let mut homes = Vec::new();
    for _ in 0..2 {
        let mut browser = Browser::default();
        let page = browser
            .get(&world.harness.app().console_url().unwrap())
            .await;
        let home = page.get("location");
        let cookie = page.get("set-cookie");
        assert!(cookie.contains(&format!("; Path={home}; ")), "{cookie}");
        let name = home.strip_prefix("/at/").unwrap().trim_end_matches('/');
        // 128 bits; and the pass does not follow from them.
        assert_eq!(name.len(), 22, "{home}");
        assert!(!cookie.split(';').next().unwrap().contains(name));
        // What stands there is whole: the page, its buttons, and the way out.
        let there = browser.get(&world.at(&home)).await;
        assert!(there.body.contains("<h2>Agents</h2>"));
        assert!(there.body.contains("action=\"act\"") && !there.body.contains("action=\"/"));
        let csrf = world.csrf(&mut browser).await;
        let suspend = format!("csrf={csrf}&view=agents&action=suspend&id=evil&reason=x");
        let at = world.at(&format!("{home}act"));
        let done = browser
            .send("POST", &at, &[&world.origin()], &suspend)
            .await;
        assert_eq!((done.status, done.get("location")), (303, home.clone()));
        let at = world.at(&format!("{home}logout"));
        let body = format!("csrf={csrf}");
        let left = browser.send("POST", &at, &[&world.origin()], &body).await;
        assert!(left.get("set-cookie").contains(&format!("; Path={home}; ")));
        homes.push(home);
    }
    assert_ne!(homes[0], homes[1]);
    // The path alone opens nothing, and what it is not for is not there.
    let page = Browser::default().get(&world.at(&homes[0])).await;
    assert!(!page.body.contains("<h2>"), "an entrance");
    for path in ["/at/", "/at/x", "/at/x/y", "/at//evil.example/"] {
        let page = Browser::default().get(&world.at(path)).await;
        assert_ne!(page.status, 200, "{path}");
        assert!(page.get("location").is_empty(), "{path}");
    }
    let mut person = Browser::default();
    let back = world.there_and_back(&mut person, "alice").await;
    let page = person.get(&back).await;
    let cookies = page.all("set-cookie");
    let pass = cookies.iter().find(|cookie| cookie.starts_with("keyward="));
    let (_, path) = pass.unwrap().split_once("; Path=").unwrap();
    let home = path.split(';').next().unwrap();
    assert!(
        page.body.contains(&format!("content=\"0;url={home}\"")),
        "{page:?}"
    );
    world.harness.finish().await;
}

/// What a browser shows below `/login/` after this page: cookies of other paths stay away.
fn on_the_way_in(page: &Page, host: &str) -> Browser {
    let mut browser = Browser::default();
    for cookie in page.all("set-cookie") {
        let (_, path) = cookie.split_once("; Path=").unwrap();
        let path = path.split(';').next().unwrap();
        let (name, value) = cookie.split(';').next().unwrap().split_once('=').unwrap();
        if "/login/".starts_with(path) && !value.is_empty() {
            let key = (host.to_owned(), name.to_owned());
            browser.cookies.insert(key, value.to_owned());
        }
    }
    browser
}

/// Who signs in anew, as whomever and however, has no other pass left: the one before opens nothing from then on.
#[tokio::test]
async fn a_new_sign_in_ends_the_pass_that_the_browser_had() {
    let Some(world) = World::new().await else {
        return;
    };
    let host = parts(&world.base).0;
    for how in ["once", "token", "person"] {
        let url = world.harness.app().console_url().unwrap();
        let mut first = Browser::default();
        let page = first.get(&url).await;
        assert_eq!(page.status, 303);
        let home = world.at(&page.get("location"));
        assert!(first.get(&home).await.body.contains("<h2>Agents</h2>"));
        // The provider's redirect comes from another site.
        for cookie in page.all("set-cookie") {
            let is_shown = cookie.contains("Path=/login/;");
            assert!(!is_shown || cookie.contains("SameSite=Lax"), "{cookie}");
        }
        let mut again = on_the_way_in(&page, &host);
        for shown in again.cookies.values() {
            let mut thief = Browser::default();
            let key = (host.clone(), "keyward".to_owned());
            thief.cookies.insert(key, shown.clone());
            let page = thief.get(&home).await;
            assert!(!page.body.contains("<h2>"), "it opens nothing itself");
        }
        let page = match how {
            "once" => {
                let url = world.harness.app().console_url().unwrap();
                again.get(&url).await
            }
            "token" => {
                let (at, body) = (world.at("/login/token"), format!("token={ALICE}"));
                again.send("POST", &at, &[&world.origin()], &body).await
            }
            _ => {
                let back = world.there_and_back(&mut again, "alice").await;
                again.get(&back).await
            }
        };
        let set = page.all("set-cookie");
        assert!(
            set.iter().any(|cookie| cookie.starts_with("keyward=")),
            "{how}: {set:?}"
        );
        let old = first.get(&home).await;
        assert!(
            !old.body.contains("<h2>"),
            "{how}: the pass before it ended"
        );
        // Another browser's goes on, and a failed sign-in ends nothing.
        let mut other = Browser::default();
        let url = world.harness.app().console_url().unwrap();
        let page = other.get(&url).await;
        let home = world.at(&page.get("location"));
        let mut failing = on_the_way_in(&page, &host);
        let used = failing.get(&url).await;
        assert_eq!(used.status, 403);
        assert!(other.get(&home).await.body.contains("<h2>Agents</h2>"));
    }
    world.harness.finish().await;
}

/// What a pass was given for is over when that is: the operator's token, any operator's for the console's own URL, and the
/// login of a person.
#[tokio::test]
async fn a_pass_ends_with_what_it_was_given_for() {
    let Some(world) = World::new().await else {
        return;
    };
    let by_token = async |token: &str| {
        let mut browser = Browser::default();
        let body = format!("token={token}");
        let at = world.at("/login/token");
        let entered = browser.send("POST", &at, &[&world.origin()], &body).await;
        assert_eq!(entered.status, 303);
        browser
    };
    let sees = async |browser: &mut Browser| {
        let page = browser.get(&world.at("/")).await;
        page.body.contains("<h2>Sessions</h2>")
    };
    let setup = &world.harness.setup;
    let mut alice = by_token(ALICE).await;
    let mut console = world.operator().await;
    let mut person = world.person("alice").await;
    world.harness.reload(setup).await;
    for browser in [&mut alice, &mut console, &mut person] {
        assert!(
            sees(browser).await,
            "a reload that changes nothing ends nothing"
        );
    }
    // Her token is another now. It is not one that anything else here is opened by.
    let rotated = "tokens = { alice = { env = \"STORE_KEY\" } }";
    world
        .harness
        .reload(&setup.clone().admin_instead(rotated))
        .await;
    assert!(!sees(&mut alice).await, "the old token's");
    assert!(
        !sees(&mut console).await,
        "opened while the old one was good"
    );
    assert!(sees(&mut person).await, "nothing of a person's changed");
    let mut alice = by_token(STORE_KEY).await;
    assert!(sees(&mut alice).await);
    // An operator more is another circle of operators, and nothing of hers.
    let mut console = world.operator().await;
    let more = "tokens = { alice = { env = \"STORE_KEY\" }, bob = { env = \"ALICE\" } }";
    world
        .harness
        .reload(&setup.clone().admin_instead(more))
        .await;
    assert!(sees(&mut alice).await && !sees(&mut console).await);
    // Nor does her name help where somebody else has it.
    let swapped = "tokens = { bob = { env = \"STORE_KEY\" }, alice = { env = \"ALICE\" } }";
    world
        .harness
        .reload(&setup.clone().admin_instead(swapped))
        .await;
    assert!(!sees(&mut alice).await);
    let text = setup.text(std::path::Path::new("/"));
    let (_, routes) = text.split_once("[[route]]").unwrap();
    let routes = format!("[[route]]{routes}");
    world.harness.reload(&setup.clone().routes(&routes)).await;
    assert!(!sees(&mut person).await, "their login is gone");
    world.harness.finish().await;
}

/// `keyward login --admin`: a person's pass for the API, by the browser and by a device.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_line_gets_a_pass_that_opens_what_is_its_persons() {
    let Some(world) = World::new().await else {
        return;
    };
    let of_alice = world.session_for("alice").await;
    let of_bob = world.session_for("bob").await;
    let home = tempfile::tempdir().unwrap();
    let keyward = |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_keyward"));
        command
            .args(arguments)
            .args(["--admin", &world.base, "--json"])
            .env_clear()
            .env("HOME", home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    };
    let list = || async {
        within(keyward(&["session", "list"]).output())
            .await
            .unwrap()
    };
    assert_eq!(list().await.status.code(), Some(64), "nobody");
    for device in [false, true] {
        let how = if device { "--device" } else { "--no-browser" };
        let mut child = keyward(&["login", "corp", how]).spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        let url = loop {
            let line = within(said.next_line())
                .await
                .unwrap()
                .expect("it shows a URL");
            if line.starts_with("http") {
                break line;
            }
        };
        if device {
            let code = within(said.next_line()).await.unwrap().unwrap();
            let approve = format!("GET /device-approved?who=alice&user_code={code}");
            assert_eq!(call(&world.oidc.issuer, &approve, &[], "").await.0, 200);
        } else {
            assert!(
                query(&url, "redirect_uri")
                    .unwrap()
                    .starts_with("http://127.0.0.1:")
            );
            let mut browser = Browser::default();
            let back = browser.away(&format!("{url}&login_hint=alice")).await;
            assert_eq!(browser.get(&back).await.status, 200);
        }
        let done = within(child.wait_with_output()).await.unwrap();
        let told: Value = serde_json::from_slice(&done.stdout).unwrap();
        assert_eq!(
            (&told["user"], &told["provider"]),
            (&json!("alice"), &json!("corp"))
        );
        assert_eq!(told.as_object().unwrap().len(), 3, "and no token");
        let listed = list().await;
        let items: Value = serde_json::from_slice(&listed.stdout).unwrap();
        let ids: Vec<&str> = items
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["session"].as_str().unwrap())
            .collect();
        assert_eq!(ids, [&*of_alice]);
        for (what, arguments) in [
            ("another's", &["session", "end", &of_bob][..]),
            ("an operator's", &["agent", "suspend", "a"]),
            ("an operator's", &["agent", "list"]),
        ] {
            let refused = within(keyward(arguments).output()).await.unwrap();
            assert_eq!(refused.status.code(), Some(1), "{what}");
        }
        let forgotten = within(keyward(&["login", "--forget"]).output())
            .await
            .unwrap();
        let told: Value = serde_json::from_slice(&forgotten.stdout).unwrap();
        assert_eq!(told, json!({ "ended": true }));
        assert_eq!(list().await.status.code(), Some(64));
    }
    world.harness.finish().await;
}

/// Who takes the wish to sign in anew out of the URL gets nothing: a session at the provider is no act of its person.
#[tokio::test]
async fn a_command_lines_sign_in_is_never_quiet() {
    let Some(world) = World::new().await else {
        return;
    };
    let home = tempfile::tempdir().unwrap();
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_keyward"));
    command
        .args(["login", "corp", "--no-browser", "--admin", &world.base])
        .env_clear()
        .env("HOME", home.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    let url = loop {
        let line = within(said.next_line()).await.unwrap();
        let line = line.expect("it shows a URL");
        if line.starts_with("http") {
            break line;
        }
    };
    let quiet = url.replace("&prompt=login", "").replace("&max_age=0", "");
    assert!(quiet.len() < url.len());
    let mut browser = Browser::default();
    let back = browser.away(&format!("{quiet}&login_hint=alice")).await;
    browser.get(&back).await;
    let refused = within(child.wait_with_output()).await.unwrap();
    assert_ne!(refused.status.code(), Some(0));
    assert!(refused.stdout.is_empty());
    world.harness.finish().await;
}

/// The steps of that sign-in are open, and so they give nothing to whoever did not begin it.
#[tokio::test]
async fn a_sign_in_of_a_command_line_is_its_own() {
    let Some(world) = World::new().await else {
        return;
    };
    let post = async |path: &str, fields: &[&str], body: Value| {
        let what = format!("POST /api/v1/{path}");
        let (status, body) = call(&world.base, &what, fields, &body.to_string()).await;
        (
            status,
            serde_json::from_slice::<Value>(&body).unwrap_or_default(),
        )
    };
    let (status, begun) = post("login", &[], json!({"login": "corp", "port": 4711})).await;
    assert_eq!(status, 200, "{begun}");
    let url = begun["url"].as_str().unwrap();
    assert_eq!(
        query(url, "redirect_uri").unwrap(),
        "http://127.0.0.1:4711/callback"
    );
    let back = Browser::default()
        .away(&format!("{url}&login_hint=alice"))
        .await;
    let answer = back.split_once('?').unwrap().1;
    // Who saw the answer, and not the handle, has nothing; nor a page in a browser.
    for (handle, fields) in [
        ("guess", &[][..]),
        (query(url, "state").unwrap().as_str(), &[]),
        (
            begun["handle"].as_str().unwrap(),
            &["origin: https://evil.example"],
        ),
        (
            begun["handle"].as_str().unwrap(),
            &["sec-fetch-site: cross-site"],
        ),
    ] {
        let (status, _) = post(
            "login/finish",
            fields,
            json!({"handle": handle, "answer": answer}),
        )
        .await;
        assert_eq!(status, 403);
    }
    // Nor does it come to a browser that did not ask.
    let stolen = Browser::default()
        .get(&world.at(&format!("/login/callback?{answer}")))
        .await;
    assert_eq!(stolen.status, 403);
    let finish = json!({"handle": begun["handle"], "answer": answer});
    let (status, done) = post("login/finish", &[], finish.clone()).await;
    assert_eq!((status, &done["user"]), (200, &json!("alice")), "{done}");
    assert_eq!(
        post("login/finish", &[], finish).await.0,
        403,
        "a second time"
    );
    let token = done["token"].as_str().unwrap();
    let (_, who) = world.api("GET /login", token).await;
    assert_eq!(
        who,
        json!({"operator": null, "user": "alice", "provider": "corp"})
    );
    for (what, status) in [
        ("GET /agents", 403),
        ("POST /reload", 403),
        ("POST /credentials/c/revoke", 403),
        ("DELETE /leases/x", 404),
        ("DELETE /login", 204),
        ("GET /sessions", 401),
    ] {
        assert_eq!(world.api(what, token).await.0, status, "{what}");
    }
    for (bad, status) in [
        (json!({"login": "nowhere", "port": 4711}), 403),
        (json!({"login": "corp", "port": 0}), 400),
        (json!({"login": "corp", "port": 99999}), 400),
        (
            json!({"login": "corp", "redirect-uri": "https://evil.example"}),
            400,
        ),
        (json!({"login": "corp"}), 400),
    ] {
        assert_eq!(post("login", &[], bad.clone()).await.0, status, "{bad}");
    }
    world.harness.finish().await;
}

/// Whoever reads the log is an operator by that line, so it can be left out.
#[tokio::test]
async fn the_line_on_stderr_is_left_out_where_it_is_not_wanted() {
    let place = Place::new().await;
    let daemon = place.start_with(&["--no-console-url"]);
    daemon.signal(rustix::process::Signal::TERM);
    // Once it has stopped, all that it will ever say was said.
    assert!(daemon.console.recv().is_err());
    assert_eq!(daemon.wait().code(), Some(0));
}

/// The line that `serve` writes opens the console, and who came in by it still is after a restart.
#[tokio::test]
async fn the_line_on_stderr_opens_the_console() {
    let place = Place::new().await;
    let daemon = place.start();
    let line = daemon
        .console
        .recv_timeout(Duration::from_secs(10))
        .unwrap();
    let url = line.strip_prefix("console ").unwrap();
    let base = format!("http://{}", daemon.admin);
    assert!(
        url.starts_with(&format!("{base}/login/once?code=")),
        "{url}"
    );
    let mut browser = Browser::default();
    assert_eq!(browser.get(url).await.status, 303);
    let page = browser.get(&base).await;
    assert!(page.body.contains("operator console") && page.body.contains("<h2>Agents</h2>"));
    assert_eq!(daemon.stop(), 0);
    let pass = browser.cookies.values().next().unwrap().clone();
    for file in std::fs::read_dir(place.path("")).unwrap() {
        let path = file.unwrap().path();
        let bytes = std::fs::read(&path).unwrap_or_default();
        let found = memchr::memmem::find(&bytes, pass.as_bytes());
        assert!(found.is_none(), "the pass stands in {}", path.display());
    }
    let daemon = place.start();
    let host = daemon.admin.to_string();
    browser
        .cookies
        .insert((host.clone(), "keyward".to_owned()), pass);
    let page = browser.get(&format!("http://{host}")).await;
    assert!(page.body.contains("operator console"), "{page:?}");
    assert_eq!(
        Browser::default()
            .get(&url.replacen(&base, &format!("http://{host}"), 1))
            .await
            .status,
        403
    );
    assert_eq!(daemon.stop(), 0);
}
