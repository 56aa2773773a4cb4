//! `keyward demo`: the whole path on loopback, with nothing to set up: a service, keyward, and an agent without a key.
//!
//! Nothing is acted: the service is an HTTPS server that takes one key, the agent is a process whose environment holds
//! a proxy and a CA file, and every sentence that is printed was checked before it was.

mod agent;
mod service;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::DirBuilder;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand;
use tokio_util::task::TaskTracker;

use self::agent::{CALLS, Seen, Told};
use self::service::{Got, Service};
use super::{BUG, complain};
use crate::app::{App, Environment, Surroundings};
use crate::audit::{self, Sink};
use crate::config;
use crate::preset::Presets;
use crate::telemetry;

/// The arguments of `keyward demo`.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// Be the agent's process
    #[arg(long, hide = true)]
    as_agent: bool,
}

/// A host that exists nowhere but in the demo (RFC 2606).
const HOST_NAME: &str = "api.service.example";
/// A host that no route names.
const OTHER_HOST: &str = "elsewhere.example";
/// The demo takes a second or two; a machine that needs longer than this has another trouble.
const LIMIT: Duration = Duration::from_secs(20);

/// What goes wrong in a demo is for a person to read.
type Fault = Box<dyn std::error::Error + Send + Sync>;

/// Runs the demo; the exit code is 0 only where everything came out as told.
pub fn run(args: &DemoArgs, environment: &Environment, out: &mut dyn Write) -> u8 {
    telemetry::log(
        environment.get("RUST_LOG").and_then(|value| value.to_str()),
        "error",
    );
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&error);
            return BUG;
        }
    };
    let whole = async {
        if args.as_agent {
            return agent::play(environment, out).await;
        }
        let scene = play().await?;
        scene.check()?;
        Ok(out.write_all(scene.tell()?.as_bytes())?)
    };
    // A timer is made within the runtime that drives it.
    let done = runtime.block_on(async { tokio::time::timeout(LIMIT, whole).await });
    match done {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => {
            complain(&format_args!("the demo failed: {error}"));
            BUG
        }
        Err(_) => {
            complain(&format_args!("the demo did not end within {LIMIT:?}"));
            BUG
        }
    }
}

/// Everything that was seen, by whoever saw it.
struct Scene {
    key: Arc<str>,
    token: String,
    proxy: String,
    roots: PathBuf,
    told: Told,
    /// What the agent's process wrote, every byte.
    agent_output: String,
    got: Vec<Got>,
    audit: String,
}

/// A folder of this run alone, gone with it.
struct Folder(PathBuf);

impl Folder {
    fn make() -> Result<Self, Fault> {
        let path = std::env::temp_dir().join(format!("keyward-demo-{}", random()?));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf, Fault> {
        let path = self.0.join(name);
        std::fs::write(&path, text)?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// 128 random bits in hex.
fn random() -> Result<String, Fault> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).map_err(|_| "no random bytes")?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

/// The route, as the file and the story show it.
const ROUTE: &str = r#"[[route]]
hosts = ["api.service.example"]
methods = ["GET"]
paths = ["/v1/hello", "/v1/echo"]
credential = "service"
inject = "bearer"
"#;

async fn play() -> Result<Scene, Fault> {
    let folder = Folder::make()?;
    let tracker = TaskTracker::new();
    let key: Arc<str> = format!("sk-demo-{}", random()?).into();
    let token = random()?;
    let service = Service::start(Arc::clone(&key), &tracker).await?;
    folder.write("service.pem", &service.root_pem)?;
    let text = format!(
        r#"
proxy.listen = ["127.0.0.1:0"]
upstream.trust = ["service.pem"]
upstream.connect-to = {{ "{HOST_NAME}:443" = "{}" }}
agent.assistant.token = {{ env = "TOKEN" }}
credential.service.static.value = {{ env = "KEY" }}
{ROUTE}"#,
        service.address
    );
    let loaded = config::parse(&text, "demo.toml", &folder.0, &**Presets::shipped())
        .map_err(|report| report.to_string())?;
    // The secrets of this run, in keyward's hands and nobody else's.
    let own = HashMap::from([
        ("KEY".to_owned(), (&*key).into()),
        ("TOKEN".to_owned(), token.clone().into()),
    ]);
    let surroundings = Surroundings {
        environment: Arc::new(own),
        audit: audit::Settings::new(Sink::Memory),
        handed: Vec::new(),
    };
    let app = App::start(loaded.config, surroundings).await?;
    let address = app
        .listeners()
        .iter()
        .find_map(|(_, _, addresses)| addresses.first())
        .ok_or("keyward listens nowhere")?;
    let proxy = address.to_string();
    let roots = folder.write("ca.pem", &app.roots_pem())?;
    let agent_output = agent_process(&format!("http://assistant:{token}@{proxy}"), &roots).await?;
    let trail = Arc::clone(app.audit());
    app.shut_down(Duration::from_secs(2), "exit").await;
    let audit = trail.lines().ok_or("the audit trail is not in memory")?;
    Ok(Scene {
        told: serde_json::from_str(&agent_output)?,
        key,
        token,
        proxy,
        roots,
        agent_output,
        got: service.got(),
        audit: String::from_utf8(audit)?,
    })
}

/// This program again, as the agent: what stands here is its whole environment.
async fn agent_process(proxy: &str, roots: &Path) -> Result<String, Fault> {
    let output = tokio::process::Command::new(std::env::current_exe()?)
        .args(["demo", "--as-agent"])
        .env_clear()
        .env("HTTPS_PROXY", proxy)
        .env("SSL_CERT_FILE", roots)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output()
        .await?;
    if !output.status.success() {
        return Err("the agent's process failed".into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

impl Scene {
    /// Whether what is told is so.
    fn check(&self) -> Result<(), Fault> {
        let [hello, echo, elsewhere, admin] = &*self.told.calls else {
            return Err("the agent did not make its four calls".into());
        };
        let keyed = |got: &Got| got.authorization == format!("Bearer {}", self.key);
        let paths: Vec<&str> = self.got.iter().map(|got| &*got.path).collect();
        let refused =
            |seen: &Seen| seen.status == 403 && seen.refusal.as_deref() == Some("no-route");
        let bare = |seen: &Seen| {
            !seen
                .sent
                .iter()
                .any(|line| line.starts_with("authorization"))
        };
        let checks = [
            ("the call without a key did not work", hello.status == 200),
            (
                "the agent sent an authorization",
                self.told.calls.iter().all(bare),
            ),
            (
                "the service did not get the key",
                self.got.iter().all(keyed),
            ),
            ("the echoed call did not work", echo.status == 200),
            ("nothing was masked", echo.body.contains("****")),
            (
                "the agent saw the key",
                !self.agent_output.contains(&*self.key),
            ),
            ("the other host was not refused", refused(elsewhere)),
            ("the other path was not refused", refused(admin)),
            (
                "another request reached the service",
                paths == ["/v1/hello", "/v1/echo"],
            ),
            (
                "the agent knows more than a proxy and a CA",
                self.told.environment == ["HTTPS_PROXY", "SSL_CERT_FILE"],
            ),
            (
                "the key stands in the audit trail",
                !self.audit.contains(&*self.key),
            ),
            (
                "the token stands in the audit trail",
                !self.audit.contains(&self.token),
            ),
        ];
        match checks.iter().find(|(_, holds)| !holds) {
            Some((what, _)) => Err((*what).into()),
            None => Ok(()),
        }
    }

    /// Our own key may be shown, but not in a way that somebody gets used to.
    fn masked(&self, text: &str) -> String {
        let tail = self.key.get(self.key.len() - 4..).unwrap_or_default();
        text.replace(&*self.key, &format!("sk-demo-…{tail}"))
    }

    /// The story, for a person who has never heard of it.
    fn tell(&self) -> Result<String, Fault> {
        let mut text = String::new();
        let t = &mut text;
        let key = self.masked(&self.key);
        writeln!(
            t,
            "keyward demo: all of this ran on loopback just now, and is gone again.\n"
        )?;
        writeln!(t, "SERVICE  https://{HOST_NAME} takes one key: {key}")?;
        writeln!(
            t,
            "KEYWARD  {} holds that key, and one route:\n",
            self.proxy
        )?;
        for line in ROUTE.lines() {
            writeln!(t, "           {line}")?;
        }
        writeln!(
            t,
            "\nAGENT    a process without the key. Its whole environment:\n"
        )?;
        writeln!(
            t,
            "           HTTPS_PROXY=http://assistant:TOKEN@{}",
            self.proxy
        )?;
        writeln!(t, "           SSL_CERT_FILE={}", self.roots.display())?;
        let titles = [
            "The agent calls the service without a key, and it works.",
            "The service sends the key back. The agent gets it masked.",
            "The agent tries a host that no route names.",
            "The agent tries a path that the route does not name. The service never saw it.",
        ];
        for (place, (title, seen)) in titles.iter().zip(&self.told.calls).enumerate() {
            writeln!(t, "\n{}. {title}", place + 1)?;
            self.tell_call(t, place, seen)?;
        }
        writeln!(
            t,
            "\nTHE AUDIT TRAIL, as written: each line carries the hash of the one before.\n"
        )?;
        t.push_str(&self.audit);
        writeln!(
            t,
            "\nAll four came out as told. Next: keyward preset list, keyward check, keyward serve."
        )?;
        Ok(text)
    }

    fn tell_call(&self, t: &mut String, place: usize, seen: &Seen) -> Result<(), Fault> {
        let (host, path) = CALLS.get(place).ok_or("one call too many")?;
        if seen.sent.is_empty() {
            writeln!(t, "   agent sent    CONNECT {host}:443")?;
        } else {
            writeln!(t, "   agent sent    GET {path}")?;
            writeln!(t, "                 {}", seen.sent.join(" | "))?;
        }
        if let Some(got) = self.got.get(place) {
            let authorization = self.masked(&got.authorization);
            writeln!(t, "   service got   authorization: {authorization}")?;
        }
        match &seen.refusal {
            Some(word) => writeln!(t, "   agent got     {} {word}, from keyward", seen.status)?,
            None => writeln!(t, "   agent got     {} {}", seen.status, seen.body)?,
        }
        Ok(())
    }
}
