//! Agent to agent: calls carry the agent's own X.509-SVID, and the other side proves a SPIFFE ID that the route allows.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, SanType};
use serde_json::{Value, json};

use super::agent::{body_request, request};
use super::harness::{BEARER, Harness, Setup, TOKEN_B};
use super::svid::{DAY, Domain, Svid, WorkloadApi, issuance, set_life};
use super::upstream::{self, Seen, Upstream, tls_showing};

const A: &str = "spiffe://prod.example/sa/a";
const B: &str = "spiffe://prod.example/sa/b";
const MAIL: &str = "spiffe://prod.example/sa/mail";

fn write(folder: &Path, svid: &Svid) {
    std::fs::write(folder.join("svid.pem"), &svid.pem).unwrap();
    std::fs::write(folder.join("svid.key"), &svid.key).unwrap();
}

/// A credential of files in this folder, with `prod.pem` as its bundle, and more lines.
fn from_files(folder: &Path, lines: &str) -> String {
    let at = folder.display();
    format!(
        "[credential.mesh]\nfailure-ttl = \"0s\"\n[credential.mesh.spiffe]\n\
         source = {{ cert = \"{at}/svid.pem\", key = {{ file = \"{at}/svid.key\" }} }}\n\
         bundles = {{ \"prod.example\" = {{ file = \"{at}/prod.pem\" }} }}\n{lines}\n"
    )
}

fn from_api(socket: &Path, lines: &str) -> String {
    format!(
        "[credential.mesh]\nfailure-ttl = \"0s\"\ndeadline = \"3s\"\n[credential.mesh.spiffe]\n\
         source = {{ workload-api = \"unix:{}\" }}\n{lines}\n",
        socket.display()
    )
}

fn route(rest: &str) -> String {
    format!(
        "[[route]]\nhosts = [\"api.test\"]\ncredential = \"mesh\"\ninject = \"client-certificate\"\n{rest}\n"
    )
}

fn peers(id: &str) -> String {
    route(&format!("peer-ids = [\"{id}\"]"))
}

/// A workload with this SVID, which takes nobody but workloads of the domain.
async fn workload(svid: &Svid, alpn: &[&str], clients: &Domain) -> Upstream {
    let acceptor = tls_showing((&svid.pem, &svid.key), alpn, Some((&clients.pem, true)));
    Upstream::behind(acceptor, |seen: Seen| {
        Box::pin(async move { upstream::echo(&seen) })
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_shows_its_own_svid_to_the_workload_that_the_route_allows() {
    for alpn in [&["http/1.1"][..], &["h2"][..]] {
        let domain = Domain::new("prod.example");
        let folder = tempfile::tempdir().unwrap();
        let own = domain.svid(&[A]);
        write(folder.path(), &own);
        std::fs::write(folder.path().join("prod.pem"), &domain.pem).unwrap();
        let mail = workload(&domain.svid(&[MAIL]), alpn, &domain).await;
        let id = "spiffe-id = \"spiffe://prod.example/sa/{agent}\"";
        let text = from_files(folder.path(), id) + &peers(MAIL);
        let harness = Setup::new(&text).to("api.test:443", &mail).start().await;
        let agent = harness.agent();
        let mut connection = agent.h1("api.test:443").await;
        for path in ["/one", "/two"] {
            let answer = agent
                .ask(&mut connection, request("GET", path, "api.test"))
                .await;
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        let seen = mail.requests();
        for request in &seen {
            assert_eq!(request.presented, Some(own.serial()));
        }
        assert_eq!(seen[0].connection, seen[1].connection, "it is reused");
        // The SVID is a's: b gets neither it nor a connection that carries it.
        let refused = harness
            .agent_with(Some(TOKEN_B))
            .get("api.test:443", "/three")
            .await;
        assert_eq!((refused.status, refused.word()), (502, "broker-refused"));
        assert_eq!(mail.requests().len(), 2);
        // No line of its key comes back.
        let line = own.key.lines().nth(1).unwrap();
        let mut echo = request("GET", "/echo", "api.test");
        echo.headers_mut().insert("x-key", line.parse().unwrap());
        let answer = agent.ask(&mut connection, echo).await;
        assert_eq!(answer.status, 200);
        assert!(!answer.text().contains(line), "{}", answer.text());
        // The next SVID, on the agent's same connection.
        let next = domain.svid(&[A]);
        write(folder.path(), &next);
        tokio::time::sleep(Duration::from_millis(1800)).await;
        let answer = agent
            .ask(&mut connection, request("GET", "/four", "api.test"))
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(
            mail.requests().pop().unwrap().presented,
            Some(next.serial())
        );
        // One that has ended is not shown.
        let ended = domain.svid_with(&[A], |params| set_life(params, -9 * DAY, -8 * DAY));
        write(folder.path(), &ended);
        tokio::time::sleep(Duration::from_millis(1800)).await;
        let answer = agent
            .ask(&mut connection, request("GET", "/five", "api.test"))
            .await;
        assert_eq!(answer.word(), "broker-refused");
        harness.finish().await;
    }
}

/// Whoever answers at the host's address, only a workload with the right SPIFFE ID gets the call.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_the_peer_gets_no_request() {
    let (prod, test) = (Domain::new("prod.example"), Domain::new("test.example"));
    let ca =
        |params: &mut CertificateParams| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let clients = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    };
    let named = |params: &mut CertificateParams| {
        let name = SanType::DnsName("api.test".try_into().unwrap());
        params.subject_alt_names.push(name);
    };
    let (pem, key) = upstream::certificate(&["api.test"]);
    let der = Vec::new();
    let public = Svid { der, pem, key };
    for (what, svid) in [
        ("a certificate for the host, of a trusted CA", public),
        (
            "an SVID of another trust domain",
            test.svid(&["spiffe://test.example/sa/mail"]),
        ),
        ("an SVID that another domain signed", test.svid(&[MAIL])),
        (
            "one that another domain signed, for the host",
            test.svid_with(&[MAIL], named),
        ),
        (
            "two URIs",
            prod.svid(&[MAIL, "spiffe://prod.example/sa/other"]),
        ),
        (
            "a URI beside it",
            prod.svid(&[MAIL, "https://prod.example/"]),
        ),
        ("no URI", prod.svid_with(&[], named)),
        (
            "another workload of the domain",
            prod.svid(&["spiffe://prod.example/sa/other"]),
        ),
        (
            "a longer path",
            prod.svid(&["spiffe://prod.example/sa/mail/x"]),
        ),
        ("the domain itself", prod.svid(&["spiffe://prod.example"])),
        ("an authority", prod.svid_with(&[MAIL], ca)),
        ("one for clients", prod.svid_with(&[MAIL], clients)),
        (
            "one that ended",
            prod.svid_with(&[MAIL], |p| set_life(p, -9 * DAY, -2 * DAY)),
        ),
        (
            "one that has not begun",
            prod.svid_with(&[MAIL], |p| set_life(p, 90 * DAY, 99 * DAY)),
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &prod.svid(&[A]));
        std::fs::write(folder.path().join("prod.pem"), &prod.pem).unwrap();
        let peer = workload(&svid, &["http/1.1"], &prod).await;
        let text = from_files(folder.path(), "") + &peers(MAIL);
        let harness = Setup::new(&text).to("api.test:443", &peer).start().await;
        let agent = harness.agent();
        let answer = agent.get("api.test:443", "/").await;
        assert_eq!(
            (answer.status, answer.word()),
            (502, "upstream-untrusted"),
            "{what}"
        );
        assert!(peer.dialled() > 0 && peer.requests().is_empty(), "{what}");
        harness.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_counts_where_it_is_asked_for_and_an_svid_without_a_lease_is_no_way_around() {
    let domain = Domain::new("prod.example");
    let named = |params: &mut CertificateParams| {
        let name = SanType::DnsName("api.test".try_into().unwrap());
        params.subject_alt_names.push(name);
    };
    for (svid, status) in [
        (domain.svid(&[MAIL]), 502),
        (domain.svid_with(&[MAIL], named), 200),
    ] {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &domain.svid(&[A]));
        std::fs::write(folder.path().join("prod.pem"), &domain.pem).unwrap();
        let peer = workload(&svid, &["http/1.1"], &domain).await;
        let rest = format!("peer-ids = [\"{MAIL}\"]\nverify-name = true");
        let text = from_files(folder.path(), "") + &route(&rest);
        let harness = Setup::new(&text).to("api.test:443", &peer).start().await;
        let agent = harness.agent();
        assert_eq!(agent.get("api.test:443", "/").await.status, status);
        // A preflight carries no credential, and so there is nothing to hold the peer to.
        let mut connection = agent.h1("api.test:443").await;
        let preflight = request("OPTIONS", "/", "api.test");
        let answer = agent.ask(&mut connection, preflight).await;
        assert_eq!(answer.word(), "upstream-untrusted");
        harness.finish().await;
    }
}

/// Two routes to one host that allow different peers: a connection that one made is none for the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_to_one_peer_is_not_one_to_another() {
    let domain = Domain::new("prod.example");
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &domain.svid(&[A]));
    std::fs::write(folder.path().join("prod.pem"), &domain.pem).unwrap();
    let mail = workload(&domain.svid(&[MAIL]), &["h2"], &domain).await;
    let text = from_files(folder.path(), "")
        + &route(&format!("peer-ids = [\"{MAIL}\"]\npaths = [\"/mail/**\"]"))
        + &route("peer-ids = [\"spiffe://prod.example/ns/*/sa/pay\"]\npaths = [\"/pay/**\"]")
        + &route("peer-ids = [\"spiffe://prod.example/*/mail\"]\npaths = [\"/any/**\"]");
    let harness = Setup::new(&text).to("api.test:443", &mail).start().await;
    let agent = harness.agent();
    let mut connection = agent.h1("api.test:443").await;
    for (path, status) in [
        ("/mail/1", 200),
        ("/pay/1", 502),
        ("/mail/2", 200),
        ("/any/1", 200),
    ] {
        let answer = agent
            .ask(&mut connection, request("GET", path, "api.test"))
            .await;
        assert_eq!(answer.status, status, "{path}");
    }
    let seen = mail.requests();
    assert_eq!(seen.len(), 3);
    assert_eq!(seen[0].connection, seen[1].connection);
    assert_ne!(seen[1].connection, seen[2].connection);
    harness.finish().await;
}

/// A peer that sends the agent elsewhere: there nothing is presented.
#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_does_not_carry_the_svid_to_another_host() {
    let domain = Domain::new("prod.example");
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &domain.svid(&[A]));
    std::fs::write(folder.path().join("prod.pem"), &domain.pem).unwrap();
    let svid = domain.svid(&[MAIL]);
    let acceptor = tls_showing(
        (&svid.pem, &svid.key),
        &["http/1.1"],
        Some((&domain.pem, true)),
    );
    let mail = Upstream::behind(acceptor, |_| {
        Box::pin(async {
            let mut answer = upstream::ok("");
            *answer.status_mut() = http::StatusCode::FOUND;
            let to = "https://other.test/x".parse().unwrap();
            answer.headers_mut().insert("location", to);
            answer
        })
    })
    .await;
    // It would take the SVID gladly.
    let (cert, key) = upstream::certificate(&["other.test"]);
    let acceptor = tls_showing((&cert, &key), &["http/1.1"], Some((&domain.pem, false)));
    let thief = Upstream::behind(acceptor, |seen: Seen| {
        Box::pin(async move { upstream::echo(&seen) })
    })
    .await;
    let text =
        from_files(folder.path(), "") + &peers(MAIL) + "[[route]]\nhosts = [\"other.test\"]\n";
    let harness = Setup::new(&text)
        .to("api.test:443", &mail)
        .to("other.test:443", &thief)
        .start()
        .await;
    let agent = harness.agent();
    let answer = agent.get("api.test:443", "/").await;
    assert_eq!(answer.status, 302, "keyward does not follow it");
    assert!(thief.requests().is_empty());
    let answer = agent.get("other.test:443", "/x").await;
    assert_eq!(answer.status, 200);
    assert_eq!(thief.requests()[0].presented, None);
    harness.finish().await;
}

/// Each agent has its own of the SVIDs that the Workload API issues; the peers are of two trust domains.
#[tokio::test(flavor = "multi_thread")]
async fn the_workload_api_brings_each_agent_its_own_and_the_bundles_of_both_domains() {
    let (prod, test) = (Domain::new("prod.example"), Domain::new("test.example"));
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("api.sock");
    let (a, b) = (prod.svid(&[A]), prod.svid(&[B]));
    let (near, far) = (
        workload(&prod.svid(&[MAIL]), &["h2"], &prod).await,
        workload(
            &test.svid(&["spiffe://test.example/pay"]),
            &["http/1.1"],
            &prod,
        )
        .await,
    );
    let id = "spiffe-id = \"spiffe://prod.example/sa/{agent}\"";
    let text = from_api(&socket, id)
        + &peers(MAIL)
        + &peers("spiffe://test.example/pay").replace("api.test", "other.test");
    let harness = Setup::new(&text)
        .to("api.test:443", &near)
        .to("other.test:443", &far)
        .start()
        .await;
    let (one, two) = (harness.agent(), harness.agent_with(Some(TOKEN_B)));
    let answer = one.get("api.test:443", "/").await;
    assert_eq!(answer.word(), "broker-unavailable", "nobody is there yet");
    // An API that does not know us: nothing is issued. Then it does.
    let api = WorkloadApi::serve(&socket, None);
    settles(&one, "broker-refused").await;
    api.say(issuance(
        &prod,
        &[(B, &b), (A, &a)],
        &[("test.example", &test)],
    ));
    settles(&one, "").await;
    assert_eq!(two.get("api.test:443", "/").await.status, 200);
    for agent in [&one, &two] {
        assert_eq!(agent.get("other.test:443", "/").await.status, 200);
    }
    for (upstream, first) in [(&near, &a), (&far, &a)] {
        let seen = upstream.requests();
        let shown: Vec<_> = seen.iter().map(|seen| seen.presented.clone()).collect();
        assert_eq!(shown, [Some(first.serial()), Some(b.serial())]);
        assert_ne!(seen[0].connection, seen[1].connection);
    }
    // The stream breaks: the last SVIDs are used, and the API is asked again.
    let asked = api.asked();
    api.cut();
    for _ in 0..3 {
        assert_eq!(one.get("api.test:443", "/").await.status, 200);
    }
    let again = async {
        while api.asked() == asked {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), again)
        .await
        .unwrap();
    // A message without a's: it is withdrawn at once, and b's is not.
    api.say(issuance(&prod, &[(B, &b)], &[("test.example", &test)]));
    settles(&one, "broker-refused").await;
    assert_eq!(two.get("api.test:443", "/").await.status, 200);
    assert_eq!(
        near.requests().pop().unwrap().presented,
        Some(b.serial()),
        "the same as before"
    );
    // The other domain is no longer a friend: a connection that was made to it is not used any more either.
    api.say(issuance(&prod, &[(B, &b), (A, &a)], &[]));
    settles(&one, "").await;
    for agent in [&one, &two] {
        let answer = agent.get("other.test:443", "/").await;
        assert_eq!(answer.word(), "upstream-untrusted");
    }
    // Denied: all of them.
    api.deny();
    settles(&one, "broker-refused").await;
    let answer = two.get("api.test:443", "/").await;
    assert_eq!(answer.word(), "broker-refused");
    harness.finish().await;
}

/// Asks until the answer is this word; an empty one is no refusal.
async fn settles(agent: &super::agent::Agent, word: &str) {
    let settled = async {
        loop {
            let answer = agent.get("api.test:443", "/").await;
            if answer.status == 200 && word.is_empty() || !word.is_empty() && answer.word() == word
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(15), settled)
        .await
        .unwrap_or_else(|_| panic!("never {word:?}"));
}

/// SVIDs that live for seconds are rotated while requests are under way: none is lost, and none goes out under one that
/// was replaced.
#[tokio::test(flavor = "multi_thread")]
async fn an_svid_is_rotated_under_load_without_a_lost_request() {
    for alpn in [&["http/1.1"][..], &["h2"][..]] {
        let domain = Domain::new("prod.example");
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("api.sock");
        let short = || {
            domain.svid_with(&[A], |params| {
                let now = jiff::Timestamp::now().as_second().unsigned_abs();
                let epoch = rcgen::date_time_ymd(1970, 1, 1);
                params.not_after = epoch + Duration::from_secs(now + 5);
            })
        };
        let first = short();
        let api = WorkloadApi::serve(&socket, Some(issuance(&domain, &[(A, &first)], &[])));
        let svid = domain.svid(&[MAIL]);
        let acceptor = tls_showing((&svid.pem, &svid.key), alpn, Some((&domain.pem, true)));
        let mail = Upstream::behind(acceptor, |seen: Seen| {
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(5)).await;
                upstream::echo(&seen)
            })
        })
        .await;
        let text = from_api(&socket, "") + &peers(MAIL);
        let harness = Setup::new(&text).to("api.test:443", &mail).start().await;
        let (over, sent) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicUsize::new(0)),
        );
        let mut load = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let (agent, over, sent) = (harness.agent(), Arc::clone(&over), Arc::clone(&sent));
            load.spawn(async move {
                let mut connection = agent.h1("api.test:443").await;
                while !over.load(Ordering::SeqCst) {
                    let answer = agent
                        .ask(&mut connection, request("GET", "/", "api.test"))
                        .await;
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    sent.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let mut serials = vec![first.serial()];
        for _ in 0..6 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let next = short();
            serials.push(next.serial());
            api.say(issuance(&domain, &[(A, &next)], &[]));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        over.store(true, Ordering::SeqCst);
        while let Some(done) = load.join_next().await {
            done.unwrap();
        }
        let seen = mail.requests();
        assert_eq!(seen.len(), sent.load(Ordering::SeqCst), "each once");
        for serial in &serials {
            let of = |seen: &&Seen| seen.presented.as_ref() == Some(serial);
            assert!(
                seen.iter().filter(of).count() > 0,
                "{serial} was never used"
            );
        }
        let last = seen.last().unwrap().presented.clone();
        assert_eq!(last.as_ref(), serials.last());
        // Nobody renews it any more: when it ends it is not shown.
        let agent = harness.agent();
        drop(api);
        tokio::time::sleep(Duration::from_secs(6)).await;
        let answer = agent.get("api.test:443", "/").await;
        assert_eq!(answer.word(), "broker-unavailable");
        assert_eq!(mail.requests().len(), seen.len());
        harness.finish().await;
    }
}

/// The called side is a keyward too: its listener shows an SVID, knows the caller by his, and gives him a session token
/// that is bound to it.
#[tokio::test(flavor = "multi_thread")]
async fn one_keyward_calls_another_and_each_knows_the_other_by_its_svid() {
    let domain = Domain::new("prod.example");
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let own = domain.svid(&[A]);
    write(folder.path(), &own);
    let mail = domain.svid(&[MAIL]);
    for (name, text) in [
        ("prod.pem", &domain.pem),
        ("mail.pem", &mail.pem),
        ("mail.key", &mail.key),
    ] {
        std::fs::write(path(name), text).unwrap();
    }
    let called = Setup::new(&format!(
        "[trust.mesh]\nagent = {{ map = {{ \"{A}\" = \"a\" }} }}\n\
         spiffe = {{ trust-domain = \"prod.example\", bundle = {{ file = \"{}\" }} }}\n\
         [[route]]\nhosts = [\"api.test\"]\n",
        path("prod.pem")
    ))
    .proxy("listen = [\"tls:127.0.0.1:0\"]")
    .proxy(&format!(
        "tls = {{ cert = \"{}\", key = {{ file = \"{}\" }} }}",
        path("mail.pem"),
        path("mail.key")
    ))
    .start()
    .await;
    let address = called.app().listeners()[0].2[0];
    let calling = |peer: &str| {
        let text = from_files(folder.path(), "") + &peers(peer);
        Setup::new(&text).upstream(&format!(
            "connect-to = {{ \"api.test:443\" = \"{address}\" }}"
        ))
    };
    let token = async |harness: &Harness| {
        let form = "grant_type=client_credentials";
        let mut ask = body_request("POST", "/token", "api.test", form);
        let form = "application/x-www-form-urlencoded".parse().unwrap();
        ask.headers_mut().insert("content-type", form);
        let agent = harness.agent();
        let mut connection = agent.h1("api.test:443").await;
        agent.ask(&mut connection, ask).await
    };
    let harness = calling(MAIL).start().await;
    let answer = token(&harness).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let granted: Value = serde_json::from_str(&answer.text()).unwrap();
    let claims = super::token::part(granted["access_token"].as_str().unwrap(), 1);
    let sum = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &own.der);
    let thumbprint = super::trust::b64(sum.as_ref());
    assert_eq!(
        (&claims["sub"], &claims["cnf"]),
        (&json!("a"), &json!({"x5t#S256": thumbprint}))
    );
    let picks = |r: &Value| r["event"] == "session-start" && r["trust"] == "mesh";
    assert_eq!(called.record(picks).await["agent"], "a");
    harness.finish().await;

    // A caller that expects somebody else does not call; one whom the other side does not know gets nothing there.
    let harness = calling("spiffe://prod.example/sa/pay").start().await;
    assert_eq!(token(&harness).await.word(), "upstream-untrusted");
    harness.finish().await;
    write(folder.path(), &domain.svid(&[B]));
    let harness = calling(MAIL).start().await;
    let answer = token(&harness).await;
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert!(!answer.text().contains("access_token"), "{}", answer.text());
    harness.finish().await;
    called.finish().await;
}

/// A federated domain's bundle by the file's word, beside an SVID in files; another domain's authority does not stand in.
#[tokio::test(flavor = "multi_thread")]
async fn a_federated_bundle_is_for_its_own_domain_only() {
    let (prod, test) = (Domain::new("prod.example"), Domain::new("test.example"));
    let bundle = test.bundle(&[]);
    let server = Upstream::service(&["http/1.1"], move |_| {
        let bundle = bundle.clone();
        Box::pin(async move { upstream::ok(bundle) })
    })
    .await;
    let id = "spiffe://test.example/pay";
    for (svid, status) in [(test.svid(&[id]), 200), (prod.svid(&[id]), 502)] {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &prod.svid(&[A]));
        let peer = workload(&svid, &["http/1.1"], &prod).await;
        let place = format!("{{ file = \"{}/prod.pem\" }}", folder.path().display());
        let far = format!("{{ endpoint = \"https://{}/bundle\" }}", server.address);
        let text = from_files(folder.path(), "")
            .replace(&place, &format!("{place}, \"test.example\" = {far}"))
            + &peers(id);
        std::fs::write(folder.path().join("prod.pem"), &prod.pem).unwrap();
        let harness = Setup::new(&text).to("api.test:443", &peer).start().await;
        let answer = harness.agent().get("api.test:443", "/").await;
        assert_eq!(answer.status, status, "{}", answer.text());
        harness.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_takes_the_peer_away_closes_its_connections() {
    let domain = Domain::new("prod.example");
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &domain.svid(&[A]));
    std::fs::write(folder.path().join("prod.pem"), &domain.pem).unwrap();
    let mail = workload(&domain.svid(&[MAIL]), &["http/1.1"], &domain).await;
    let text = from_files(folder.path(), "");
    let setup = Setup::new(&(text.clone() + &peers(MAIL))).to("api.test:443", &mail);
    let harness: Harness = setup.clone().start().await;
    let agent = harness.agent();
    assert_eq!(agent.get("api.test:443", "/").await.status, 200);
    let other = peers("spiffe://prod.example/sa/pay");
    harness.reload(&setup.routes(&(text + &other))).await;
    let answer = agent.get("api.test:443", "/").await;
    assert_eq!(answer.word(), "upstream-untrusted");
    harness.finish().await;
}

#[test]
fn a_file_that_leaves_the_peer_open_is_refused() {
    let read = |text: &str| {
        let presets = &**keyward::preset::Presets::shipped();
        keyward::config::parse(text, "test.toml", Path::new("/"), presets).map(drop)
    };
    let files = from_files(Path::new("/x"), "");
    let api = from_api(Path::new("/x.sock"), "");
    assert!(read(&format!("{files}{}", peers(MAIL))).is_ok());
    let far = peers("spiffe://test.example/x");
    assert!(read(&format!("{api}{far}")).is_ok());
    for (text, part) in [
        (format!("{files}{}", route("")), "peer-ids"),
        (
            format!("{files}{far}"),
            "no bundle of the trust domain \"test.example\"",
        ),
        (format!("{files}{}", peers("spiffe://*/x")), "SPIFFE ID"),
        (
            format!(
                "{BEARER}peer-ids = [\"{MAIL}\"]\n[credential.c.static]\nvalue = {{ env = \"C\" }}\n"
            ),
            "kind spiffe",
        ),
        (
            format!("[[route]]\nhosts = [\"api.test\"]\npeer-ids = [\"{MAIL}\"]\n"),
            "kind spiffe",
        ),
        (
            format!("{files}{}", peers(MAIL)).replace("\"client-certificate\"", "\"bearer\""),
            "TLS handshake",
        ),
        (
            format!("{files}{}", peers(MAIL)).replace("prod.example\" =", "Prod.example\" ="),
            "no trust domain",
        ),
        (
            from_api(Path::new("/x.sock"), "spiffe-id = \"spiffe://{agent}/x\"") + &peers(MAIL),
            "no SPIFFE ID",
        ),
        (
            from_api(
                Path::new("/x.sock"),
                "spiffe-id = \"spiffe://prod.example/{agent}\"",
            )
            .replace("failure-ttl", "share = \"all\"\nfailure-ttl")
                + &peers(MAIL),
            "names the agent",
        ),
    ] {
        let report = read(&text).unwrap_err().to_string();
        assert!(report.contains(part), "{part}: {report}");
    }
    let bare = files.replace(", key = { file = \"/x/svid.key\" }", "");
    let report = read(&format!("{bare}{}", peers(MAIL))).unwrap_err();
    assert!(report.to_string().contains("without \"key\""), "{report}");
}
