//! The load generator: one mode, one route, one JSON line with what the client saw and what the proxy cost.
//!
//! `load MODE key=value…`: see `Args`. Every loop ends by itself; an answer other than 200 is an error and is counted.

mod process;
mod wire;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use load::{Result, client_tls};
use rustls::pki_types::ServerName;
use wire::{H1, Route};

struct Args(HashMap<String, String>);

impl Args {
    fn text(&self, key: &str, default: &str) -> String {
        self.0
            .get(key)
            .cloned()
            .unwrap_or_else(|| default.to_owned())
    }

    fn number(&self, key: &str, default: u32) -> Result<u32> {
        self.0.get(key).map_or(Ok(default), |v| Ok(v.parse()?))
    }
}

struct Load {
    route: Route,
    /// The server's name as requests say it: `name` or `name:port`.
    host: String,
    authorization: String,
    connections: u32,
    streams: u32,
    /// Time before the window, in which every connection should have had an answer.
    warm_up: Duration,
    window: Duration,
    pid: u32,
}

/// What one mode found: latencies or delays, and bytes.
#[derive(Default)]
struct Seen {
    nanos: Vec<u64>,
    bytes: u64,
    errors: u64,
    error: Option<String>,
}

/// When samples count, and where they go.
struct Clip {
    from: Instant,
    until: Instant,
    seen: Mutex<Seen>,
}

impl Clip {
    fn done(&self) -> bool {
        Instant::now() >= self.until
    }

    fn counts(&self) -> bool {
        (self.from..self.until).contains(&Instant::now())
    }

    fn with(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn failed(&self, error: &(dyn std::error::Error + Send + Sync)) {
        self.with(|seen| {
            seen.errors += 1;
            seen.error.get_or_insert_with(|| error.to_string());
        });
    }
}

impl Load {
    fn h1_request(&self, path: &str) -> Vec<u8> {
        format!(
            "GET {path} HTTP/1.1\r\nhost: {}\r\nauthorization: {}\r\nuser-agent: load\r\naccept: */*\r\n\r\n",
            self.host, self.authorization
        )
        .into_bytes()
    }

    /// The same request over one kept connection.
    async fn keep_alive(self: Arc<Self>, clip: Arc<Clip>) -> Result<()> {
        let request = self.h1_request("/json");
        let mut nanos = Vec::with_capacity(100_000);
        let mut connection = H1::new(self.route.dial().await?);
        while !clip.done() {
            let begun = Instant::now();
            connection.request(&request, |_| ()).await?;
            if clip.counts() {
                nanos.push(begun.elapsed().as_nanos() as u64);
            }
        }
        clip.with(|seen| seen.nanos.append(&mut nanos));
        Ok(())
    }

    /// A new connection for each request.
    async fn fresh(self: Arc<Self>, clip: Arc<Clip>) -> Result<()> {
        let request = self.h1_request("/json");
        while !clip.done() {
            let begun = Instant::now();
            H1::new(self.route.dial().await?)
                .request(&request, |_| ())
                .await?;
            if clip.counts() {
                clip.with(|seen| seen.nanos.push(begun.elapsed().as_nanos() as u64));
            }
        }
        Ok(())
    }

    async fn download(self: Arc<Self>, clip: Arc<Clip>) -> Result<()> {
        let request = self.h1_request("/big");
        let mut connection = H1::new(self.route.dial().await?);
        while !clip.done() {
            let begun = Instant::now();
            let mut bytes = 0;
            connection
                .request(&request, |part| {
                    if clip.counts() {
                        bytes += part.len() as u64;
                    }
                })
                .await?;
            clip.with(|seen| {
                seen.bytes += bytes;
                seen.nanos.push(begun.elapsed().as_nanos() as u64);
            });
        }
        Ok(())
    }

    /// Each event carries its birth: the sample is its age on arrival.
    async fn events(self: Arc<Self>, clip: Arc<Clip>) -> Result<()> {
        let request = self.h1_request("/sse");
        let mut connection = H1::new(self.route.dial().await?);
        let mut pending = String::new();
        let mut ages = Vec::new();
        while !clip.done() {
            connection
                .request(&request, |part| {
                    let now = SystemTime::now()
                        .duration_since(UNIX_EPOCH)
                        .map_or(0, |d| d.as_nanos() as u64);
                    pending.push_str(&String::from_utf8_lossy(part));
                    while let Some(end) = pending.find("\n\n") {
                        let event: String = pending.drain(..end + 2).collect();
                        let born = event
                            .trim()
                            .strip_prefix("data: ")
                            .and_then(|t| t.parse::<u64>().ok());
                        ages.extend(born.map(|born| now.saturating_sub(born)));
                    }
                })
                .await?;
        }
        clip.with(|seen| seen.nanos.append(&mut ages));
        Ok(())
    }

    /// `streams` requests at a time on one HTTP/2 connection.
    async fn multiplexed(self: Arc<Self>, clip: Arc<Clip>) -> Result<()> {
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(1 << 20)
            .initial_connection_window_size(1 << 24)
            .handshake::<_, Bytes>(self.route.dial().await?)
            .await?;
        let driver = tokio::spawn(connection);
        let mut streams = tokio::task::JoinSet::new();
        for _ in 0..self.streams {
            let (load, clip, sender) = (self.clone(), clip.clone(), sender.clone());
            streams.spawn(async move {
                let result = load.stream(sender, &clip).await;
                result.inspect_err(|error| clip.failed(error.as_ref()))
            });
        }
        while streams.join_next().await.is_some() {}
        driver.abort();
        Ok(())
    }

    async fn stream(&self, mut sender: h2::client::SendRequest<Bytes>, clip: &Clip) -> Result<()> {
        let request = http::Request::get(format!("https://{}/json", self.host))
            .version(http::Version::HTTP_2)
            .header("authorization", &self.authorization)
            .header("user-agent", "load")
            .header("accept", "*/*")
            .body(())?;
        let mut nanos = Vec::with_capacity(20_000);
        while !clip.done() {
            let begun = Instant::now();
            sender = sender.ready().await?;
            let (answer, _) = sender.send_request(request.clone(), true)?;
            let answer = answer.await?;
            if answer.status() != 200 {
                return Err(answer.status().to_string().into());
            }
            let mut body = answer.into_body();
            while let Some(part) = body.data().await {
                body.flow_control().release_capacity(part?.len())?;
            }
            if clip.counts() {
                nanos.push(begun.elapsed().as_nanos() as u64);
            }
        }
        clip.with(|seen| seen.nanos.append(&mut nanos));
        Ok(())
    }

    /// Runs `connections` of one kind and reports; the processor's time is read at the window's two ends.
    async fn drive(self: Arc<Self>, mode: &str) -> Result<String> {
        let from = Instant::now() + self.warm_up;
        let clip = Arc::new(Clip {
            from,
            until: from + self.window,
            seen: Mutex::default(),
        });
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..self.connections {
            let (load, clip, mode) = (self.clone(), clip.clone(), mode.to_owned());
            tasks.spawn(async move {
                let result = match mode.as_str() {
                    "h1" => load.keep_alive(clip.clone()).await,
                    "h2" => load.multiplexed(clip.clone()).await,
                    "new" => load.fresh(clip.clone()).await,
                    "download" => load.download(clip.clone()).await,
                    "sse" => load.events(clip.clone()).await,
                    other => Err(format!("unknown mode {other}").into()),
                };
                result.inspect_err(|error| clip.failed(error.as_ref()))
            });
        }
        tokio::time::sleep_until(clip.from.into()).await;
        let before = process::cpu(self.pid);
        tokio::time::sleep_until(clip.until.into()).await;
        let cpu = process::cpu(self.pid).saturating_sub(before);
        // A stalled proxy must not stall the benchmark.
        let drained = tokio::time::timeout(Duration::from_secs(15), async {
            while tasks.join_next().await.is_some() {}
        });
        if drained.await.is_err() {
            clip.failed(&std::io::Error::other(
                "answers still missing 15 s after the end",
            ));
        }
        let mut seen =
            std::mem::take(&mut *clip.seen.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(report(mode, &mut seen, self.window, cpu))
    }

    /// Opens `connections`, one request each, and weighs the proxy before and after.
    async fn idle(&self) -> Result<String> {
        let request = self.h1_request("/json");
        let mut first = H1::new(self.route.dial().await?);
        first.request(&request, |_| ()).await?;
        let before = process::memory_kib(self.pid);
        let mut held = Vec::new();
        for _ in 0..self.connections {
            let mut connection = H1::new(self.route.dial().await?);
            connection.request(&request, |_| ()).await?;
            held.push(connection);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let after = process::memory_kib(self.pid);
        let each = after.saturating_sub(before) as f64 / f64::from(self.connections);
        Ok(format!(
            "{{\"mode\":\"idle\",\"connections\":{},\"start_mib\":{:.1},\"full_mib\":{:.1},\"kib_each\":{each:.1},\"errors\":0}}",
            held.len(),
            before as f64 / 1024.0,
            after as f64 / 1024.0
        ))
    }

    /// The first and the second connection that a fresh proxy ever sees.
    async fn contact(&self) -> Result<String> {
        let request = self.h1_request("/json");
        let mut millis = Vec::new();
        for _ in 0..2 {
            let begun = Instant::now();
            H1::new(self.route.dial().await?)
                .request(&request, |_| ())
                .await?;
            millis.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        Ok(format!(
            "{{\"mode\":\"contact\",\"first_ms\":{:.2},\"second_ms\":{:.2},\"errors\":0}}",
            millis[0], millis[1]
        ))
    }
}

fn report(mode: &str, seen: &mut Seen, window: Duration, cpu: Duration) -> String {
    seen.nanos.sort_unstable();
    let at = |share: f64| {
        let index = (seen.nanos.len() as f64 * share) as usize;
        seen.nanos
            .get(index.min(seen.nanos.len().saturating_sub(1)))
            .map_or(0.0, |n| *n as f64 / 1e6)
    };
    let (count, seconds, cpu) = (
        seen.nanos.len() as f64,
        window.as_secs_f64(),
        cpu.as_secs_f64(),
    );
    let each = |amount: f64| if cpu > 0.0 { amount / cpu } else { 0.0 };
    let megabytes = seen.bytes as f64 / 1e6;
    let error = seen
        .error
        .take()
        .unwrap_or_default()
        .replace(['"', '\\'], "'")
        .replace(['\r', '\n'], " ");
    format!(
        "{{\"mode\":\"{mode}\",\"count\":{count},\"per_s\":{:.1},\"cpu_s\":{cpu:.2},\"per_cpu_s\":{:.1},\"p50_ms\":{:.3},\
         \"p99_ms\":{:.3},\"mb_per_s\":{:.1},\"mb_per_cpu_s\":{:.1},\"errors\":{},\"error\":\"{error}\"}}",
        count / seconds,
        each(count),
        at(0.5),
        at(0.99),
        megabytes / seconds,
        each(megabytes),
        seen.errors
    )
}

fn connect_request(authority: &str, userinfo: &str) -> String {
    let mut request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n");
    if !userinfo.is_empty() {
        request.push_str(&format!("Proxy-Authorization: Bearer {userinfo}\r\n"));
    }
    request.push_str("\r\n");
    request
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let mode = words
        .next()
        .ok_or("usage: load h1|h2|new|download|sse|idle|contact key=value…")?;
    let pairs = words.filter_map(|word| {
        word.split_once('=')
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
    });
    let args = Args(pairs.collect());
    let authority = args.text("authority", "localhost:443");
    let (name, port) = authority.rsplit_once(':').ok_or("authority=NAME:PORT")?;
    let alpn: &[&str] = if mode == "h2" { &["h2"] } else { &["http/1.1"] };
    let proxied = args.text("via", "proxy") == "proxy";
    let load = Arc::new(Load {
        route: Route {
            addr: args.text("addr", ""),
            connect: proxied.then(|| connect_request(&authority, &args.text("token", ""))),
            name: ServerName::try_from(name.to_owned())?,
            tls: client_tls(&args.text("ca", ""), alpn)?,
        },
        host: if port == "443" {
            name.to_owned()
        } else {
            authority.clone()
        },
        authorization: args.text("authorization", "Bearer placeholder"),
        connections: args.number("connections", 32)?,
        streams: args.number("streams", 16)?,
        warm_up: Duration::from_millis(args.number("warm", 500)?.into()),
        window: Duration::from_millis(args.number("millis", 3000)?.into()),
        pid: args.number("pid", 0)?,
    });
    let line = match mode.as_str() {
        "idle" => load.idle().await?,
        "contact" => load.contact().await?,
        _ => load.drive(&mode).await?,
    };
    println!("{line}");
    Ok(())
}
