//! `[approval.NAME]`: whom an agent has to ask, and who they are.

use super::fault::Span;
use super::key::{DAY, Kind as K, Need, Section, key, secs};
use super::reader::Reader;
use super::source;
use super::text::{nearest, quoted};
use crate::agent::Name;
use crate::approval::{Approver, Console, Mode, Settings};
use crate::credential::Source;

pub(super) static APPROVAL: Section = Section {
    title: "[approval.NAME]",
    keys: &[
        key(
            "mode",
            K::Choice(&["hold", "ticket"]),
            Need::Default("\"hold\""),
            "What a request does until it is decided: `hold`, it waits; `ticket`, it is refused and comes again with a ticket.",
        ),
        key(
            "expires",
            K::Duration(secs(1), DAY),
            Need::Default("\"2m\""),
            "How long a question can be answered, and a yes be used, from the asking on.",
        ),
        key(
            "max-pending",
            K::Count(1, 1000),
            Need::Default("5"),
            "The most questions of one agent that nobody has decided yet; more are `throttled`.",
        ),
        key(
            "console",
            K::Table(&CONSOLE),
            Need::OneOf,
            "People who decide at the admin side: `/api/v1/approvals` and `keyward approval`.",
        ),
    ],
};

static CONSOLE: Section = Section {
    title: "[approval.NAME.console]",
    keys: &[
        key(
            "approvers",
            K::List(&K::Text("a person's name")),
            Need::Required,
            "Names of `[admin] tokens`, or users of a `[login.NAME]`; with several logins, `LOGIN:USER`. Each is one person.",
        ),
        key(
            "quorum",
            K::Count(1, 100),
            Need::Default("1"),
            "How many of them must approve. One denial denies.",
        ),
        key(
            "webhook",
            K::Table(&WEBHOOK),
            Need::Optional,
            "Told of each question, once in 10 s for each agent.",
        ),
    ],
};

static WEBHOOK: Section = Section {
    title: "a webhook",
    keys: &[
        key(
            "url",
            K::Guarded("a URL"),
            Need::Required,
            "Where messages are posted: `https`, or `http` to loopback.",
        ),
        key(
            "secret",
            K::Source,
            Need::Required,
            "What they are signed with as Standard Webhooks are: base64, with or without `whsec_`.",
        ),
    ],
};

/// `[approval.NAME]`, with the source of its webhook's key.
#[derive(Debug, Clone, PartialEq)]
pub struct Approval {
    /// Who is asked, and how.
    pub settings: Settings,
    /// `webhook`'s `secret`.
    pub secret: Option<Source>,
}

/// Who can be an approver.
#[derive(Debug)]
pub(super) struct People<'a> {
    /// The names of `[admin] tokens`.
    pub(super) operators: Vec<&'a str>,
    /// The names of `[login.NAME]`.
    pub(super) logins: Vec<&'a str>,
}

/// Every table.
pub(super) fn all(reader: &Reader<'_, '_>, people: &People<'_>) -> Vec<Approval> {
    let named = reader.named("approval").into_iter();
    named
        .filter_map(|(name, below)| read(&below, name, people))
        .collect()
}

fn read(reader: &Reader<'_, '_>, name: Name, people: &People<'_>) -> Option<Approval> {
    let below = reader.table("console")?;
    let (url, secret) = match below.table("webhook") {
        None => (None, None),
        Some(hook) => (
            super::trust::endpoint(&hook, "url"),
            source::read(&hook, "secret"),
        ),
    };
    let approvers = approvers(&below, people);
    let quorum = u32::try_from(below.count("quorum")).unwrap_or_default();
    if (quorum as usize) > approvers.len() && !approvers.is_empty() {
        let message = format!(
            "\"quorum\" is {quorum}, and there are {} approvers: nothing could ever be approved",
            approvers.len()
        );
        let help = "name more approvers, or ask for fewer of them";
        let span = below.key_span("quorum");
        below.desk.fault_with(&span, message, help);
    }
    Some(Approval {
        settings: Settings {
            name,
            mode: match reader.choice("mode") {
                Some("ticket") => Mode::Ticket,
                _ => Mode::Hold,
            },
            expires: reader.duration("expires"),
            max_pending: u32::try_from(reader.count("max-pending")).unwrap_or_default(),
            console: Console {
                approvers,
                quorum,
                webhook: url,
            },
        },
        secret,
    })
}

fn approvers(reader: &Reader<'_, '_>, people: &People<'_>) -> Vec<Approver> {
    let mut found: Vec<Approver> = Vec::new();
    for (text, span) in reader.texts("approvers") {
        if text.is_empty() || text.chars().any(char::is_control) {
            let message = "\"approvers\" holds a text that is empty or has a control character";
            reader.desk.fault(&span, message);
            continue;
        }
        let Some(approver) = approver(reader, (text, &span), people) else {
            continue;
        };
        if found.iter().any(|known| known.name == approver.name) {
            let message = format!("{} stands twice: it is one person", quoted(text));
            reader.desk.fault(&span, message);
            continue;
        }
        found.push(approver);
    }
    found
}

fn approver(
    reader: &Reader<'_, '_>,
    (text, span): (&str, &Span),
    people: &People<'_>,
) -> Option<Approver> {
    let of_login = text.split_once(':').and_then(|(login, user)| {
        let known = people.logins.contains(&login) && !user.is_empty();
        Some((login.parse().ok().filter(|_| known)?, user.into()))
    });
    let plain = of_login.is_none();
    let mut of_only = None;
    if plain && !people.operators.contains(&text) {
        match &*people.logins {
            // Without a login nobody but operators can sign in.
            [] => {
                let message = format!("nobody is called {}", quoted(text));
                let help = match nearest(text, people.operators.iter().copied()) {
                    Some(near) => format!("did you mean \"{near}\"?"),
                    None => "an approver is a name of [admin] tokens, or the user of a [login.NAME], and the file has no login".into(),
                };
                reader.desk.fault_with(span, message, help);
                return None;
            }
            [only] => of_only = only.parse().ok().map(|login| (login, text.into())),
            [first, ..] => {
                let message = format!(
                    "{} may be a user of several logins, who are several people",
                    quoted(text)
                );
                let help = format!("name the login as well, such as \"{first}:{text}\"");
                reader.desk.fault_with(span, message, help);
                return None;
            }
        }
    }
    Some(Approver {
        name: text.into(),
        login: of_login.or(of_only),
    })
}

/// The `[approval.NAME]` that a key names.
pub(super) fn named(reader: &Reader<'_, '_>, known: &[&str]) -> Option<Name> {
    let (text, span) = reader.text("approval")?;
    if known.contains(&text) {
        return text.parse().ok(); // a bad NAME was told where it is defined
    }
    let message = format!("no approval is called {}", quoted(text));
    let help = match nearest(text, known.iter().copied()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None if known.is_empty() => "the file has no [approval.NAME]".into(),
        None => format!("the file has: {}", known.join(", ")),
    };
    reader.desk.fault_with(&span, message, help);
    None
}
