//! An injection: placements joined with one lease's material, ready to be put into any number of heads.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::header::{AUTHORIZATION, COOKIE, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method};
use zeroize::Zeroizing;

use super::{DpopKey, Material, NoProof, Placement, Proof, Signer, Slot};
use crate::head::{self, Head};
use crate::secret::Secret;

/// Placements with the secret in them. Header values are made once and marked sensitive, so that no log prints them
/// and HPACK never indexes them (RFC 7541 §7.1.3).
#[derive(Debug)]
pub struct Injection {
    steps: Box<[Step]>,
    body: Option<BodyEdit>,
    signer: Option<Signer>,
    bound: Option<Bound>,
}

/// The key that an injected token is bound to: each request needs a proof of it beside the token (RFC 9449 §7.1).
#[derive(Debug)]
pub struct Bound {
    key: Arc<DpopKey>,
    token_hash: String,
}

#[derive(Debug)]
enum Step {
    Header(HeaderName, HeaderValue),
    Query {
        name: Box<str>,
        pair: Secret,
    },
    Cookie {
        name: Box<str>,
        pair: Secret,
    },
    SubstituteHeader {
        name: HeaderName,
        placeholder: Box<str>,
        secret: Secret,
    },
    SubstituteQuery {
        name: Box<str>,
        placeholder: Box<str>,
        encoded: Secret,
    },
    SubstitutePath {
        placeholder: Box<str>,
        encoded: Secret,
    },
}

/// The edit of a body that a placement asks for: the body must be read whole first.
#[derive(Debug)]
pub struct BodyEdit {
    placeholder: Box<str>,
    field: Field,
    secret: Secret,
}

#[derive(Debug)]
enum Field {
    Json(Box<[Box<str>]>),
    Form(Box<str>),
}

/// The lease's material does not fit the placement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unfit {
    /// The secret holds a byte that no header value or cookie may hold (CR, LF, NUL, non-ASCII …).
    #[error("the secret holds a character that cannot stand in this place")]
    Characters,
    /// `inject = { basic = "" }` needs a lease that brings a user name.
    #[error("basic without a user needs a credential that brings one")]
    NoUser,
    /// A signature needs AWS keys, and AWS keys do nothing else than sign.
    #[error("`sigv4` and the credential kind `aws` need each other")]
    Signature,
    /// A DPoP-bound token stands in `Authorization: DPoP` and nowhere else.
    #[error("a token that is bound by DPoP goes with inject = \"bearer\" only")]
    Bound,
    /// A certificate goes into the TLS handshake, and nothing else does.
    #[error("a certificate goes with inject = \"client-certificate\", and nothing else does")]
    Certificate,
}

/// The agent's request does not have the placeholder where, and only where, it belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Misplaced {
    /// It stands nowhere in the declared slot.
    #[error("the placeholder does not stand in its declared slot")]
    Missing,
    /// It stands more than once, or outside of its slot.
    #[error("the placeholder stands outside of its declared slot, or more than once in it")]
    Elsewhere,
    /// The body is not of the declared type, or the field is not a string.
    #[error("the body does not have the declared field")]
    Body,
}

/// The headers in which clients say keys.
const OF_KEYS: [HeaderName; 4] = [
    AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-goog-api-key"),
];

impl Injection {
    /// Joins placements and material.
    ///
    /// # Errors
    /// [`Unfit`] where the material cannot stand in a place.
    pub fn compile(placements: &[Placement], material: &Material) -> Result<Self, Unfit> {
        let mut steps = Vec::with_capacity(placements.len());
        let mut body = None;
        let mut signer = None;
        let mut bound = None;
        for placement in placements {
            if let (Material::Aws(keys), Placement::SigV4(scope)) = (material, placement) {
                signer = Some(Signer::new(keys.clone(), scope.clone()));
                continue;
            }
            let (user, secret) = match (material, placement) {
                // It is presented where the connection is made.
                (Material::Certificate(_), Placement::ClientCertificate) => continue,
                (Material::Certificate(_), _) | (_, Placement::ClientCertificate) => {
                    return Err(Unfit::Certificate);
                }
                (Material::Aws(_), _) => return Err(Unfit::Signature),
                (Material::Dpop { token, key }, Placement::Bearer) => {
                    let value = value(&[b"DPoP ", token.expose()])?;
                    steps.push(Step::Header(AUTHORIZATION, value));
                    bound = Some(Bound {
                        key: Arc::clone(key),
                        token_hash: DpopKey::hash(token.expose()),
                    });
                    continue;
                }
                (Material::Dpop { .. }, _) => return Err(Unfit::Bound),
                (Material::Token(token), _) => (None, &**token),
                (Material::UserPass { user, password }, _) => (Some(&**user), &**password),
            };
            match step(placement, user, secret)? {
                Made::Step(step) => steps.push(step),
                Made::Body(edit) => body = Some(edit),
            }
        }
        Ok(Self {
            steps: steps.into(),
            body,
            signer,
            bound,
        })
    }

    /// Puts the credential into a clean head. What the agent sent in a placed slot is replaced.
    ///
    /// # Errors
    /// [`Misplaced`] where a placeholder is not exactly where it belongs; the head must not be sent then.
    pub fn apply(&self, head: &mut Head) -> Result<(), Misplaced> {
        for step in &self.steps {
            step.forbid_elsewhere(head)?;
        }
        if let Some(edit) = &self.body {
            absent(&edit.placeholder, head, None)?;
        }
        self.steps.iter().try_for_each(|step| step.apply(head))
    }

    /// Takes away a header of a key that holds one of these placeholders, where the credential goes elsewhere: a client
    /// may say its key twice (Anthropic's libraries do), and the upstream would judge the placeholder, or refuse to
    /// choose.
    pub fn drop_spare(&self, placeholders: &[Box<str>], head: &mut Head) {
        if placeholders.is_empty() {
            return;
        }
        for name in &OF_KEYS {
            let placed = self.steps.iter().any(|step| {
                matches!(step, Step::Header(own, _) | Step::SubstituteHeader { name: own, .. } if own == name)
            });
            let spare = |value: &HeaderValue| {
                (placeholders.iter()).any(|text| value.as_bytes().ends_with(text.as_bytes()))
            };
            if !placed && head.headers().get_all(name).iter().any(spare) {
                head.headers_mut().remove(name);
            }
        }
    }

    /// What signs the request, where a placement asks for that.
    pub fn signer(&self) -> Option<&Signer> {
        self.signer.as_ref()
    }

    /// The key that the token is bound to, where it is.
    pub fn bound(&self) -> Option<&Bound> {
        self.bound.as_ref()
    }

    /// The edit of the body, where a placement asks for one.
    pub fn body(&self) -> Option<&BodyEdit> {
        self.body.as_ref()
    }
}

impl Bound {
    /// Puts a proof for this request into its head, in place of any that the agent sent. `url` has no query; `issued_at`
    /// is in seconds since 1970; `id` was never used before.
    ///
    /// # Errors
    /// [`NoProof`] if the machine gives no random bytes.
    pub fn prove(
        &self,
        headers: &mut HeaderMap,
        (method, url): (&Method, &str),
        (issued_at, id): (i64, [u8; 16]),
    ) -> Result<(), NoProof> {
        let nonce = self.key.nonce();
        let proof = self.key.prove(&Proof {
            method: method.as_str(),
            url,
            issued_at,
            id,
            nonce: nonce.as_ref().and_then(|nonce| nonce.to_str().ok()),
            token_hash: Some(&self.token_hash),
        })?;
        headers.insert(PROOF, proof);
        Ok(())
    }

    /// Takes up the nonce that an answer brings; whether it is another one than before.
    pub fn remember(&self, answer: &HeaderMap) -> bool {
        let nonce = answer.get(NONCE);
        nonce.is_some_and(|nonce| self.key.remember(nonce))
    }
}

/// `DPoP` (RFC 9449 §4).
const PROOF: HeaderName = HeaderName::from_static("dpop");
/// `DPoP-Nonce` (RFC 9449 §8.1).
const NONCE: HeaderName = HeaderName::from_static("dpop-nonce");

enum Made {
    Step(Step),
    Body(BodyEdit),
}

fn step(placement: &Placement, user: Option<&str>, secret: &Secret) -> Result<Made, Unfit> {
    let bytes = secret.expose();
    Ok(Made::Step(match placement {
        Placement::Bearer => Step::Header(AUTHORIZATION, value(&[b"Bearer ", bytes])?),
        Placement::Basic { user: named } => {
            let user = if named.is_empty() {
                user.ok_or(Unfit::NoUser)?
            } else {
                named
            };
            let pair = Zeroizing::new([user.as_bytes(), b":", bytes].concat());
            let encoded = Zeroizing::new(BASE64.encode(&*pair));
            Step::Header(AUTHORIZATION, value(&[b"Basic ", encoded.as_bytes()])?)
        }
        Placement::Header { name, format } => Step::Header(
            name.clone(),
            value(&[format.before.as_bytes(), bytes, format.after.as_bytes()])?,
        ),
        Placement::Query { name } => {
            let pair =
                Secret::new([percent(name.as_bytes()).as_slice(), b"=", &percent(bytes)].concat());
            Step::Query {
                name: name.clone(),
                pair,
            }
        }
        Placement::Cookie { name } => {
            // RFC 6265 §4.1.1 cookie-octet: no controls, space, quote, comma, semicolon, backslash.
            let octet =
                |b: &u8| matches!(b, 0x21 | 0x23..=0x2b | 0x2d..=0x3a | 0x3c..=0x5b | 0x5d..=0x7e);
            if !bytes.iter().all(octet) {
                return Err(Unfit::Characters);
            }
            Step::Cookie {
                name: name.clone(),
                pair: Secret::new([name.as_bytes(), b"=", bytes].concat()),
            }
        }
        Placement::ClientCertificate => return Err(Unfit::Certificate),
        Placement::Substitute { placeholder, slot } => return substitute(placeholder, slot, bytes),
        Placement::SigV4(_) => return Err(Unfit::Signature),
    }))
}

fn substitute(placeholder: &str, slot: &Slot, bytes: &[u8]) -> Result<Made, Unfit> {
    let placeholder = Box::from(placeholder);
    let field = match slot {
        Slot::Header(name) => {
            value(&[bytes])?;
            let secret = Secret::new(bytes.to_vec());
            return Ok(Made::Step(Step::SubstituteHeader {
                name: name.clone(),
                placeholder,
                secret,
            }));
        }
        Slot::Query(name) => {
            let encoded = Secret::new(percent(bytes));
            return Ok(Made::Step(Step::SubstituteQuery {
                name: name.clone(),
                placeholder,
                encoded,
            }));
        }
        Slot::Path => {
            return Ok(Made::Step(Step::SubstitutePath {
                placeholder,
                encoded: Secret::new(percent(bytes)),
            }));
        }
        Slot::Json(path) => Field::Json(path.split('.').map(Into::into).collect()),
        Slot::Form(name) => Field::Form(name.clone()),
    };
    if std::str::from_utf8(bytes).is_err() {
        return Err(Unfit::Characters);
    }
    Ok(Made::Body(BodyEdit {
        placeholder,
        field,
        secret: Secret::new(bytes.to_vec()),
    }))
}

impl Step {
    /// A placeholder outside of its slot could be stored by the upstream and read back as the secret.
    fn forbid_elsewhere(&self, head: &Head) -> Result<(), Misplaced> {
        match self {
            Self::Header(..) | Self::Query { .. } | Self::Cookie { .. } => Ok(()),
            Self::SubstituteHeader {
                name, placeholder, ..
            } => absent(placeholder, head, Some(Within::Header(name))),
            Self::SubstituteQuery {
                name, placeholder, ..
            } => absent(placeholder, head, Some(Within::Query(name))),
            Self::SubstitutePath { placeholder, .. } => {
                absent(placeholder, head, Some(Within::Path))
            }
        }
    }

    fn apply(&self, head: &mut Head) -> Result<(), Misplaced> {
        match self {
            Self::Header(name, value) => {
                let headers = head.headers_mut();
                head::remove_twins(headers, name);
                headers.insert(name.clone(), value.clone());
            }
            Self::Query { name, pair } => set_query(head, name, pair)?,
            Self::Cookie { name, pair } => set_cookie(head, name, pair)?,
            Self::SubstituteHeader {
                name,
                placeholder,
                secret,
            } => {
                let mut values = head.headers().get_all(name).iter();
                let (Some(given), None) = (values.next(), values.next()) else {
                    return Err(Misplaced::Missing);
                };
                let replaced =
                    replace_once(given.as_bytes(), placeholder.as_bytes(), secret.expose())?;
                let value = value(&[&replaced]).map_err(|_| Misplaced::Elsewhere)?;
                let headers = head.headers_mut();
                head::remove_twins(headers, name);
                headers.insert(name.clone(), value);
            }
            Self::SubstituteQuery {
                name,
                placeholder,
                encoded,
            } => substitute_query(head, name, placeholder, encoded)?,
            Self::SubstitutePath {
                placeholder,
                encoded,
            } => {
                let path = replace_once(
                    head.path().as_bytes(),
                    placeholder.as_bytes(),
                    encoded.expose(),
                )?;
                let mut text =
                    String::from_utf8(path.to_vec()).map_err(|_| Misplaced::Elsewhere)?;
                if let Some(query) = head.query() {
                    text.push('?');
                    text.push_str(query);
                }
                rewrite(head, text)?;
            }
        }
        Ok(())
    }
}

impl BodyEdit {
    /// The media type that the body must have.
    pub fn media_type(&self) -> &'static str {
        match self.field {
            Field::Json(_) => "application/json",
            Field::Form(_) => "application/x-www-form-urlencoded",
        }
    }

    /// Replaces the placeholder in the one field; everywhere else in the body it is refused.
    ///
    /// # Errors
    /// [`Misplaced`]; the body must not be sent then.
    pub fn apply(&self, body: &[u8]) -> Result<Vec<u8>, Misplaced> {
        match &self.field {
            Field::Json(path) => self.json(path, body),
            Field::Form(name) => self.form(name, body),
        }
    }

    fn json(&self, path: &[Box<str>], body: &[u8]) -> Result<Vec<u8>, Misplaced> {
        let mut document: serde_json::Value =
            serde_json::from_slice(body).map_err(|_| Misplaced::Body)?;
        if count_json(&document, &self.placeholder) != 1 {
            return Err(Misplaced::Elsewhere);
        }
        let mut place = &mut document;
        for key in path {
            place = place.get_mut(&**key).ok_or(Misplaced::Body)?;
        }
        let serde_json::Value::String(text) = place else {
            return Err(Misplaced::Body);
        };
        let secret = std::str::from_utf8(self.secret.expose()).map_err(|_| Misplaced::Body)?;
        if !text.contains(&*self.placeholder) {
            return Err(Misplaced::Missing);
        }
        *text = text.replacen(&*self.placeholder, secret, 1);
        serde_json::to_vec(&document).map_err(|_| Misplaced::Body)
    }

    fn form(&self, name: &str, body: &[u8]) -> Result<Vec<u8>, Misplaced> {
        let body = std::str::from_utf8(body).map_err(|_| Misplaced::Body)?;
        let mut found = false;
        let mut out: Vec<Vec<u8>> = Vec::new();
        for pair in body.split('&') {
            let (key, given) = pair.split_once('=').unwrap_or((pair, ""));
            let given = form_decode(given);
            let holds = memchr::memmem::find(&given, self.placeholder.as_bytes()).is_some();
            if !holds {
                if memchr::memmem::find(&form_decode(key), self.placeholder.as_bytes()).is_some() {
                    return Err(Misplaced::Elsewhere);
                }
                out.push(pair.as_bytes().to_vec());
                continue;
            }
            if found || form_decode(key) != name.as_bytes() {
                return Err(Misplaced::Elsewhere);
            }
            found = true;
            let replaced = replace_once(&given, self.placeholder.as_bytes(), self.secret.expose())?;
            out.push([key.as_bytes(), b"=", &percent(&replaced)].concat());
        }
        if found {
            Ok(out.join(&b'&'))
        } else {
            Err(Misplaced::Missing)
        }
    }
}

/// How often the placeholder stands in strings and keys of a document.
fn count_json(value: &serde_json::Value, placeholder: &str) -> usize {
    match value {
        serde_json::Value::String(text) => text.matches(placeholder).count(),
        serde_json::Value::Array(items) => {
            items.iter().map(|item| count_json(item, placeholder)).sum()
        }
        serde_json::Value::Object(members) => members
            .iter()
            .map(|(key, member)| key.matches(placeholder).count() + count_json(member, placeholder))
            .sum(),
        serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) => 0,
    }
}

/// The one slot that a placeholder may stand in.
#[derive(Clone, Copy)]
enum Within<'a> {
    Header(&'a HeaderName),
    Query(&'a str),
    Path,
}

/// Refuses a placeholder anywhere in the head but within its slot, written plainly or percent-encoded.
fn absent(placeholder: &str, head: &Head, but: Option<Within<'_>>) -> Result<(), Misplaced> {
    let holds = |bytes: &[u8]| {
        memchr::memmem::find(bytes, placeholder.as_bytes()).is_some()
            || (bytes.contains(&b'%')
                && memchr::memmem::find(&form_decode_bytes(bytes), placeholder.as_bytes())
                    .is_some())
    };
    let allowed_header = match but {
        Some(Within::Header(name)) => Some(name),
        _ => None,
    };
    let in_header = head
        .headers()
        .iter()
        .any(|(name, value)| Some(name) != allowed_header && holds(value.as_bytes()));
    let in_path = !matches!(but, Some(Within::Path)) && holds(head.path().as_bytes());
    let allowed_pair = match but {
        Some(Within::Query(name)) => Some(name),
        _ => None,
    };
    let in_query = head.query().is_some_and(|query| {
        query.split('&').any(|pair| {
            let key = pair.split('=').next().unwrap_or_default();
            let own = allowed_pair.is_some_and(|name| form_decode(key) == name.as_bytes());
            holds(if own { key.as_bytes() } else { pair.as_bytes() })
        })
    });
    if in_header || in_path || in_query {
        Err(Misplaced::Elsewhere)
    } else {
        Ok(())
    }
}

/// A sensitive header value of these pieces.
fn value(pieces: &[&[u8]]) -> Result<HeaderValue, Unfit> {
    let bytes = Zeroizing::new(pieces.concat());
    if !bytes.iter().all(|b| (0x20..0x7f).contains(b)) {
        return Err(Unfit::Characters);
    }
    let mut value = HeaderValue::from_bytes(&bytes).map_err(|_| Unfit::Characters)?;
    value.set_sensitive(true);
    Ok(value)
}

/// Replaces the one occurrence.
fn replace_once(
    text: &[u8],
    placeholder: &[u8],
    by: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Misplaced> {
    let mut places = memchr::memmem::find_iter(text, placeholder);
    let place = places.next().ok_or(Misplaced::Missing)?;
    if places.next().is_some() {
        return Err(Misplaced::Elsewhere);
    }
    let (before, after) = text.split_at(place);
    let after = after.get(placeholder.len()..).unwrap_or_default();
    Ok(Zeroizing::new([before, by, after].concat()))
}

/// Removes every parameter of this name, then appends ours.
fn set_query(head: &mut Head, name: &str, pair: &Secret) -> Result<(), Misplaced> {
    let kept = head.query().unwrap_or_default();
    let mut text = format!("{}?", head.path());
    for given in kept.split('&').filter(|given| !given.is_empty()) {
        // Some servers split at `;` too: a parameter hidden behind one would be a second value.
        let names_it = given
            .split(';')
            .any(|part| form_decode(part.split('=').next().unwrap_or_default()) == name.as_bytes());
        if !names_it {
            text.push_str(given);
            text.push('&');
        }
    }
    text.push_str(&String::from_utf8_lossy(pair.expose()));
    rewrite(head, text)
}

/// Removes every cookie of this name, then appends ours.
fn set_cookie(head: &mut Head, name: &str, pair: &Secret) -> Result<(), Misplaced> {
    let mut kept: Vec<Vec<u8>> = Vec::new();
    for field in head.headers().get_all(COOKIE) {
        for cookie in field
            .as_bytes()
            .split(|b| *b == b';')
            .map(<[u8]>::trim_ascii)
        {
            let key = cookie
                .split(|b| *b == b'=')
                .next()
                .unwrap_or_default()
                .trim_ascii();
            if !cookie.is_empty() && key != name.as_bytes() {
                kept.push(cookie.to_vec());
            }
        }
    }
    kept.push(pair.expose().to_vec());
    let value = value(&[&kept.join(&b"; "[..])]).map_err(|_| Misplaced::Elsewhere)?;
    head.headers_mut().insert(COOKIE, value);
    Ok(())
}

fn substitute_query(
    head: &mut Head,
    name: &str,
    placeholder: &str,
    encoded: &Secret,
) -> Result<(), Misplaced> {
    let query = head.query().ok_or(Misplaced::Missing)?;
    let mut found = false;
    let mut pairs: Vec<String> = Vec::new();
    for pair in query.split('&') {
        let (key, given) = pair.split_once('=').unwrap_or((pair, ""));
        if form_decode(key) != name.as_bytes() {
            pairs.push(pair.to_owned());
            continue;
        }
        if found {
            return Err(Misplaced::Elsewhere);
        }
        found = true;
        let replaced = replace_once(given.as_bytes(), placeholder.as_bytes(), encoded.expose())?;
        pairs.push(format!("{key}={}", String::from_utf8_lossy(&replaced)));
    }
    if !found {
        return Err(Misplaced::Missing);
    }
    let text = format!("{}?{}", head.path(), pairs.join("&"));
    rewrite(head, text)
}

/// Puts the new path and query in place.
fn rewrite(head: &mut Head, text: String) -> Result<(), Misplaced> {
    let text = PathAndQuery::from_maybe_shared(text).map_err(|_| Misplaced::Elsewhere)?;
    head.set_path_and_query(text);
    Ok(())
}

/// Percent-encodes all but unreserved characters (RFC 3986 §2.3).
fn percent(bytes: &[u8]) -> Vec<u8> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = Vec::with_capacity(bytes.len() * 3);
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(*byte);
        } else {
            out.push(b'%');
            out.extend(
                [byte >> 4, byte & 15]
                    .iter()
                    .filter_map(|nibble| HEX.get(usize::from(*nibble))),
            );
        }
    }
    out
}

/// Decodes `application/x-www-form-urlencoded` text; a malformed escape stands for itself.
fn form_decode(text: &str) -> Vec<u8> {
    form_decode_bytes(text.as_bytes())
}

fn form_decode_bytes(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        let escaped = (*first == b'%')
            .then(|| after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok()))
            .flatten()
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (first, escaped) {
            (_, Some(byte)) => {
                out.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            (b'+', None) => out.push(b' '),
            (byte, None) => out.push(*byte),
        }
    }
    out
}

#[cfg(test)]
mod tests;
