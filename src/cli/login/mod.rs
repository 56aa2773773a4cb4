//! `keyward login [NAME]`: a person signs in, for `run` or at a running keyward.

mod browser;
mod daemon;
mod kept;
mod who;

use std::io::Write;
use std::path::PathBuf;

use jiff::Timestamp;
use serde_json::json;

use super::operator::{Daemon, listening};
use super::{BUG, CONFIG, NO, UNAVAILABLE, USAGE, complain, consult};
use crate::agent::Name;
use crate::app::{self, Environment, StartHint};
use crate::config::Config;
use crate::login::{Fault, PATIENCE, Poll, Provider, Returned, SignedIn};
use crate::syscall::{self, Role};
use kept::Kept;

pub(crate) use daemon::pass;
pub(crate) use kept::state;
pub(crate) use who::{AGAIN, MARGIN, Who};

/// The arguments of `keyward login`.
#[derive(Debug, clap::Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of the command line; clap says which exclude each other"
)]
pub struct LoginArgs {
    /// The [login.NAME] to sign in at; left out, the only one
    #[arg(value_name = "NAME")]
    name: Option<Name>,
    /// The configuration file: the sign-in is at the keyward that runs with it, or without `[admin] listen` for
    /// `keyward run -c FILE`
    #[arg(
        short = 'c',
        long = "config",
        value_name = "FILE",
        required_unless_present = "admin"
    )]
    config: Option<PathBuf>,
    /// The admin side's URL: the sign-in is at the keyward that runs there
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    admin: Option<String>,
    /// Sign in for `keyward run -c FILE`, also where the file has `[admin] listen`
    #[arg(long, requires = "config")]
    local: bool,
    /// Sign in on another device, by a code that is shown here
    #[arg(long)]
    device: bool,
    /// Show the URL, and open no browser
    #[arg(long, conflicts_with = "device")]
    no_browser: bool,
    /// Forget the sign-in, and revoke it where the provider can
    #[arg(long, conflicts_with_all = ["device", "no_browser"])]
    forget: bool,
    /// Print who signed in as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand; the exit code.
pub fn run(args: &LoginArgs, environment: &Environment, out: &mut dyn Write) -> u8 {
    let hardening = syscall::harden(Role::Run);
    crate::telemetry::log(
        environment.get("RUST_LOG").and_then(|value| value.to_str()),
        "warn",
    );
    tracing::debug!(%hardening, "process hardened");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&error);
            return BUG;
        }
    };
    let done = match (&args.admin, &args.config) {
        (Some(url), _) => Daemon::at(url, None)
            .and_then(|daemon| runtime.block_on(daemon::sign_in(args, &daemon, environment, out))),
        (None, Some(file)) => {
            consult(file).and_then(|config| match config.admin.listen.filter(|_| !args.local) {
                Some(listen) => {
                    let daemon = Daemon::at(&listening(listen), Some(&config))?;
                    runtime.block_on(daemon::sign_in(args, &daemon, environment, out))
                }
                None => runtime.block_on(here(args, &config, environment, out)),
            })
        }
        (None, None) => Err(USAGE),
    };
    done.err().unwrap_or(0)
}

/// Signs in for `run`.
async fn here(
    args: &LoginArgs,
    config: &Config,
    environment: &Environment,
    out: &mut dyn Write,
) -> Result<(), u8> {
    let provider = chosen(args.name.as_ref(), config, environment).await?;
    let Some(kept) = Kept::of(provider.login(), environment) else {
        complain(&"neither XDG_STATE_HOME nor HOME is set: there is no place to keep a sign-in");
        return Err(UNAVAILABLE);
    };
    if args.forget {
        return forget(&provider, &kept, (args.json, out)).await;
    }
    let signed_in = if args.device {
        by_device(&provider).await?
    } else {
        by_browser(&provider, !args.no_browser).await?
    };
    let old = {
        let _turn = kept.lock().map_err(|error| unkept(&kept, &error))?;
        // One that cannot be read is replaced.
        let old = kept.read().unwrap_or_default();
        let written = kept.write(&signed_in, None);
        written.map_err(|error| unkept(&kept, &error))?;
        old
    };
    // Nobody can use the old one any more, so it should not be good any more.
    if let Some(token) = old.and_then(|old| old.refresh_token) {
        provider.revoke(&token).await.ok();
    }
    let said = (&*signed_in.user.name, provider.name(), signed_in.expires);
    say(said, signed_in.refresh_token.is_some(), (args.json, out));
    Ok(())
}

/// The login that is named, or the file's only one.
async fn chosen(
    name: Option<&Name>,
    config: &Config,
    environment: &Environment,
) -> Result<Provider, u8> {
    let known: Vec<&Name> = config.logins.iter().map(|one| &one.settings.name).collect();
    let place = match (name, &*known) {
        (_, []) => {
            complain(&"the file has no [login.NAME]: there is nowhere to sign in");
            return Err(CONFIG);
        }
        (Some(name), _) => known.iter().position(|one| *one == name),
        (None, [_]) => Some(0),
        (None, _) => None,
    };
    let Some(place) = place else {
        let names: Vec<&str> = known.iter().map(|name| name.as_str()).collect();
        complain(&format_args!(
            "say where to sign in; the file has: {}",
            names.join(", ")
        ));
        return Err(USAGE);
    };
    let mut all = app::people(config, environment).await.map_err(|error| {
        complain(&format_args!("{error}\n  = {}", StartHint(&error)));
        super::serve::exit_code(&error)
    })?;
    Ok(all.swap_remove(place))
}

async fn by_browser(provider: &Provider, open: bool) -> Result<SignedIn, u8> {
    let loopback = browser::Loopback::open().await.map_err(|error| {
        complain(&format_args!("no port for the browser's answer: {error}"));
        UNAVAILABLE
    })?;
    let begun = provider.begin(&loopback.redirect_uri()).await;
    let begun = begun.map_err(|fault| failed(provider.name(), fault))?;
    show_url(provider.name().as_str(), &begun.url, open);
    let waited = tokio::time::timeout(PATIENCE, loopback.query(&begun.state)).await;
    let query = waited.map_err(|_| {
        complain(&"nobody signed in within 10 minutes");
        NO
    })?;
    let returned = Returned::read(&query).map_err(|unfit| {
        complain(&unfit);
        NO
    })?;
    let done = provider.finish(begun, &returned).await;
    done.map_err(|fault| failed(provider.name(), fault))
}

/// Shows where to sign in, and opens the browser if it is wanted and there is one.
fn show_url(login: &str, url: &str, open: bool) {
    complain(&format_args!("sign in at {login}:"));
    writeln!(std::io::stderr(), "{}", url.escape_debug()).ok();
    if open && !browser::open(url) {
        complain(&"no browser could be opened: open the URL on this machine, or use --device");
    }
}

async fn by_device(provider: &Provider) -> Result<SignedIn, u8> {
    let fault = |fault| failed(provider.name(), fault);
    let mut device = provider.device().await.map_err(fault)?;
    let complete = device.verification_uri_complete.as_deref();
    show_code((&device.verification_uri, &device.user_code, complete));
    loop {
        tokio::time::sleep(device.interval).await;
        match provider.poll(&mut device).await.map_err(fault)? {
            Poll::Pending => {}
            Poll::Done(signed_in) => return Ok(*signed_in),
        }
    }
}

fn show_code((uri, code, complete): (&str, &str, Option<&str>)) {
    let mut err = std::io::stderr();
    // Nothing that would move the cursor.
    let shown = |text: &str| text.escape_debug().to_string();
    complain(&"on any device, open this page and type in the code:");
    writeln!(err, "{}\n{}", shown(uri), shown(code)).ok();
    if let Some(complete) = complete {
        complain(&"or open this one, and compare the code:");
        writeln!(err, "{}", shown(complete)).ok();
    }
}

async fn forget(
    provider: &Provider,
    kept: &Kept,
    (json, out): (bool, &mut dyn Write),
) -> Result<(), u8> {
    let turn = kept.lock().map_err(|error| unkept(kept, &error))?;
    let old = kept.read();
    let was_there = kept.remove().map_err(|error| unkept(kept, &error))?;
    drop(turn);
    if !was_there {
        complain(&format_args!("nobody is signed in at {}", provider.name()));
        return Err(NO);
    }
    let token = old.ok().flatten().and_then(|old| old.refresh_token);
    let revoked = match &token {
        None => Ok(false),
        Some(token) => provider.revoke(token).await,
    };
    if revoked.is_err() {
        complain(&"the provider did not revoke the sign-in: end it there, if it must not go on");
    }
    let text = if json {
        json!({ "provider": provider.name().as_str(), "revoked": revoked == Ok(true) }).to_string()
    } else {
        format!("{}: forgotten", provider.name())
    };
    writeln!(out, "{text}").ok();
    Ok(())
}

fn say(
    (user, login, expires): (&str, &Name, Timestamp),
    renews: bool,
    (json, out): (bool, &mut dyn Write),
) {
    let text = if json {
        json!({ "user": user, "provider": login.as_str(), "expires": expires.to_string() })
            .to_string()
    } else {
        let user = user.escape_debug();
        let more = if renews {
            ", renewed while it is used"
        } else {
            ""
        };
        format!("{user}: signed in at {login} until {expires}{more}")
    };
    // A closed pipe is the reader's own choice.
    writeln!(out, "{text}").ok();
}

fn failed(login: &Name, fault: Fault) -> u8 {
    complain(&format_args!("{login}: {fault}"));
    match fault {
        Fault::Unavailable => UNAVAILABLE,
        _ => NO,
    }
}

fn unkept(kept: &Kept, error: &std::io::Error) -> u8 {
    complain(&format_args!(
        "the sign-in in {} cannot be kept: {error}",
        kept.path().display()
    ));
    UNAVAILABLE
}
