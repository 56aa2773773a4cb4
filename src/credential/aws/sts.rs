//! The Security Token Service: `AssumeRole` and `AssumeRoleWithWebIdentity`, of the Query API of 2011-06-15.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use form_urlencoded::Serializer;
use http::header::{ACCEPT, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, Uri};
use jiff::Timestamp;
use serde::Deserialize;
use tracing::warn;
use zeroize::Zeroizing;

use super::super::{Holder, IssueError, Issued};
use super::held::key_id;
use super::{AwsSpec, life};
use crate::head::Head;
use crate::inject::{Keys, Material, Signer, SigningScope};
use crate::issuer::{Answer, Client, Endpoint};
use crate::secret::Secret;

/// STS takes a session policy of so many characters.
const LONGEST_POLICY: usize = 2048;
/// And a session name of so many.
const LONGEST_NAME: usize = 64;
/// And the value of a tag of so many.
const LONGEST_TAG: usize = 256;

/// One STS.
#[derive(Debug)]
pub(super) struct Sts {
    client: Client,
    endpoint: Endpoint,
    scope: SigningScope,
    duration: Duration,
}

/// What is asked for beside the role.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) session: String,
    pub(super) tags: Vec<(Box<str>, String)>,
    pub(super) policy: Option<String>,
    /// What the role's owner wants to hear.
    pub(super) external_id: Option<String>,
    /// Another time than the credential's own.
    pub(super) duration: Option<Duration>,
}

impl Asked {
    pub(super) fn bare(session: String) -> Self {
        Self {
            session,
            tags: Vec::new(),
            policy: None,
            external_id: None,
            duration: None,
        }
    }
}

impl Sts {
    pub(super) fn new(client: Client, spec: &AwsSpec) -> Self {
        let service = Some("sts".into());
        let by_host = SigningScope {
            service: service.clone(),
            region: None,
        };
        let host = spec.sts.target().host.to_string();
        let region = by_host
            .settle(&host)
            .map_or(&*spec.region, |(_, region)| region);
        Self {
            client,
            scope: SigningScope {
                service,
                region: Some(region.into()),
            },
            endpoint: spec.sts.clone(),
            duration: spec.duration,
        }
    }

    /// `AssumeRole`, signed with these keys.
    pub(super) async fn assume(
        &self,
        keys: &Keys,
        role: &str,
        asked: &Asked,
        now: Timestamp,
    ) -> Result<Issued, IssueError> {
        let body = self.form("AssumeRole", role, asked, None);
        // Servers that take the form apart and put it together again to see its digest (moto) write the star of a
        // policy, which the URL standard leaves alone, as RFC 3986 has it.
        let body = body
            .iter()
            .fold(Vec::with_capacity(body.len()), |mut out, byte| {
                match byte {
                    b'*' => out.extend_from_slice(b"%2A"),
                    other => out.push(*other),
                }
                out
            });
        let mut head = self.head()?;
        let host = self.endpoint.target().host.to_string();
        let signer = Signer::new(keys.clone(), self.scope.clone());
        let unsigned = signer.prepare(&mut head, &host, false);
        let unsigned = unsigned.map_err(|_| IssueError::Refused)?;
        let signed = unsigned.sign(&mut head, &self.authority(), Some(&body), now);
        signed.map_err(|_| IssueError::Refused)?;
        self.send(head, &body, (self.asked(asked), now)).await
    }

    /// `AssumeRoleWithWebIdentity`: the token is the proof, and nothing is signed.
    pub(super) async fn web_identity(
        &self,
        token: &Secret,
        role: &str,
        asked: &Asked,
        now: Timestamp,
    ) -> Result<Issued, IssueError> {
        let body = self.form("AssumeRoleWithWebIdentity", role, asked, Some(token));
        self.send(self.head()?, &body, (self.asked(asked), now))
            .await
    }

    fn form(
        &self,
        action: &str,
        role: &str,
        asked: &Asked,
        token: Option<&Secret>,
    ) -> Zeroizing<Vec<u8>> {
        // Room for all of it, so that no copy of a token is left behind where it grows.
        let mut form = Serializer::new(String::with_capacity(16 * 1024));
        form.append_pair("Action", action)
            .append_pair("Version", "2011-06-15")
            .append_pair("RoleArn", role)
            .append_pair("RoleSessionName", &asked.session)
            .append_pair("DurationSeconds", &self.asked(asked).as_secs().to_string());
        if let Some(id) = &asked.external_id {
            form.append_pair("ExternalId", id);
        }
        if let Some(policy) = &asked.policy {
            form.append_pair("Policy", policy);
        }
        for (place, (key, value)) in asked.tags.iter().enumerate() {
            let place = place + 1;
            form.append_pair(&format!("Tags.member.{place}.Key"), key)
                .append_pair(&format!("Tags.member.{place}.Value"), value);
        }
        if let Some(token) = token {
            let token = String::from_utf8_lossy(token.expose());
            form.append_pair("WebIdentityToken", token.trim());
        }
        Zeroizing::new(form.finish().into_bytes())
    }

    fn asked(&self, asked: &Asked) -> Duration {
        asked.duration.unwrap_or(self.duration)
    }

    fn authority(&self) -> String {
        self.endpoint.target().authority()
    }

    fn head(&self) -> Result<Head, IssueError> {
        let path = self.endpoint.uri().path_and_query().cloned();
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = path.map(Uri::from).ok_or(IssueError::Refused)?;
        let headers = request.headers_mut();
        let host = HeaderValue::from_str(&self.authority()).map_err(|_| IssueError::Refused)?;
        headers.insert(HOST, host);
        headers.insert(ACCEPT, HeaderValue::from_static("text/xml"));
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-www-form-urlencoded"),
        );
        let clean = Head::clean(request.into_parts().0, self.endpoint.target());
        clean.map_err(|_| IssueError::Refused)
    }

    async fn send(
        &self,
        head: Head,
        body: &[u8],
        (most, now): (Duration, Timestamp),
    ) -> Result<Issued, IssueError> {
        let (method, _, mut headers) = head.into_parts();
        // The endpoint's URL says where; the host of the head is that of the signature.
        headers.remove(HOST);
        let mut request = Request::new(Bytes::copy_from_slice(body));
        *request.method_mut() = method;
        *request.uri_mut() = self.endpoint.uri().clone();
        *request.headers_mut() = headers;
        let answer = self.client.send(request).await;
        let answer = answer.map_err(|_| IssueError::Unavailable { retry_after: None })?;
        read(&answer, most, now)
    }
}

fn read(answer: &Answer, most: Duration, now: Timestamp) -> Result<Issued, IssueError> {
    let text = std::str::from_utf8(&answer.body).unwrap_or_default();
    if !answer.status.is_success() {
        return Err(fault(answer, text, now));
    }
    let given: Response = quick_xml::de::from_str(text).map_err(|_| IssueError::Refused)?;
    let Credentials {
        id,
        secret,
        token,
        expiration,
    } = given.result.credentials;
    let (secret, token) = (Secret::from(secret), Secret::from(token));
    let sendable = |secret: &Secret| {
        let most = 1..=16 * 1024;
        most.contains(&secret.len()) && secret.expose().iter().all(u8::is_ascii_graphic)
    };
    let end: Timestamp = expiration.parse().map_err(|_| IssueError::Refused)?;
    let id = key_id(id.as_bytes()).ok_or(IssueError::Refused)?;
    if !sendable(&secret) || !sendable(&token) {
        return Err(IssueError::Refused);
    }
    Ok(Issued {
        material: Material::Aws(Keys {
            id,
            secret: Arc::new(secret),
            token: Some(Arc::new(token)),
        }),
        life: life(end, now, most),
        handle: None,
        superseded: None,
    })
}

#[derive(Deserialize)]
struct Response {
    #[serde(rename = "AssumeRoleResult", alias = "AssumeRoleWithWebIdentityResult")]
    result: Assumed,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Assumed {
    credentials: Credentials,
}

#[derive(Deserialize)]
struct Credentials {
    #[serde(rename = "AccessKeyId")]
    id: String,
    #[serde(rename = "SecretAccessKey")]
    secret: String,
    #[serde(rename = "SessionToken")]
    token: String,
    #[serde(rename = "Expiration")]
    expiration: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ErrorResponse {
    error: Option<ErrorDetail>,
    errors: Option<Errors>,
}

/// As EC2 and its kin write it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Errors {
    error: ErrorDetail,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ErrorDetail {
    code: String,
}

/// A refusal, unless waiting can help.
fn fault(answer: &Answer, text: &str, now: Timestamp) -> IssueError {
    let response = quick_xml::de::from_str::<ErrorResponse>(text).ok();
    let error = response.and_then(|response| response.error.or(response.errors.map(|e| e.error)));
    let code = error.map(|error| error.code);
    // A code is a word of Amazon's documentation; the message beside it may hold anything.
    let plain =
        |code: &&String| code.len() <= 64 && code.bytes().all(|b| b.is_ascii_alphanumeric());
    let shown = code.as_ref().filter(plain);
    warn!(code = shown.map_or("", String::as_str), "STS gave no keys");
    let later = matches!(
        code.as_deref(),
        Some(
            "Throttling"
                | "ThrottlingException"
                | "RequestLimitExceeded"
                | "ServiceUnavailable"
                | "InternalFailure"
                | "IDPCommunicationError"
        )
    );
    if later || answer.status.is_server_error() || answer.status.as_u16() == 429 {
        let retry_after = answer.retry_after(now);
        return IssueError::Unavailable { retry_after };
    }
    IssueError::Refused
}

/// `keyward-{agent}-{session}`, as CloudTrail shows it: cut to what STS takes, and without what it does not take.
pub(super) fn session_name(holder: &Holder) -> String {
    let mut name = String::from("keyward");
    if let Some(agent) = holder.agent() {
        name.push('-');
        name.push_str(agent.as_str());
    }
    if let Some(session) = holder.session() {
        name.push('-');
        name.push_str(session);
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c);
    let clean = name.chars().map(|c| if fits(c) { c } else { '_' });
    clean.take(LONGEST_NAME).collect()
}

/// A tag's value; `None` where it names somebody who is not there, or holds what STS does not take: to change a
/// character of a name could make it another's.
pub(super) fn tag(template: &str, agent: Option<&str>, user: Option<&str>) -> Option<String> {
    let mut value = template.to_owned();
    for (name, known) in [("{agent}", agent), ("{user}", user)] {
        if template.contains(name) {
            // What stands in a name is not a template: neither `{agent}` nor `{user}` can be a part of the other.
            value = value.replace(name, known.filter(|known| !known.contains('{'))?);
        }
    }
    let fits = |c: char| c.is_alphanumeric() || " _.:/=+-@".contains(c);
    (value.chars().count() <= LONGEST_TAG && value.chars().all(fits)).then_some(value)
}

/// A session policy without what only people need; `None` if it is none.
pub(super) fn compact(text: &str) -> Option<String> {
    let document: serde_json::Value = serde_json::from_str(text).ok()?;
    let text = document.is_object().then(|| document.to_string())?;
    (text.len() <= LONGEST_POLICY).then_some(text)
}
