//! What the rooms above refuse, as the refusal that an agent gets.

use super::Refusal;
use crate::credential::IssueError;
use crate::head::Unclean;
use crate::identity::{AttestError, Unregistered};
use crate::inject::{Misplaced, Unsignable};
use crate::policy::{Denial, Unmet};

impl From<Unclean> for Refusal {
    fn from(unclean: Unclean) -> Self {
        match unclean {
            Unclean::OtherHost => Self::HostMismatch,
            Unclean::Method => Self::Method,
            Unclean::TooLarge => Self::HeadTooLarge,
            other => Self::BadRequest(other),
        }
    }
}

impl From<&Denial> for Refusal {
    fn from(denial: &Denial) -> Self {
        match denial {
            Denial::NoRoute => Self::NoRoute,
            Denial::Condition {
                unmet: Unmet::When, ..
            } => Self::Condition("when"),
            Denial::Condition {
                unmet: Unmet::Source,
                ..
            } => Self::Condition("source"),
            Denial::EncodedSlash { .. } => Self::Malformed(
                "The path holds %2F, which this route does not allow. Ask the operator for encoded-slash = true if the service needs it.",
            ),
            Denial::DecodedSlash { .. } => Self::Malformed(
                "The path holds %2F, and with a slash in its place another route would decide. Send it with / if that is meant; otherwise ask the operator, who can name this path in the route's paths.",
            ),
            Denial::EmptySegment { .. } => Self::Malformed(
                "The path holds an empty segment (//) or a parameter (;), and services read such paths in two ways. Send it without; a key of S3 may hold //, where the same route matches both readings.",
            ),
            Denial::Scope { .. } => Self::Denied(
                "The scope of this session does not cover the route. Do not retry; ask for a session of a wider scope, or the operator.",
            ),
            Denial::Minting { .. } => Self::Denied(
                "The answer to this request would be a new credential, which this route does not grant. Do not retry; ask the operator.",
            ),
            Denial::WebSocket { .. } => Self::Condition("websocket"),
        }
    }
}

impl From<Unregistered> for Refusal {
    fn from(reason: Unregistered) -> Self {
        match reason {
            Unregistered::Unknown => Self::Unregistered,
            Unregistered::Suspended => Self::Suspended,
        }
    }
}

impl From<AttestError> for Refusal {
    fn from(reason: AttestError) -> Self {
        match reason {
            AttestError::Bad => Self::Unidentified,
            AttestError::Unavailable => Self::IdentityUnavailable,
        }
    }
}

impl From<IssueError> for Refusal {
    fn from(error: IssueError) -> Self {
        match error {
            IssueError::Refused | IssueError::RefusedFor { .. } => Self::BrokerRefused,
            IssueError::Unavailable { retry_after } => {
                Self::BrokerUnavailable(retry_after.map(|after| after.as_secs().max(1)))
            }
            IssueError::Lost => Self::BrokerUnavailable(None),
            IssueError::Sealed => Self::BrokerSealed,
            IssueError::UserRequired => Self::UserRequired,
            IssueError::TimedOut => Self::BrokerTimeout,
            IssueError::Store => Self::StoreUnavailable,
        }
    }
}

impl From<Misplaced> for Refusal {
    fn from(misplaced: Misplaced) -> Self {
        Self::Malformed(match misplaced {
            Misplaced::Missing => {
                "The placeholder of this service does not stand in its declared place. Put it there, once."
            }
            Misplaced::Elsewhere => {
                "The placeholder of this service stands outside of its declared place, or more than once. Write it there only."
            }
            Misplaced::Body => {
                "The body is not of the declared type, or lacks the field that the placeholder belongs in. Send that type, with that field."
            }
        })
    }
}

impl From<Unsignable> for Refusal {
    fn from(unsignable: Unsignable) -> Self {
        Self::Malformed(match unsignable {
            Unsignable::Scope => {
                "This host's name does not tell which AWS service and region a signature is for. Ask the operator to write them in the route."
            }
            Unsignable::Twice => {
                "The request is signed more than once. Sign it once, in the header or in the query."
            }
            Unsignable::Query => "The query is not percent-encoded UTF-8. Send it so.",
            Unsignable::Header => {
                "A header that AWS signatures cover holds other characters than visible ASCII. Send none there."
            }
            Unsignable::Variant => {
                "The request is signed by SigV4a, for a session of S3 Express, or by an algorithm that is not known. Sign it by AWS4-HMAC-SHA256, for one region and a general purpose bucket."
            }
            Unsignable::Payload => {
                "The body is signed in a way that cannot be signed again. Send its SHA-256, UNSIGNED-PAYLOAD, or chunks signed by AWS4-HMAC-SHA256, with x-amz-decoded-content-length."
            }
        })
    }
}
