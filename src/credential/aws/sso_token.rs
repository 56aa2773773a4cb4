//! The token that `aws sso login` has cached, and its renewal: CreateToken of IAM Identity Center's OIDC API (version
//! 2019-06-10) with the refresh token that an `sso-session` login leaves beside it, as the AWS CLI and the SDKs do.
//!
//! What is renewed is written back where that is safe, since the refresh token in the file may be good no longer: then
//! the tools of whoever signed in go on with it too. Else it is kept in memory.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderValue, Method, Request};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::Mutex;
use tokio::time::timeout;
use tracing::warn;
use zeroize::Zeroizing;

use super::super::IssueError;
use super::super::oauth::{Wiped, judge, lost};
use super::chain::read;
use super::profile::Sso;
use crate::issuer::{Client, Endpoint};
use crate::secret::Secret;

/// Where tokens are cached, and who renews them.
#[derive(Debug)]
pub(super) struct Cache {
    client: Client,
    folder: Option<PathBuf>,
    /// `AWS_ENDPOINT_URL_SSO_OIDC`; left out, that of the login's region.
    url: Option<String>,
}

/// A token's file, with whatever else stands in it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cached {
    access_token: Wiped,
    expires_at: String,
    refresh_token: Option<Wiped>,
    client_id: Option<String>,
    client_secret: Option<Wiped>,
    registration_expires_at: Option<String>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    access_token: &'a str,
    expires_at: String,
    refresh_token: &'a str,
    client_id: &'a str,
    client_secret: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    registration_expires_at: Option<&'a str>,
    #[serde(flatten)]
    rest: &'a Map<String, Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CreateToken<'a> {
    client_id: &'a str,
    client_secret: &'a str,
    grant_type: &'a str,
    refresh_token: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Created {
    access_token: Wiped,
    /// In seconds.
    expires_in: i64,
    refresh_token: Option<Wiped>,
}

/// A token that was renewed here.
struct Own {
    /// The file's token in whose place it stands: another one there is newer.
    instead: Zeroizing<String>,
    token: Zeroizing<String>,
    ends: Timestamp,
    refresh: Zeroizing<String>,
}

/// What was renewed by this process, by its file. Held while an issuer is asked: of several credentials that stand on
/// one login, one renews it.
static OWN: Mutex<BTreeMap<PathBuf, Own>> = Mutex::const_new(BTreeMap::new());

impl Cache {
    pub(super) fn of(env: &dyn Fn(&str) -> Option<String>, client: Client) -> Self {
        Self {
            client,
            folder: env("HOME").map(|home| PathBuf::from(home).join(".aws/sso/cache")),
            url: env("AWS_ENDPOINT_URL_SSO_OIDC"),
        }
    }

    /// The token of a login, renewed where it is near its end and can be.
    pub(super) async fn token(&self, sso: &Sso, now: Timestamp) -> Result<Secret, IssueError> {
        let file = self.file(sso).ok_or(IssueError::Refused)?;
        let cached = Cached::read(&file).await?;
        let near = |ends: Timestamp| ends.duration_since(now) < WINDOW;
        if !near(cached.ends()?) {
            return Ok(secret(&cached.access_token.0));
        }
        let mut all = OWN.lock().await;
        // Somebody may have renewed it meanwhile.
        let cached = Cached::read(&file).await?;
        let own = all.remove(&file);
        let own = own.filter(|own| *own.instead == *cached.access_token.0);
        let (token, ends, refresh) = if let Some(own) = &own {
            (&own.token, own.ends, Some(&own.refresh))
        } else {
            let refresh = cached.refresh_token.as_ref().map(|token| &token.0);
            (&cached.access_token.0, cached.ends()?, refresh)
        };
        let token = secret(token);
        let renewed = match refresh.zip(cached.client(now)).filter(|_| near(ends)) {
            Some((refresh, client)) => {
                let created = self.create(sso, client, refresh, now).await;
                created.map(|created| Some((created, refresh.clone())))
            }
            None => Ok(None),
        };
        match renewed {
            Ok(Some((created, used))) => {
                let own = Own {
                    instead: cached.access_token.0.clone(),
                    token: created.access_token.0,
                    ends: now + Duration::from_secs(created.expires_in.unsigned_abs()),
                    refresh: created.refresh_token.map_or(used, |next| next.0),
                };
                let token = secret(&own.token);
                if let Err(error) = cached.write_back(file.clone(), &own).await {
                    warn!(session = sso.filed, %error, "a renewed SSO token is kept in memory only: its file cannot be replaced");
                }
                all.insert(file, own);
                Ok(token)
            }
            // It is good for a while yet.
            outcome if ends > now => {
                if let Err(error) = outcome {
                    warn!(session = sso.filed, %error, "an SSO token was not renewed; it is used until its end");
                }
                all.extend(own.map(|own| (file, own)));
                Ok(token)
            }
            Err(error) => {
                warn!(session = sso.filed, %error, "the cached SSO token is over, and was not renewed: {LOGIN}");
                all.extend(own.map(|own| (file, own)));
                Err(error)
            }
            Ok(None) => {
                warn!(session = sso.filed, "the cached SSO token is over: {LOGIN}");
                Err(IssueError::Refused)
            }
        }
    }

    fn file(&self, sso: &Sso) -> Option<PathBuf> {
        let name = digest(&SHA1_FOR_LEGACY_USE_ONLY, sso.filed.as_bytes());
        let mut file = String::with_capacity(45);
        for byte in name.as_ref() {
            // Writing to a String cannot fail.
            write!(file, "{byte:02x}").ok();
        }
        file.push_str(".json");
        self.folder.as_ref().map(|folder| folder.join(file))
    }

    async fn create(
        &self,
        sso: &Sso,
        (client_id, client_secret): (&str, &str),
        refresh_token: &str,
        now: Timestamp,
    ) -> Result<Created, IssueError> {
        let base = match &self.url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => format!("https://oidc.{}.amazonaws.com", sso.region),
        };
        let to: Endpoint = format!("{base}/token")
            .parse()
            .map_err(|_| IssueError::Refused)?;
        let mut body = Zeroizing::new(Vec::with_capacity(ROOM));
        let asked = CreateToken {
            client_id,
            client_secret,
            grant_type: "refresh_token",
            refresh_token,
        };
        serde_json::to_writer(&mut *body, &asked).map_err(|_| IssueError::Refused)?;
        let mut request = Request::new(Bytes::from_owner(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = to.uri().clone();
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(ACCEPT, json.clone());
        request.headers_mut().insert(CONTENT_TYPE, json);
        let answer = timeout(PATIENCE, self.client.send(request)).await;
        let answer = answer.map_err(|_| IssueError::TimedOut)?.map_err(lost)?;
        judge(&answer, now)?;
        let created: Created = answer.json().map_err(|_| IssueError::Refused)?;
        let usable = (1..=LONGEST).contains(&created.expires_in);
        let usable = usable && !created.access_token.0.is_empty();
        usable.then_some(created).ok_or(IssueError::Refused)
    }
}

impl Cached {
    async fn read(file: &Path) -> Result<Self, IssueError> {
        let Ok(text) = read(file.to_owned()).await else {
            warn!("there is no cached SSO token: {LOGIN}");
            return Err(IssueError::Refused);
        };
        Self::parse(&text).ok_or(IssueError::Refused)
    }

    fn parse(text: &Secret) -> Option<Self> {
        serde_json::from_slice(text.expose()).ok()
    }

    fn ends(&self) -> Result<Timestamp, IssueError> {
        // Older tools wrote `UTC` for `Z`.
        let end = &self.expires_at;
        let end = end
            .strip_suffix("UTC")
            .map_or(end.clone(), |time| format!("{time}Z"));
        end.parse().map_err(|_| IssueError::Refused)
    }

    /// The id and the secret of the client that the login was made with, while its registration lasts.
    fn client(&self, now: Timestamp) -> Option<(&str, &str)> {
        let until = self.registration_expires_at.as_deref();
        let until = until.and_then(|until| until.parse::<Timestamp>().ok());
        if until.is_some_and(|until| until <= now) {
            return None;
        }
        let secret = self.client_secret.as_ref()?;
        Some((self.client_id.as_deref()?, &secret.0))
    }

    /// Puts what was renewed into the file, whole or not at all, where the file is this user's own and still the same.
    async fn write_back(&self, file: PathBuf, own: &Own) -> io::Result<()> {
        let (id, secret) = (self.client_id.as_deref(), self.client_secret.as_ref());
        let written = Written {
            access_token: &own.token,
            // To the second, and `Z`, which every tool reads.
            expires_at: own.ends.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            refresh_token: &own.refresh,
            client_id: id.unwrap_or_default(),
            client_secret: secret.map_or("", |secret| &secret.0),
            registration_expires_at: self.registration_expires_at.as_deref(),
            rest: &self.rest,
        };
        let mut text = Zeroizing::new(Vec::with_capacity(ROOM));
        serde_json::to_writer(&mut *text, &written)?;
        let seen = own.instead.clone();
        let replaced = tokio::task::spawn_blocking(move || replace(&file, &seen, &text)).await;
        replaced.map_err(io::Error::other)?
    }
}

fn replace(file: &Path, seen: &str, text: &[u8]) -> io::Result<()> {
    // Where it is a link, the link stays.
    let file = fs::canonicalize(file)?;
    let owner = fs::symlink_metadata(&file)?.uid();
    if owner != rustix::process::geteuid().as_raw() {
        // The one whose it is could not read what stands there then.
        return Err(io::Error::other("it is another user's"));
    }
    let mut beside = file.clone().into_os_string();
    beside.push(format!(".keyward-{}", std::process::id()));
    let beside = PathBuf::from(beside);
    // What a process of this number left, if it died between the two steps.
    fs::remove_file(&beside).ok();
    let write = || {
        let mut new = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&beside)?;
        new.write_all(text)?;
        new.sync_all()?;
        // A login that came meanwhile is newer than what was renewed of the one before.
        let now = Cached::parse(&Secret::new(fs::read(&file)?));
        if now.is_none_or(|now| *now.access_token.0 != *seen) {
            return Err(io::Error::other("somebody else has replaced it"));
        }
        fs::rename(&beside, &file)
    };
    write().inspect_err(|_| {
        fs::remove_file(&beside).ok();
    })
}

fn secret(text: &str) -> Secret {
    Secret::new(text.as_bytes().to_vec())
}

const LOGIN: &str = "`aws sso login` has to be run where keyward reads ~/.aws/sso/cache";
/// A token that ends sooner is renewed.
const WINDOW: jiff::SignedDuration = jiff::SignedDuration::from_mins(5);
/// How long the issuer may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// No token is believed to live longer, in seconds: a year.
const LONGEST: i64 = 366 * 24 * 3600;
/// Room for a text with secrets: a buffer that grows would leave copies behind.
const ROOM: usize = 64 * 1024;
