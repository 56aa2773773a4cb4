//! Requests that keyward answers itself: token endpoints that agents' libraries call with a placeholder.

use bytes::Bytes;

/// `answer = "token"`: a placeholder in the shape of RFC 6749 §5.1, made at load time. No issuer is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenAnswer(Bytes);

impl TokenAnswer {
    /// An answer with this placeholder, good for an hour.
    pub fn new(placeholder: &str) -> Self {
        let body = serde_json::json!({
            "access_token": placeholder,
            "token_type": "Bearer",
            "expires_in": 3600,
        });
        Self(body.to_string().into())
    }

    /// The JSON.
    pub fn body(&self) -> Bytes {
        self.0.clone()
    }
}

/// What stands for a token where no preset has a placeholder of its own.
pub const PLACEHOLDER: &str = "keyward-placeholder";
