//! How an operator's subcommands reach a running keyward: by its socket, or by its admin listener and a token.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;

use super::{CONFIG, NO, UNAVAILABLE, USAGE, complain, consult};
use crate::app::Environment;
use crate::clock::SystemClock;
use crate::config::Config;
use crate::issuer::{Client, Endpoint, Network, visible};
use crate::tls::Connector;

/// Where the running keyward is.
#[derive(Debug, clap::Args)]
pub struct AdminArgs {
    /// The configuration file of the running keyward: its [admin] says where it listens
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The admin side's URL; the token stands in KEYWARD_ADMIN_TOKEN
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    admin: Option<String>,
    /// Print the API's object, or its items, as JSON
    #[arg(long)]
    pub json: bool,
}

impl AdminArgs {
    /// The admin side at this URL.
    pub fn at(url: &str) -> Self {
        Self {
            config: None,
            admin: Some(url.to_owned()),
            json: true,
        }
    }
}

/// The variable of the operator's token.
const TOKEN: &str = "KEYWARD_ADMIN_TOKEN";
/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// The most that an answer may hold on the socket, in bytes.
const MOST: usize = 64 << 20;

enum Way {
    Socket(PathBuf),
    Web(Box<Daemon>),
}

/// Calls the API of the running keyward; the object that it answers with, `null` for 204.
///
/// # Errors
/// The exit code, after the reason was shown on stderr.
pub fn call(
    args: &AdminArgs,
    environment: &Environment,
    (method, path): (Method, &str),
    body: Option<&Value>,
) -> Result<Value, u8> {
    let given = environment.get(TOKEN).filter(|token| !token.is_empty());
    let way = way(args)?;
    let kept = match (&way, given) {
        // A person who signed in there needs no other token.
        (Way::Web(daemon), None) => super::login::pass(&daemon.url(), environment),
        _ => None,
    };
    let token = given.or(kept.as_ref()).map(OsString::as_os_str);
    if matches!(way, Way::Web(_)) && token.is_none() {
        complain(&"KEYWARD_ADMIN_TOKEN is not set: it holds your token of [admin] tokens");
        complain(
            &"  = as the person for whom agents act: keyward login, with the same -c or --admin",
        );
        return Err(USAGE);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| {
            complain(&error);
            super::BUG
        })?;
    let daemon = match &way {
        Way::Socket(_) => None,
        Way::Web(daemon) => Some(&**daemon),
    };
    let request = request(daemon, token, method, path, body)?;
    let sent =
        runtime.block_on(async { tokio::time::timeout(PATIENCE, send(&way, request)).await });
    let (status, body) = match sent {
        Ok(Ok(answer)) => answer,
        Ok(Err(reason)) => {
            complain(&format_args!(
                "keyward does not answer {}: {reason}",
                way.shown()
            ));
            return Err(UNAVAILABLE);
        }
        Err(_) => {
            complain(&format_args!(
                "keyward does not answer {} in time",
                way.shown()
            ));
            return Err(UNAVAILABLE);
        }
    };
    let body: Value = if body.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(&body).unwrap_or_default()
    };
    if status.is_success() {
        return Ok(body);
    }
    Err(say_no(status, &body))
}

/// Says on stderr what the API refused with; the exit code.
pub(super) fn say_no(status: StatusCode, body: &Value) -> u8 {
    let said = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default();
    let word = said("type").rsplit(':').next().unwrap_or_default();
    complain(&format_args!(
        "{} {}: {}",
        status.as_u16(),
        visible(word),
        visible(said("detail"))
    ));
    if let Some(faults) = body.get("faults").and_then(Value::as_array) {
        for fault in faults {
            let text = |name: &str| fault.get(name).map(shown).unwrap_or_default();
            let place = [text("file"), text("line"), text("column")].join(":");
            writeln!(std::io::stderr(), "{place}: {}", text("message")).ok();
        }
    }
    if status.is_server_error() {
        UNAVAILABLE
    } else {
        NO
    }
}

/// A value as a table shows it: nothing that would move the cursor.
pub fn shown(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.escape_debug().to_string(),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => items.iter().map(shown).collect::<Vec<_>>().join(" "),
        other => visible_json(other),
    }
}

/// JSON of which a terminal shows every character and obeys none: those that are not visible are escaped (RFC 8259 §7).
pub fn visible_json(value: &Value) -> String {
    let mut text = String::new();
    for c in value.to_string().chars() {
        if c.is_ascii_graphic() || c == ' ' || c.escape_debug().len() == 1 {
            text.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // A text takes what is written.
                write!(text, "\\u{unit:04x}").unwrap_or_default();
            }
        }
    }
    text
}

/// Prints the items of a list: as JSON, or as a table of these members.
pub fn print_list(
    answer: &Value,
    json: bool,
    members: &[&str],
    out: &mut dyn std::io::Write,
) -> std::io::Result<()> {
    let none = Value::Array(Vec::new());
    let items = answer.get("items").unwrap_or(&none);
    if json {
        return writeln!(out, "{}", visible_json(items));
    }
    let mut rows: Vec<Vec<String>> = vec![members.iter().map(ToString::to_string).collect()];
    for item in items.as_array().into_iter().flatten() {
        let cell = |name: &&str| item.get(*name).map_or_else(|| "-".to_owned(), shown);
        rows.push(members.iter().map(cell).collect());
    }
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..members.len()).map(width).collect();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            let gap = (width + 2).saturating_sub(cell.chars().count());
            line.extend(std::iter::repeat_n(' ', gap));
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

fn way(args: &AdminArgs) -> Result<Way, u8> {
    if let Some(url) = &args.admin {
        return web(url, None);
    }
    let Some(file) = &args.config else {
        complain(&"name the running keyward: -c FILE, or --admin URL and KEYWARD_ADMIN_TOKEN");
        return Err(USAGE);
    };
    let config = consult(file)?;
    if let Some(path) = &config.admin.socket {
        return Ok(Way::Socket(path.clone()));
    }
    let Some(listen) = config.admin.listen else {
        complain(&"the file has neither socket nor listen in [admin]");
        return Err(CONFIG);
    };
    web(&listening(listen), Some(&config))
}

/// The URL of a keyward that listens there on this machine.
pub(super) fn listening(listen: SocketAddr) -> String {
    format!("http://{}", reachable(listen))
}

/// An address to dial for one to listen on.
fn reachable(listen: SocketAddr) -> SocketAddr {
    match listen.ip() {
        ip if !ip.is_unspecified() => listen,
        IpAddr::V4(_) => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), listen.port()),
        IpAddr::V6(_) => SocketAddr::new(std::net::Ipv6Addr::LOCALHOST.into(), listen.port()),
    }
}

fn web(url: &str, config: Option<&Config>) -> Result<Way, u8> {
    Daemon::at(url, config).map(|daemon| Way::Web(Box::new(daemon)))
}

/// A running keyward at its admin listener.
pub(super) struct Daemon {
    client: Client,
    endpoint: Endpoint,
}

impl Daemon {
    /// The one at this URL, trusted as the file says.
    pub(super) fn at(url: &str, config: Option<&Config>) -> Result<Self, u8> {
        let endpoint: Endpoint = url.parse().map_err(|error| {
            complain(&format_args!(
                "this URL cannot be called with a token: {error}"
            ));
            USAGE
        })?;
        let upstream = config.map(|config| config.upstream.clone());
        let trust = upstream.unwrap_or_default().trust;
        let connector = Connector::new(&trust, None, Arc::new(SystemClock));
        let connector = connector.map_err(|error| {
            complain(&error);
            UNAVAILABLE
        })?;
        let client = Network::new(connector, std::collections::BTreeMap::new()).client();
        Ok(Self { client, endpoint })
    }

    /// Where it is, as a sign-in there is kept under.
    pub(super) fn url(&self) -> String {
        self.endpoint.to_string().trim_end_matches('/').to_owned()
    }

    /// One call of its API: the status, and the answer's object.
    pub(super) async fn call(
        &self,
        (method, path): (Method, &str),
        token: Option<&OsStr>,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Value), u8> {
        let request = request(Some(self), token, method, path, body)?;
        let sent = tokio::time::timeout(PATIENCE, self.client.send(request)).await;
        let Ok(Ok(answer)) = sent else {
            complain(&format_args!(
                "keyward does not answer at {}",
                self.endpoint
            ));
            return Err(UNAVAILABLE);
        };
        Ok((answer.status, answer.json().unwrap_or_default()))
    }
}

/// A request to the daemon, or without one to whoever holds the socket.
fn request(
    daemon: Option<&Daemon>,
    token: Option<&OsStr>,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<Request<Bytes>, u8> {
    let bug = |error: &dyn std::fmt::Display| {
        complain(error);
        USAGE
    };
    let bytes = body.map(|body| Bytes::from(body.to_string()));
    let mut request = Request::new(bytes.unwrap_or_default());
    *request.method_mut() = method;
    let path = format!("/api/v1/{path}");
    let headers = request.headers_mut();
    if body.is_some() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    if let Some(token) = token.filter(|token| !token.is_empty()) {
        let text = [b"Bearer ", token.as_encoded_bytes()].concat();
        let mut value = HeaderValue::from_bytes(&text)
            .map_err(|_| bug(&"KEYWARD_ADMIN_TOKEN holds what no token does"))?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    *request.uri_mut() = match daemon {
        None => {
            headers.insert(HOST, HeaderValue::from_static("localhost"));
            path.parse().map_err(|error| bug(&error))?
        }
        Some(daemon) => {
            let endpoint = daemon.endpoint.join(&path).map_err(|error| bug(&error))?;
            endpoint.uri().clone()
        }
    };
    Ok(request)
}

async fn send(way: &Way, request: Request<Bytes>) -> Result<(StatusCode, Vec<u8>), String> {
    match way {
        Way::Socket(path) => over_socket(path, request)
            .await
            .map_err(|error| error.to_string()),
        Way::Web(web) => {
            let answer = web.client.send(request).await;
            let answer = answer.map_err(|_| "no connection, or no whole answer".to_owned())?;
            Ok((answer.status, answer.body.to_vec()))
        }
    }
}

async fn over_socket(
    path: &Path,
    request: Request<Bytes>,
) -> Result<(StatusCode, Vec<u8>), Box<dyn std::error::Error + Send + Sync>> {
    let stream = tokio::net::UnixStream::connect(path).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let asked = async {
        let response = sender.send_request(request.map(Full::new)).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MOST).collect().await?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>((status, body.to_bytes().to_vec()))
    };
    let mut connection = std::pin::pin!(connection);
    let mut asked = std::pin::pin!(asked);
    tokio::select! {
        answer = asked.as_mut() => answer,
        ended = connection.as_mut() => {
            ended?;
            asked.await
        }
    }
}

impl Way {
    fn shown(&self) -> String {
        match self {
            Self::Socket(path) => format!("on {}", path.display()),
            Self::Web(web) => format!("at {}", web.endpoint),
        }
    }
}
