//! What keeps a request from the gateway, in words for the process that asked and for the log.

use http::Response;

use crate::proxy::{Body, Refusal};
use crate::tls::{ConnectError, Distrust};

/// Why a request did not get to the gateway, or not through it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// No name, no route, or nobody listens.
    #[error("the gateway cannot be reached")]
    Unreachable,
    /// It took too long.
    #[error("the gateway did not answer in time")]
    TimedOut,
    /// Its certificate does not verify.
    #[error("the gateway's certificate is not trusted: {0}")]
    Untrusted(Distrust),
    /// No TLS connection came about.
    #[error("the TLS handshake with the gateway failed: {0}")]
    Handshake(&'static str),
    /// The connection ended before the answer.
    #[error("the connection to the gateway broke")]
    Broke,
    /// There is nothing to prove oneself with.
    #[error("there is no evidence: {0}")]
    NoEvidence(String),
    /// The person for whom it acts is not signed in.
    #[error("nobody is signed in: {0}")]
    SignedOut(&'static str),
    /// The gateway does not take the evidence.
    #[error("the gateway does not take the evidence: {0}")]
    Refused(String),
    /// The gateway cannot judge the evidence now.
    #[error("the gateway cannot judge the evidence now")]
    Undecided,
}

impl Fault {
    /// What to do about it, for whoever runs the relay.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Unreachable | Self::TimedOut | Self::Broke => {
                "check --gateway, and that a listener of the gateway has a tls: address there"
            }
            Self::Untrusted(Distrust::WrongHost) => {
                "give --gateway the name that stands in the gateway's certificate, and --connect-to where it is"
            }
            Self::Untrusted(_) => {
                "--trust names the PEM file of the root that issued the gateway's certificate"
            }
            Self::Handshake(_) => "the gateway must listen with tls: there",
            Self::NoEvidence(_) => {
                "give --token-file, --cert and --key, or SPIFFE_ENDPOINT_SOCKET; see docs/relay.md"
            }
            Self::SignedOut(_) => "sign in on this machine: keyward login -c FILE --local",
            Self::Refused(_) => {
                "a [trust.NAME] table of the gateway must know the evidence, and [agent.ID] the agent"
            }
            Self::Undecided => "see the gateway's log",
        }
    }

    /// The answer to a process.
    pub(super) fn answer(&self, request_id: &str) -> Response<Body> {
        let (refusal, detail) = match self {
            Self::Unreachable | Self::Broke => (
                Refusal::UpstreamUnreachable,
                "The relay cannot reach its gateway. Try again later.",
            ),
            Self::TimedOut => (
                Refusal::UpstreamTimeout,
                "The relay's gateway did not answer in time. Try again later.",
            ),
            Self::Untrusted(_) => (
                Refusal::UpstreamUntrusted,
                "The certificate of the relay's gateway does not verify, so nothing was sent. Tell the operator.",
            ),
            Self::Handshake(_) => (
                Refusal::UpstreamUnreachable,
                "The relay and its gateway agree on no TLS connection. Tell the operator.",
            ),
            Self::NoEvidence(_) => (
                Refusal::IdentityUnavailable,
                "The relay has nothing to prove itself with to its gateway yet. Try again later, or tell the operator.",
            ),
            Self::SignedOut(_) => (
                Refusal::UserRequired,
                "Nobody is signed in on this machine for whom the relay could act. Sign in with `keyward login -c FILE --local`, and try again.",
            ),
            Self::Refused(_) => (
                Refusal::Denied(""),
                "The gateway does not take the evidence of this relay or process. Tell the operator; a retry will not help.",
            ),
            Self::Undecided => (
                Refusal::IdentityUnavailable,
                "The gateway cannot verify now who this relay is. Try again later.",
            ),
        };
        refusal.telling(detail, request_id)
    }
}

impl From<ConnectError> for Fault {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Untrusted(distrust) => Self::Untrusted(distrust),
            ConnectError::Refused(why) => Self::Handshake(why),
            _ => Self::Broke,
        }
    }
}
