//! Whoever is asked for credentials, and about identities: each issuer is called, and its answer is held to what the file
//! takes it for. Nothing secret is sent, and no credential is asked for.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, HeaderValue};
use http::{Method, Request, StatusCode};
use rustix::fs::{Access, access};
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use super::Finding;
use super::reach::offset;
use crate::app::Environment;
use crate::config::Config;
use crate::credential::oauth::{ClientAuth, Grant, Server, Settings};
use crate::credential::{AwsSource, AzureSettings, Kind, Spec, SvidSource};
use crate::identity::{KeyPlace, TrustKind};
use crate::issuer::spiffe::BundlePlace;
use crate::issuer::{Answer, Client, Endpoint};

const CHECK: &str = "issuer";
const PATIENCE: Duration = Duration::from_secs(8);
const REACH: &str = "look at name resolution and firewall; a company's root belongs in trust of [upstream], and connect-to leads elsewhere";

/// What an answer must be.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Expect {
    /// Any at all: a token endpoint answers no GET.
    Any,
    /// The metadata of this issuer, in which this member stands.
    Metadata(String, &'static str),
    /// A JWK set.
    Keys,
    /// A Vault's health.
    Vault,
}

/// Somebody who is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Asked {
    /// The table that names it.
    whose: String,
    /// The first that answers with 200 counts.
    at: Vec<Endpoint>,
    expect: Expect,
}

/// Calls everybody whom the file names; the findings, and how far this clock is ahead of each, in seconds.
pub(super) async fn look(
    config: &Config,
    client: &Client,
    environment: &Environment,
) -> (Vec<Finding>, Vec<i64>) {
    let (mut asked, mut found) = (Vec::new(), Vec::new());
    let mut sockets: Vec<(String, PathBuf)> = Vec::new();
    for spec in &config.credentials {
        of_credential(spec, environment, &mut asked, &mut sockets, &mut found);
    }
    for table in &config.trust {
        let whose = format!("[trust.{}]", table.settings.name);
        of_trust(
            &table.settings.kind,
            &whose,
            &mut asked,
            &mut sockets,
            &mut found,
        );
    }
    for login in &config.logins {
        let (base, issuer) = (&login.settings.discovery, &login.settings.issuer);
        let whose = format!("[login.{}]", login.settings.name);
        asked.extend(discovery(&whose, base, issuer));
    }
    for (whose, socket) in sockets {
        found.push(reach(&whose, &socket).await);
    }
    let mut calls = JoinSet::new();
    for (place, one) in asked.into_iter().enumerate() {
        let client = client.clone();
        calls.spawn(async move {
            let (finding, offset) = call(&one, &client).await;
            (place, finding, offset)
        });
    }
    let mut answers = Vec::new();
    while let Some(answer) = calls.join_next().await {
        answers.extend(answer.ok());
    }
    answers.sort_by_key(|(place, ..)| *place);
    let offsets = answers.iter().filter_map(|(.., offset)| *offset).collect();
    found.extend(answers.into_iter().map(|(_, finding, _)| finding));
    (found, offsets)
}

fn of_credential(
    spec: &Spec,
    environment: &Environment,
    asked: &mut Vec<Asked>,
    sockets: &mut Vec<(String, PathBuf)>,
    found: &mut Vec<Finding>,
) {
    let whose = format!("[credential.{}]", spec.name);
    if let Kind::Spiffe(settings) = &spec.kind {
        if let SvidSource::WorkloadApi(socket) = &settings.source {
            sockets.push((whose.clone(), socket.clone()));
        }
        for (_, place) in &settings.bundles {
            of_bundle(place, &whose, asked, sockets, found);
        }
    }
    let mut any = |url: &Endpoint| asked.push(Asked::any(&whose, url));
    match &spec.kind {
        Kind::Static { .. } | Kind::ClientCertificate(_) | Kind::Spiffe(_) => {}
        Kind::Command(settings) => {
            let program = settings.run.first();
            found.extend(program.map(|program| runs(&whose, program, environment)));
        }
        Kind::Vault(settings) => asked.push(Asked {
            at: settings.url.join("v1/sys/health").into_iter().collect(),
            expect: Expect::Vault,
            whose,
        }),
        Kind::GithubApp(settings) => any(&settings.end),
        Kind::Oauth(settings) => of_oauth(settings, &whose, asked, found),
        Kind::Azure(settings) => match &**settings {
            AzureSettings::Client(settings) => of_oauth(settings, &whose, asked, found),
            AzureSettings::Machine { endpoint, .. } => any(endpoint),
        },
        Kind::Aws(settings) => {
            let web = matches!(settings.source, AwsSource::WebIdentity(_));
            if settings.role.is_some() || web {
                any(&settings.sts);
            }
        }
    }
}

fn of_oauth(settings: &Settings, whose: &str, asked: &mut Vec<Asked>, found: &mut Vec<Finding>) {
    let auth = settings.client.as_ref().map(|client| &client.auth);
    match &settings.server {
        Server::Issuer(issuer) => asked.push(Asked {
            whose: whose.to_owned(),
            at: issuer.metadata().map(Vec::from).unwrap_or_default(),
            expect: Expect::Metadata(issuer.as_str().to_owned(), "token_endpoint"),
        }),
        Server::Urls { .. } if matches!(auth, Some(ClientAuth::Tls { .. })) => {
            let message = format!("{whose}: its token-url takes a certificate, and is not tried");
            found.push(Finding::ok(CHECK, message));
        }
        Server::Urls { token, .. } => asked.push(Asked::any(whose, token)),
        Server::InKeyFile => {
            let message = format!("{whose}: its issuer stands in the key file, and is not tried");
            found.push(Finding::ok(CHECK, message));
        }
    }
    if let Grant::WorkloadIdentity(workload) = &settings.grant {
        asked.push(Asked::any(whose, &workload.generate));
    }
}

fn of_trust(
    kind: &TrustKind,
    whose: &str,
    asked: &mut Vec<Asked>,
    sockets: &mut Vec<(String, PathBuf)>,
    found: &mut Vec<Finding>,
) {
    let keys = |url: &Endpoint| Asked {
        whose: whose.to_owned(),
        at: vec![url.clone()],
        expect: Expect::Keys,
    };
    match kind {
        TrustKind::Jwt(settings) => asked.extend(match &settings.keys {
            KeyPlace::Discovery(base, issuer) => discovery(whose, base, issuer),
            KeyPlace::Url(url) => Some(keys(url)),
        }),
        // Without its token the API server answers 401 or 403, also for its keys: it is there.
        TrustKind::Kubernetes(settings) => asked.push(Asked::any(whose, &settings.api)),
        TrustKind::Spiffe(settings) => of_bundle(&settings.bundle, whose, asked, sockets, found),
        TrustKind::Relay(settings) => of_bundle(&settings.bundle, whose, asked, sockets, found),
        TrustKind::Aws(settings) => {
            let caller = settings.caller_identity.as_ref();
            asked.extend(caller.map(|caller| Asked::any(whose, &caller.sts)));
        }
        TrustKind::Peer(_) => {}
    }
}

fn of_bundle(
    place: &BundlePlace,
    whose: &str,
    asked: &mut Vec<Asked>,
    sockets: &mut Vec<(String, PathBuf)>,
    found: &mut Vec<Finding>,
) {
    match place {
        BundlePlace::Endpoint(url) => asked.push(Asked {
            whose: whose.to_owned(),
            at: vec![url.clone()],
            expect: Expect::Keys,
        }),
        BundlePlace::WorkloadApi(socket) => sockets.push((whose.to_owned(), socket.clone())),
        BundlePlace::File(path) => found.push(bundle(whose, path)),
    }
}

/// OpenID Connect Discovery 1.0 §4.
fn discovery(whose: &str, base: &Endpoint, issuer: &str) -> Option<Asked> {
    Some(Asked {
        whose: whose.to_owned(),
        at: vec![base.join("/.well-known/openid-configuration").ok()?],
        expect: Expect::Metadata(issuer.to_owned(), "jwks_uri"),
    })
}

impl Asked {
    fn any(whose: &str, url: &Endpoint) -> Self {
        Self {
            whose: whose.to_owned(),
            at: vec![url.clone()],
            expect: Expect::Any,
        }
    }
}

/// Asks one; what was found, and how far this clock is ahead of its own.
async fn call(asked: &Asked, client: &Client) -> (Finding, Option<i64>) {
    let whose = &asked.whose;
    let mut last: Option<(&Endpoint, Answer)> = None;
    for url in &asked.at {
        let request = Request::builder()
            .method(Method::GET)
            .uri(url.uri().clone())
            .header(ACCEPT, HeaderValue::from_static("application/json"))
            .body(Bytes::new());
        let Ok(request) = request else { continue };
        let answer = tokio::time::timeout(PATIENCE, client.send(request)).await;
        let Ok(Ok(answer)) = answer else {
            let message = format!(
                "{whose}: {} cannot be reached, or its certificate does not verify",
                url.target()
            );
            return (Finding::fail(CHECK, message, REACH), None);
        };
        let good = answer.status == StatusCode::OK;
        last = Some((url, answer));
        if good {
            break;
        }
    }
    let Some((url, answer)) = last else {
        let message = format!("{whose}: its URL cannot be asked");
        return (Finding::fail(CHECK, message, "look at it"), None);
    };
    let found = match judge(&asked.expect, &answer) {
        Ok(what) => Finding::ok(CHECK, format!("{whose}: {url} {what}")),
        Err((what, help)) => Finding::fail(CHECK, format!("{whose}: {url} {what}"), help),
    };
    (found, offset(&answer.headers))
}

type Judged = Result<String, (String, String)>;

/// What the answer is, or what is wrong with it and what mends it. Nothing of the issuer's is told but its name.
fn judge(expect: &Expect, answer: &Answer) -> Judged {
    let fault = |what: &str, help: &str| Err((what.to_owned(), help.to_owned()));
    let status = answer.status.as_u16();
    match expect {
        Expect::Any if answer.status.is_server_error() => {
            let what = format!("answers {status}");
            fault(&what, "ask whoever runs it, or try again later")
        }
        Expect::Any => Ok("answers".to_owned()),
        Expect::Vault => match status {
            200 | 429 | 472 | 473 => Ok("answers, and is unsealed".to_owned()),
            501 => fault("is not initialized", "vault operator init"),
            503 => fault("is sealed", "vault operator unseal"),
            _ => {
                let what = format!("answers {status} to /v1/sys/health, which no Vault does");
                fault(&what, "url is where the API is, without /v1")
            }
        },
        Expect::Metadata(issuer, member) => {
            let metadata = answer.json::<Value>().ok().filter(|_| status == 200);
            let Some(metadata) = metadata else {
                let what = format!("has no metadata (status {status})");
                return fault(
                    &what,
                    "issuer is the URL whose metadata it is; or name token-url, or jwks-url, instead",
                );
            };
            match metadata.get("issuer").and_then(Value::as_str) {
                Some(named) if named == issuer => {}
                Some(named) => {
                    let what = format!("is the metadata of {named:?}, not of {issuer:?}");
                    return fault(
                        &what,
                        "write issuer as it stands there, a slash at its end included",
                    );
                }
                None => return fault("names no issuer", "issuer is the URL whose metadata it is"),
            }
            match metadata.get(*member).and_then(Value::as_str) {
                Some(url) if url.parse::<Endpoint>().is_ok() => {
                    Ok(format!("is the metadata, with {member}"))
                }
                _ => fault(
                    &format!("names no {member}"),
                    "this issuer cannot be used so",
                ),
            }
        }
        Expect::Keys => {
            let set = answer.json::<Value>().ok().filter(|_| status == 200);
            match set.as_ref().and_then(|set| set.get("keys")?.as_array()) {
                Some(keys) if !keys.is_empty() => Ok(format!("has {} keys", keys.len())),
                Some(_) => fault("has a set without keys", "nobody can be verified by it"),
                None => {
                    let what = format!("has no JWK set (status {status})");
                    fault(&what, "name the URL of the keys, not of the issuer")
                }
            }
        }
    }
}

/// Whether somebody listens at a socket.
async fn reach(whose: &str, socket: &Path) -> Finding {
    let shown = socket.display();
    match UnixStream::connect(socket).await {
        Ok(_) => Finding::ok(CHECK, format!("{whose}: somebody listens at {shown}")),
        Err(error) => Finding::fail(
            CHECK,
            format!(
                "{whose}: nobody can be reached at {shown}: {}",
                error.kind()
            ),
            "start the SPIFFE agent, and let keyward's user open its socket",
        ),
    }
}

/// A bundle's file: PEM, or a SPIFFE JWK set.
fn bundle(whose: &str, path: &Path) -> Finding {
    let shown = path.display();
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let set = serde_json::from_str::<Value>(&text).ok();
    let keys = set.as_ref().and_then(|set| set.get("keys")?.as_array());
    if text.contains("-----BEGIN CERTIFICATE-----") || keys.is_some_and(|keys| !keys.is_empty()) {
        Finding::ok(CHECK, format!("{whose}: {shown} holds a bundle"))
    } else {
        let message = format!("{whose}: {shown} holds no bundle that can be read");
        let help = "spire-server bundle show -format spiffe writes one";
        Finding::fail(CHECK, message, help)
    }
}

/// Whether a command of the file can be run.
fn runs(whose: &str, program: &str, environment: &Environment) -> Finding {
    let places: Vec<PathBuf> = if program.contains('/') {
        vec![program.into()]
    } else {
        let path = environment.get("PATH").into_iter();
        path.flat_map(std::env::split_paths)
            .map(|folder| folder.join(program))
            .collect()
    };
    let usable = |path: &PathBuf| path.is_file() && access(path, Access::EXEC_OK).is_ok();
    match places.iter().find(|path| usable(path)) {
        Some(path) => Finding::ok(CHECK, format!("{whose}: {} can be run", path.display())),
        None => Finding::fail(
            CHECK,
            format!("{whose}: {program} is no program that can be run"),
            "write its whole path, and chmod +x it",
        ),
    }
}
