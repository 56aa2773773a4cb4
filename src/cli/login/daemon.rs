//! A sign-in at a running keyward: it talks to the provider, this command brings the browser's answer, and what comes of
//! it is a pass for the API.

use std::ffi::OsString;
use std::io::Write;
use std::time::Duration;

use http::{Method, StatusCode};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::operator::{Daemon, say_no};
use super::super::{NO, UNAVAILABLE, complain};
use super::kept::Kept;
use super::{LoginArgs, browser, say, show_code, show_url, unkept};
use crate::agent::Name;
use crate::app::Environment;
use crate::login::PATIENCE;

/// The pass of one running keyward, in the file that keeps it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Written {
    version: u8,
    token: String,
    user: String,
    provider: String,
    expires: String,
}

/// Signs in there, and keeps the pass for the other subcommands.
pub(super) async fn sign_in(
    args: &LoginArgs,
    daemon: &Daemon,
    environment: &Environment,
    out: &mut dyn Write,
) -> Result<(), u8> {
    let kept = place(&daemon.url(), environment)?;
    if args.forget {
        return forget(daemon, &kept, (args.json, out)).await;
    }
    let login = args.name.as_ref().map(Name::as_str);
    let done = if args.device {
        by_device(daemon, login).await?
    } else {
        by_browser(daemon, login, !args.no_browser).await?
    };
    let text = |name: &str| done.get(name).and_then(Value::as_str).map(str::to_owned);
    let parts = (
        text("token"),
        text("user"),
        text("provider"),
        text("expires"),
    );
    let (Some(token), Some(user), Some(provider), Some(expires)) = parts else {
        return Err(unexpected());
    };
    let (login, end): (Result<Name, _>, Result<Timestamp, _>) = (provider.parse(), expires.parse());
    let (Ok(login), Ok(end)) = (login, end) else {
        return Err(unexpected());
    };
    let written = Written {
        version: 1,
        token,
        user,
        provider,
        expires,
    };
    let bytes = zeroize::Zeroizing::new(serde_json::to_vec(&written).unwrap_or_default());
    let put = kept.lock().and_then(|_turn| kept.put(&bytes));
    put.map_err(|error| unkept(&kept, &error))?;
    say((&written.user, &login, end), false, (args.json, out));
    Ok(())
}

/// The pass that is kept for the keyward at this URL, if its time is not over.
pub(crate) fn pass(url: &str, environment: &Environment) -> Option<OsString> {
    let kept = Kept::at("admin", &[url], environment)?;
    let written = read(&kept)?;
    let end: Timestamp = written.expires.parse().ok()?;
    (end > Timestamp::now()).then(|| written.token.into())
}

fn read(kept: &Kept) -> Option<Written> {
    let bytes = kept.bytes().ok()??;
    let written: Written = serde_json::from_slice(&bytes).ok()?;
    (written.version == 1).then_some(written)
}

fn place(url: &str, environment: &Environment) -> Result<Kept, u8> {
    Kept::at("admin", &[url], environment).ok_or_else(|| {
        complain(&"neither XDG_STATE_HOME nor HOME is set: there is no place to keep a sign-in");
        UNAVAILABLE
    })
}

async fn by_browser(daemon: &Daemon, login: Option<&str>, open: bool) -> Result<Value, u8> {
    let loopback = browser::Loopback::open().await.map_err(|error| {
        complain(&format_args!("no port for the browser's answer: {error}"));
        UNAVAILABLE
    })?;
    let begin = json!({ "login": login, "port": loopback.port() });
    let begun = step(daemon, "login", &begin).await?;
    let text = |name: &str| begun.get(name).and_then(Value::as_str);
    let (Some(handle), Some(state), Some(url)) = (text("handle"), text("state"), text("url"))
    else {
        return Err(unexpected());
    };
    // It is opened: so it must be what a browser goes to, and no option of its program.
    if url.parse::<crate::issuer::Endpoint>().is_err() {
        return Err(unexpected());
    }
    show_url(login.unwrap_or("the login"), url, open);
    let waited = tokio::time::timeout(PATIENCE, loopback.query(state)).await;
    let answer = waited.map_err(|_| {
        complain(&"nobody signed in within 10 minutes");
        NO
    })?;
    let finish = json!({ "handle": handle, "answer": answer });
    step(daemon, "login/finish", &finish).await
}

async fn by_device(daemon: &Daemon, login: Option<&str>) -> Result<Value, u8> {
    let begun = step(daemon, "login", &json!({ "login": login, "device": true })).await?;
    let text = |name: &str| begun.get(name).and_then(Value::as_str);
    let (Some(handle), Some(code), Some(uri)) =
        (text("handle"), text("user-code"), text("verification-uri"))
    else {
        return Err(unexpected());
    };
    show_code((uri, code, text("verification-uri-complete")));
    let pause = |answer: &Value| {
        let seconds = answer.get("interval").and_then(Value::as_u64);
        Duration::from_secs(seconds.unwrap_or(5).clamp(1, 60))
    };
    let mut interval = pause(&begun);
    loop {
        tokio::time::sleep(interval).await;
        let answer = step(daemon, "login/finish", &json!({ "handle": handle })).await?;
        match answer.get("status").and_then(Value::as_str) {
            Some("pending") => interval = pause(&answer),
            _ => return Ok(answer),
        }
    }
}

async fn step(daemon: &Daemon, path: &str, body: &Value) -> Result<Value, u8> {
    let (status, answer) = daemon.call((Method::POST, path), None, Some(body)).await?;
    if status == StatusCode::OK {
        return Ok(answer);
    }
    Err(say_no(status, &answer))
}

async fn forget(
    daemon: &Daemon,
    kept: &Kept,
    (json, out): (bool, &mut dyn Write),
) -> Result<(), u8> {
    let written = read(kept);
    let was_there = kept.remove().map_err(|error| unkept(kept, &error))?;
    if !was_there {
        complain(&format_args!("nobody is signed in at {}", daemon.url()));
        return Err(NO);
    }
    let mut ended = false;
    if let Some(written) = written {
        let token = OsString::from(written.token);
        let called = daemon.call((Method::DELETE, "login"), Some(&token), None);
        // One that is over is 401: it opens nothing as it is.
        ended = called.await.is_ok_and(|(status, _)| status.is_success());
    }
    let text = if json {
        json!({ "ended": ended }).to_string()
    } else {
        "forgotten".to_owned()
    };
    writeln!(out, "{text}").ok();
    Ok(())
}

fn unexpected() -> u8 {
    complain(&"keyward's answer is not what was expected");
    UNAVAILABLE
}
