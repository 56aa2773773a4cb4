//! What an agent reads: what happened, and what it may do instead.

use super::Refusal;
use crate::head::Unclean;

impl Refusal {
    /// What happened, and what the agent may do instead.
    #[expect(
        clippy::too_many_lines,
        reason = "one arm for each word, as its reader looks for it"
    )]
    pub fn detail(self) -> &'static str {
        match self {
            Self::BadRequest(Unclean::Path) => {
                "The path is not in canonical form. Send it without dot segments, backslashes or doubly encoded characters."
            }
            Self::BadRequest(Unclean::Framing) => {
                "The framing of the body can be read two ways. Send one Content-Length, or Transfer-Encoding: chunked alone."
            }
            Self::BadRequest(Unclean::Upgrade) => {
                "Only a well-formed WebSocket upgrade (RFC 6455, version 13) is forwarded."
            }
            Self::BadRequest(_) => {
                "The request head is malformed or ambiguous. Send it as RFC 9110 and RFC 9112 define it."
            }
            Self::Malformed(what) | Self::Denied(what) => what,
            Self::Method => {
                "This method is never forwarded. Use GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS."
            }
            Self::TooLarge => {
                "The body is longer than the 1 MiB that the policy reads of it. Send a smaller one."
            }
            Self::HostMismatch => {
                "The request names another host than this connection was opened for. Open a new connection for each host."
            }
            Self::HeadTooLarge => {
                "The request head exceeds 64 KiB, one value exceeds 16 KiB, or there are more than 100 fields. Send fewer or shorter ones."
            }
            Self::Suspended => {
                "This agent is suspended. Stop, and tell the operator; a retry will not help."
            }
            Self::Unregistered => {
                "This agent is not in the registry. Tell the operator; a retry will not help."
            }
            Self::NoRoute => {
                "No route allows this request: host, method and path are judged together. Do not retry; ask the operator for a route if the task needs it."
            }
            Self::UserRequired => {
                "The credential for this request is a person's, and this session acts for no one. Open a session for a user, or ask the operator."
            }
            Self::Condition("when") => {
                "The route is open at other hours. Try again within them, or ask the operator."
            }
            Self::Condition("websocket") => {
                "This route forwards no WebSockets. Use the service's plain HTTP API, or ask the operator."
            }
            Self::Condition(_) => {
                "A condition of the route is not met from here. Ask the operator; a retry will not help."
            }
            Self::ApprovalRequired(_)
            | Self::ApprovalDenied
            | Self::ApprovalExpired
            | Self::ApprovalMismatch
            | Self::ApprovalUnavailable
            | Self::Throttled => self.of_approval(),
            Self::PrivateAddress => {
                "The host resolves to an address that agents may not reach. A retry will not help. Ask the operator if the task needs this host."
            }
            Self::Cleartext => {
                "This host has a credential, which is never sent over http. Use https."
            }
            Self::Unidentified => {
                "Send a proxy token: http://ANY:TOKEN@host:port as proxy URL, or Proxy-Authorization: Bearer TOKEN. Where HTTPS_PROXY holds such a URL, use it whole."
            }
            Self::SessionEnded => {
                "The session of this proxy token has ended; a retry with it will not help. Ask /token of this proxy for another, or tell whoever started you."
            }
            Self::WrongPeer => {
                "This session is bound to another process, certificate or address; a retry from here will not help. Ask /token of this proxy for a session of your own."
            }
            Self::TooManyConnections => {
                "This agent has too many open connections. Close or reuse some, then try again."
            }
            Self::UpstreamUnreachable => {
                "The upstream could not be reached. Check host and port, then try again in a minute."
            }
            Self::UpstreamUntrusted => {
                "The upstream's certificate does not verify, so nothing was sent. Tell the operator."
            }
            Self::BadUpstream => {
                "The upstream's answer is malformed and was not passed on. Try once more; if it stays so, the service is at fault, not the request."
            }
            Self::LeakBlocked => {
                "The upstream's answer held the credential where it could not be masked; it was not passed on. Do not retry; use another endpoint, or tell the operator."
            }
            Self::Undecodable => {
                "The upstream's answer is in a content coding that cannot be inspected. Ask for gzip, deflate, br, zstd or identity."
            }
            Self::BrokerRefused => {
                "The issuer refused the credential for this request. Tell the operator; a retry will not help before."
            }
            Self::BrokerUnavailable(_) => {
                "The credential for this request cannot be had now. Try again later."
            }
            Self::BrokerSealed => {
                "The vault that holds the credential is sealed. Tell the operator; a retry will not help before."
            }
            Self::IdentityUnavailable => {
                "It cannot be verified now who this agent is. Try again later."
            }
            Self::AuditUnavailable => {
                "The audit record cannot be written, so nothing was sent. Tell the operator; a retry will not help before."
            }
            Self::StoreUnavailable => {
                "What this request needs cannot be written to keyward's store, so nothing was sent. Try again later, or tell the operator."
            }
            Self::CaUnavailable => {
                "No certificate can be issued for this host now. Tell the operator."
            }
            Self::Draining => "keyward is stopping. Connect again in a few seconds.",
            Self::UpstreamTimeout => "The upstream did not answer in time. Try again later.",
            Self::BrokerTimeout => {
                "The issuer of the credential did not answer in time. Try again later."
            }
        }
    }
}
