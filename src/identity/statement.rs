//! What a relay says of the process behind it, in a field of its requests to a gateway.
//!
//! It is the relay's word and no proof: it counts only on a connection whose TLS client has proved to be a relay that
//! `[trust.NAME.relay]` names.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use super::jwt::verified::sum;
use super::{AttestError, Process};

/// The field.
pub const PROCESS: HeaderName = HeaderName::from_static("keyward-process");

/// The longest that is read, in bytes.
const MOST: usize = 8 * 1024;

/// What was said, and what it was said with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stated {
    /// The process.
    pub process: Process,
    /// The SHA-256 of the field's value as [`Process::state`] writes it: one process is one, however a relay spells it.
    pub digest: [u8; 32],
}

/// The JSON below the base64url.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    uid: u32,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    gid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    executable: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    sha256: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    cgroups: Vec<String>,
}

impl Process {
    /// The field's value. `None`: it would be too long, or is not text.
    pub fn state(&self) -> Option<HeaderValue> {
        let executable = match &self.executable {
            None => None,
            Some(path) => Some(path.to_str()?.to_owned()),
        };
        let written = Written {
            uid: self.uid,
            gid: self.gid,
            executable,
            sha256: self.sha256.map(|sum| BASE64URL.encode(sum)),
            cgroups: self.cgroups.clone(),
        };
        let text = BASE64URL.encode(serde_json::to_vec(&written).ok()?);
        if text.len() > MOST {
            return None;
        }
        HeaderValue::from_str(&text).ok()
    }
}

/// What the head says of a process; `Ok(None)`: nothing.
///
/// # Errors
/// [`AttestError::Bad`] for two fields, or one that is malformed.
pub fn stated(headers: &HeaderMap) -> Result<Option<Stated>, AttestError> {
    let mut fields = headers.get_all(PROCESS).iter();
    let Some(field) = fields.next() else {
        return Ok(None);
    };
    if fields.next().is_some() || field.len() > MOST {
        return Err(AttestError::Bad);
    }
    let read = || {
        let bytes = BASE64URL.decode(field.as_bytes()).ok()?;
        let written: Written = serde_json::from_slice(&bytes).ok()?;
        let sha256 = match &written.sha256 {
            None => None,
            Some(text) => Some(BASE64URL.decode(text).ok()?.try_into().ok()?),
        };
        Some(Process {
            uid: written.uid,
            gid: written.gid,
            executable: written.executable.map(Into::into),
            sha256,
            cgroups: written.cgroups,
        })
    };
    let process = read().ok_or(AttestError::Bad)?;
    let canonical = process.state().ok_or(AttestError::Bad)?;
    Ok(Some(Stated {
        process,
        digest: sum(canonical.as_bytes()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(PROCESS, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn what_is_stated_is_read_again() {
        let whole = Process {
            uid: 1000,
            gid: Some(100),
            executable: Some("/opt/an agent/é".into()),
            sha256: Some([7; 32]),
            cgroups: vec!["/a.slice".into(), "/b: c".into()],
        };
        let bare = Process {
            uid: 0,
            gid: None,
            executable: None,
            sha256: None,
            cgroups: Vec::new(),
        };
        for process in [whole, bare] {
            let value = process.state().unwrap();
            let read = stated(&head(&[value.to_str().unwrap()])).unwrap().unwrap();
            assert_eq!(read.process, process);
        }
    }

    #[test]
    fn one_process_is_one_however_it_is_spelled() {
        let digest = |text: &str| {
            let read = stated(&head(&[&BASE64URL.encode(text)])).unwrap();
            read.unwrap().digest
        };
        let known = digest(r#"{"uid":1,"executable":"/a"}"#);
        for same in [
            r#"{"executable":"/a","uid":1}"#,
            r#"{ "uid": 1, "executable": "\u002fa" }"#,
            r#"{"uid":1,"executable":"/a","cgroups":[]}"#,
            r#"{"uid":1,"executable":"/a","gid":null}"#,
        ] {
            assert_eq!(digest(same), known, "{same}");
        }
        assert_ne!(digest(r#"{"uid":2,"executable":"/a"}"#), known);
    }

    #[test]
    fn what_is_not_one_statement_is_none() {
        assert_eq!(stated(&HeaderMap::new()), Ok(None));
        let json = |text: &str| BASE64URL.encode(text);
        let good = json(r#"{"uid":1}"#);
        assert!(stated(&head(&[&good])).is_ok());
        for bad in [
            head(&[&good, &good]),
            head(&[""]),
            head(&["{\"uid\":1}"]),
            head(&[&json("{}")]),
            head(&[&json(r#"{"uid":1,"uid":2}"#)]),
            head(&[&json(r#"{"uid":1,"root":true}"#)]),
            head(&[&json(r#"{"uid":-1}"#)]),
            head(&[&json(r#"{"uid":1,"sha256":"AA"}"#)]),
            head(&[&format!("{good}=")]),
            head(&["A".repeat(9000).as_str()]),
        ] {
            assert_eq!(stated(&bad), Err(AttestError::Bad), "{bad:?}");
        }
    }
}
