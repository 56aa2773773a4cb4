//! Runs a command as `keyward run` does, without the proxy: `sandbox [--isolate PORT] [--to ADDR] [--drop NAME]
//! [--mask PATH[=TEXT]] -- CMD…`.
#![expect(clippy::print_stderr, reason = "stderr is an example's voice")]

use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::ExitCode;

use keyward::sandbox::{Mask, Plan, forward, helper_main, spawn};
use keyward::syscall::{Role, harden, raise_nofile};
use tokio_util::task::TaskTracker;

fn main() -> ExitCode {
    if let Some(code) = helper_main() {
        return code;
    }
    harden(Role::Run);
    let files = raise_nofile();
    let mut plan = Plan {
        env: std::env::vars_os().collect(),
        nofile: files.before,
        ..Plan::default()
    };
    let mut to = None;
    let mut words = std::env::args_os().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().and_then(|value| value.into_string().ok());
        match word.to_str() {
            Some("--isolate") => plan.isolate = value().and_then(|port| port.parse().ok()),
            Some("--to") => to = value().and_then(|address| address.parse().ok()),
            Some("--drop") => {
                let name = value().map(OsString::from);
                plan.env.retain(|(known, _)| Some(known) != name.as_ref());
            }
            Some("--mask") => plan.masks.extend(value().map(mask)),
            _ => break,
        }
    }
    plan.argv = words.collect();
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_or(ExitCode::FAILURE, |runtime| {
            runtime.block_on(run(&plan, to))
        })
}

async fn run(plan: &Plan, to: Option<SocketAddr>) -> ExitCode {
    let mut child = match spawn(plan) {
        Ok(child) => child,
        Err(error) => {
            eprintln!("sandbox: {error}");
            return ExitCode::from(error.exit_code());
        }
    };
    for weaker in child.weaker() {
        eprintln!("weaker: {weaker}");
    }
    let tracker = TaskTracker::new();
    if let (Some(listener), Some(to)) = (child.take_listener(), to) {
        tracker.spawn(forward(listener, to, tracker.clone()));
    }
    match child.wait().await {
        Ok(exit) => ExitCode::from(exit.code()),
        Err(error) => {
            eprintln!("sandbox: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn mask(word: String) -> Mask {
    let (path, replacement) = match word.split_once('=') {
        Some((path, text)) => (path.to_owned(), Some(text.as_bytes().to_vec())),
        None => (word, None),
    };
    Mask {
        path: path.into(),
        replacement,
    }
}
