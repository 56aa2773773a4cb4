//! What the console shows: one entry for each list of the API. It asks the API's own parts, as whoever looks at it.

use http::Method;

/// One list.
#[derive(Debug)]
pub(super) struct View {
    /// Its heading.
    pub(super) title: &'static str,
    /// The first segment of its path below `/api/v1`.
    pub(super) path: &'static str,
    /// What narrows it.
    pub(super) query: &'static str,
    /// The member that names an item.
    pub(super) id: &'static str,
    /// The members that are shown, in this order.
    pub(super) columns: &'static [&'static str],
    /// What can be done with an item.
    pub(super) actions: &'static [Action],
}

/// One button.
#[derive(Debug)]
pub(super) struct Action {
    /// What stands on it, and in the form's `action`.
    pub(super) label: &'static str,
    pub(super) method: Method,
    /// The segment after the item's id.
    pub(super) then: Option<&'static str>,
    /// Whether a reason can be given.
    pub(super) reason: bool,
    /// Only items of which this member is one of these have it.
    pub(super) only: Option<(&'static str, &'static [&'static str])>,
}

/// Every list. One that the API does not have, or does not show to whoever asks, is left out.
pub(super) static VIEWS: &[View] = &[
    View {
        title: "Approvals",
        path: "approvals",
        query: "status=pending",
        id: "approval",
        columns: &[
            "name",
            "agent",
            "user",
            "method",
            "url",
            "headers",
            "body-sha256",
            "sub-agent",
            "life",
            "scopes",
            "code",
            "requested",
            "expires",
            "needed",
        ],
        actions: &[
            Action {
                label: "approve",
                method: Method::POST,
                then: Some("approve"),
                reason: true,
                only: None,
            },
            Action {
                label: "deny",
                method: Method::POST,
                then: Some("deny"),
                reason: true,
                only: None,
            },
        ],
    },
    View {
        title: "Sessions",
        path: "sessions",
        query: "",
        id: "session",
        columns: &[
            "session",
            "agent",
            "user",
            "chain",
            "trust",
            "scope",
            "expires",
            "last-used",
        ],
        actions: &[Action {
            label: "end",
            method: Method::DELETE,
            then: None,
            reason: false,
            only: None,
        }],
    },
    View {
        title: "Agents",
        path: "agents",
        query: "",
        id: "agent",
        columns: &[
            "agent",
            "status",
            "reason",
            "purpose",
            "owner",
            "last-used",
            "stale",
        ],
        actions: &[
            Action {
                label: "suspend",
                method: Method::POST,
                then: Some("suspend"),
                reason: true,
                only: Some(("status", &["active", "deprecated"])),
            },
            Action {
                label: "resume",
                method: Method::POST,
                then: Some("resume"),
                reason: true,
                only: Some(("status", &["suspended"])),
            },
        ],
    },
    View {
        title: "Leases",
        path: "leases",
        query: "",
        id: "lease",
        columns: &[
            "lease",
            "credential",
            "agent",
            "user",
            "session",
            "scopes",
            "expires",
            "state",
        ],
        actions: &[Action {
            label: "revoke",
            method: Method::DELETE,
            then: None,
            reason: false,
            only: Some(("state", &["live"])),
        }],
    },
];
