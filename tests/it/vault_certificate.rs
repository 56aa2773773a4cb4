//! Client certificates as credentials: from files, and short-lived from the PKI engine of a real OpenBao.

use std::path::Path;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::json;

use super::harness::{Setup, TOKEN_B};
use super::upstream::Upstream;
use super::vault_server::{Bao, ROOT};

/// A CA of clients.
struct Clients {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate in files, and what to know it by.
struct Issued {
    serial: String,
    key: String,
}

impl Clients {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Self { pem, issuer }
    }

    /// Writes `client.pem` and `client.key`.
    fn issue(&self, folder: &Path, serial: u8) -> Issued {
        let mut params = CertificateParams::new(vec!["agent.test".to_owned()]).unwrap();
        params.serial_number = Some(vec![0x40, serial].into());
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(folder.join("client.pem"), certificate.pem()).unwrap();
        std::fs::write(folder.join("client.key"), key.serialize_pem()).unwrap();
        Issued {
            serial: format!("40:{serial:02x}"),
            key: key.serialize_pem(),
        }
    }
}

fn from_files(folder: &Path) -> String {
    let at = folder.display();
    format!(
        "[credential.cc]\nfailure-ttl = \"0s\"\n\
         client-certificate = {{ cert = \"{at}/client.pem\", key = {{ file = \"{at}/client.key\" }} }}\n\
         [[route]]\nhosts = [\"api.test\"]\npaths = [\"/other/**\"]\ncredential = \"c\"\ninject = \"bearer\"\n\
         [[route]]\nhosts = [\"api.test\"]\ncredential = \"cc\"\ninject = \"client-certificate\"\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_presented_for_its_own_route_and_agent_and_follows_its_files() {
    for alpn in [&["http/1.1"][..], &["h2"][..]] {
        let clients = Clients::new();
        let folder = tempfile::tempdir().unwrap();
        let first = clients.issue(folder.path(), 1);
        let upstream = Upstream::asking(alpn, &clients.pem).await;
        let harness = Setup::new(&from_files(folder.path()))
            .to("api.test:443", &upstream)
            .start()
            .await;
        let agent = harness.agent();
        let mut connection = agent.h1("api.test:443").await;
        for path in ["/one", "/two"] {
            let request = super::agent::request("GET", path, "api.test");
            let answer = agent.ask(&mut connection, request).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        let other = harness.agent_with(Some(TOKEN_B));
        assert_eq!(other.get("api.test:443", "/three").await.status, 200);
        let seen = upstream.requests();
        for request in &seen {
            assert_eq!(request.presented.as_ref(), Some(&first.serial));
            assert_eq!(request.get("authorization"), None);
        }
        assert_eq!(seen[0].connection, seen[1].connection, "it is reused");
        assert_ne!(seen[1].connection, seen[2].connection, "by nobody else");

        // The route with another credential presents nothing: this upstream takes nobody so.
        let refused = agent.get("api.test:443", "/other/x").await;
        assert_eq!(refused.status, 502, "{}", refused.text());
        assert_eq!(upstream.requests().len(), 3);

        // No line of the key comes back, wherever an upstream had it from.
        let line = first.key.lines().nth(1).unwrap();
        let mut echo = super::agent::request("GET", "/echo", "api.test");
        echo.headers_mut().insert("x-key", line.parse().unwrap());
        let answer = agent.ask(&mut connection, echo).await;
        assert_eq!(answer.status, 200);
        assert!(!answer.text().contains(line), "{}", answer.text());

        // Another certificate, on the agent's same connection.
        let second = clients.issue(folder.path(), 2);
        tokio::time::sleep(Duration::from_millis(1800)).await;
        let request = super::agent::request("GET", "/four", "api.test");
        let answer = agent.ask(&mut connection, request).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let last = upstream.requests().pop().unwrap();
        assert_eq!(last.presented, Some(second.serial));
        assert_ne!(last.connection, seen[0].connection);

        // A certificate whose key is another's is none.
        let stranger = KeyPair::generate().unwrap().serialize_pem();
        std::fs::write(folder.path().join("client.key"), stranger).unwrap();
        tokio::time::sleep(Duration::from_millis(1800)).await;
        let request = super::agent::request("GET", "/five", "api.test");
        let answer = agent.ask(&mut connection, request).await;
        assert_eq!(answer.word(), "broker-unavailable");
        harness.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_the_vault_is_used_no_longer_than_it_lives() {
    let Some(bao) = Bao::start().await else {
        return;
    };
    bao.api("POST", "sys/mounts/pki", json!({ "type": "pki" }))
        .await;
    let root = json!({ "common_name": "clients of the tests", "ttl": "24h", "key_type": "ec" });
    let root = bao.api("POST", "pki/root/generate/internal", root).await;
    let role = json!({
        "allowed_domains": ["agent.test"],
        "allow_bare_domains": true,
        "key_type": "ec",
        "max_ttl": "1h",
        "ttl": "4s",
    });
    bao.api("POST", "pki/roles/agents", role).await;
    let clients = root["data"]["certificate"].as_str().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("root");
    std::fs::write(&file, ROOT).unwrap();
    let text = format!(
        "[credential.cc]\nvault = {{ url = \"http://{}\", login = {{ token = {{ file = \"{}\" }} }}, \
         path = \"pki/issue/agents\", data = {{ common_name = \"agent.test\" }} }}\n\
         [[route]]\nhosts = [\"api.test\"]\ncredential = \"cc\"\ninject = \"client-certificate\"\n",
        bao.address,
        file.display()
    );
    let upstream = Upstream::asking(&["h2", "http/1.1"], clients).await;
    let harness = Setup::new(&text)
        .to("api.test:443", &upstream)
        .start()
        .await;
    let agent = harness.agent();
    let mut connection = agent.h2("api.test:443").await;
    for path in ["/one", "/two"] {
        let request = super::agent::request("GET", path, "api.test");
        let answer = agent.ask_h2(&mut connection, request).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    tokio::time::sleep(Duration::from_millis(4500)).await;
    let request = super::agent::request("GET", "/three", "api.test");
    let answer = agent.ask_h2(&mut connection, request).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = upstream.requests();
    assert_eq!(seen[0].connection, seen[1].connection);
    assert_eq!(seen[0].presented, seen[1].presented);
    assert_ne!(seen[1].presented, seen[2].presented, "another certificate");
    assert_ne!(seen[1].connection, seen[2].connection);
    harness.finish().await;
}

#[test]
fn a_certificate_and_its_placement_belong_together() {
    let read = |text: &str| {
        let presets = &**keyward::preset::Presets::shipped();
        keyward::config::parse(text, "test.toml", Path::new("/"), presets).map(drop)
    };
    let files = "[credential.cc.client-certificate]\ncert = \"c\"\nkey = { file = \"k\" }\n";
    let token = "[credential.cc.static]\nvalue = { file = \"v\" }\n";
    let route = |inject: &str| {
        format!("[[route]]\nhosts = [\"api.test\"]\ncredential = \"cc\"\ninject = {inject}\n")
    };
    assert!(read(&format!("{files}{}", route("\"client-certificate\""))).is_ok());
    for (credential, inject) in [
        (files, "\"bearer\""),
        (files, "[\"client-certificate\", \"bearer\"]"),
        (token, "\"client-certificate\""),
    ] {
        let report = read(&format!("{credential}{}", route(inject))).unwrap_err();
        assert!(report.to_string().contains("certificate"), "{report}");
    }
}
