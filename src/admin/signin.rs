//! `/login` of the API: the steps by which a command line signs a person in. They are open, as a sign-in page is.

use http::{HeaderMap, Method};
use serde::Deserialize;
use serde_json::{Value, json};

use super::operators::Caller;
use super::people::{No, People, Step};
use super::{Fault, Reply};
use crate::login;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Begin {
    login: Option<String>,
    port: Option<u16>,
    #[serde(default)]
    device: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Finish {
    handle: String,
    answer: Option<String>,
}

/// Whether this is one of the steps.
pub(super) fn is_step(method: &Method, below: &str) -> bool {
    *method == Method::POST && matches!(below, "login" | "login/finish")
}

/// The answer to a step. A page in a browser takes none: it has the console.
pub(super) async fn step(people: &People, below: &str, headers: &HeaderMap, body: &[u8]) -> Reply {
    if headers.contains_key(http::header::ORIGIN) || headers.contains_key("sec-fetch-site") {
        return Reply::refused(
            Fault::Forbidden,
            "A page in a browser signs in at the console.",
        );
    }
    match below {
        "login" => match serde_json::from_slice(body) {
            Ok(begin) => begun(people, begin).await,
            Err(_) => malformed(),
        },
        _ => match serde_json::from_slice::<Finish>(body) {
            Ok(finish) => {
                let done = people.finish_command(&finish.handle, finish.answer.as_deref());
                finished(done.await)
            }
            Err(_) => malformed(),
        },
    }
}

async fn begun(people: &People, begin: Begin) -> Reply {
    let login = begin.login.as_deref();
    let done = match (begin.device, begin.port) {
        (true, None) => people.begin_device(login).await.map(|(_, shown)| shown),
        (false, Some(port)) if port > 0 => {
            let begun = people.begin_command(login, port).await;
            begun.map(|(handle, state, url)| {
                json!({
                    "handle": handle,
                    "state": state,
                    "url": url,
                    "user-code": null,
                    "verification-uri": null,
                    "verification-uri-complete": null,
                    "interval": null,
                    "expires": null,
                })
            })
        }
        _ => return malformed(),
    };
    done.map_or_else(|fault| refused(No::Fault(fault)), Reply::ok)
}

fn finished(done: Result<Step, No>) -> Reply {
    match done {
        Ok(Step::Pending(interval)) => Reply::ok(json!({
            "status": "pending",
            "interval": interval.as_secs(),
            "token": null,
            "user": null,
            "provider": null,
            "expires": null,
        })),
        Ok(Step::Done(token, user, expires)) => Reply::ok(json!({
            "status": "done",
            "interval": null,
            "token": token,
            "user": *user.name,
            "provider": user.provider.as_str(),
            "expires": expires.to_string(),
        })),
        Err(no) => refused(no),
    }
}

/// Who the caller is.
pub(super) fn whoami(by: &Caller) -> Value {
    match by {
        Caller::Operator(name) => json!({ "operator": **name, "user": null, "provider": null }),
        Caller::Person(user) => json!({
            "operator": null,
            "user": *user.name,
            "provider": user.provider.as_str(),
        }),
    }
}

pub(super) fn refused(no: No) -> Reply {
    match no {
        No::Fault(login::Fault::Refused(why)) => Reply::refused(Fault::Forbidden, why),
        No::Fault(_) => Reply::refused(
            Fault::Unavailable,
            "The login's provider is out of reach. Try again later.",
        ),
        No::Silent => Reply::refused(Fault::Unavailable, "The store does not answer."),
    }
}

fn malformed() -> Reply {
    Reply::refused(Fault::BadRequest, "The body is not the JSON that is due.")
}
