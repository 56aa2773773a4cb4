//! The loopback end of a browser's sign-in (RFC 8252 §7.3): a listener for one answer, and the browser itself.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::login::Returned;

/// A listener on 127.0.0.1, on a port that nobody knew before.
#[derive(Debug)]
pub(super) struct Loopback {
    listener: TcpListener,
    port: u16,
}

impl Loopback {
    pub(super) async fn open() -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        Ok(Self { listener, port })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Where the provider sends the browser.
    pub(super) fn redirect_uri(&self) -> String {
        format!("http://127.0.0.1:{}/callback", self.port)
    }

    /// Waits for the answer to the question of this state: the query that the browser came back with. An answer to another question is refused and waited past: a
    /// page that somebody else made cannot end the sign-in.
    pub(super) async fn query(self, state: &str) -> String {
        let (sender, mut answers) = mpsc::channel(1);
        let about: Arc<(String, String)> =
            Arc::new((state.to_owned(), format!("127.0.0.1:{}", self.port)));
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => {
                    let Ok((stream, _)) = accepted else { continue };
                    let (about, sender) = (Arc::clone(&about), sender.clone());
                    let service = service_fn(move |request: Request<Incoming>| {
                        let (page, query) = judge(&request, &about.0, &about.1);
                        if let Some(query) = query {
                            // The first one counts.
                            sender.try_send(query.to_owned()).ok();
                        }
                        async move { Ok::<_, Infallible>(page) }
                    });
                    let connection = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .keep_alive(false)
                        .serve_connection(TokioIo::new(stream), service);
                    connections.spawn(connection);
                }
                Some(query) = answers.recv() => {
                    // The browser gets its page before the listener is gone.
                    let page = std::time::Duration::from_millis(250);
                    tokio::time::timeout(page, async { while connections.join_next().await.is_some() {} })
                        .await
                        .ok();
                    return query;
                }
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

/// The page for a request, and the answer that it brings if it is one.
fn judge<'r, B>(
    request: &'r Request<B>,
    state: &str,
    host: &str,
) -> (Response<Full<Bytes>>, Option<&'r str>) {
    let ours =
        (request.headers().get(HOST)).is_some_and(|named| named.as_bytes() == host.as_bytes());
    if !ours || request.uri().path() != "/callback" || *request.method() != Method::GET {
        return (page(StatusCode::NOT_FOUND, "There is nothing here."), None);
    }
    let query = request.uri().query().unwrap_or_default();
    match Returned::read(query) {
        Ok(returned) if returned.state == state => {
            let text = "keyward has the answer. Close this page, and go back to the terminal.";
            (page(StatusCode::OK, text), Some(query))
        }
        _ => {
            let text = "This is no answer to the sign-in that keyward waits for.";
            (page(StatusCode::BAD_REQUEST, text), None)
        }
    }
}

/// A constant text: nothing of the request is in it.
fn page(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, "text/plain; charset=utf-8"),
        (CACHE_CONTROL, "no-store"),
        (
            CONTENT_SECURITY_POLICY,
            "default-src 'none'; frame-ancestors 'none'",
        ),
        (http::header::REFERRER_POLICY, "no-referrer"),
        (http::header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Opens the user's browser; whether there is a program that could. The URL is one that was checked to be https, or
/// http to loopback, so it is no option of that program.
pub(super) fn open(url: &str) -> bool {
    let program = if cfg!(target_os = "macos") {
        "open"
    } else {
        "xdg-open"
    };
    Command::new(program)
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_answer_to_this_question_is_taken() {
        let ask = |method: &str, host: &str, path: &str| {
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header(HOST, host);
            let request = request.body(()).unwrap();
            let (page, query) = judge(&request, "s", "127.0.0.1:4711");
            (page.status().as_u16(), query.is_some())
        };
        let own = "127.0.0.1:4711";
        assert_eq!(ask("GET", own, "/callback?code=c&state=s"), (200, true));
        assert_eq!(
            ask("GET", own, "/callback?error=access_denied&state=s"),
            (200, true)
        );
        for (method, host, path, status) in [
            ("GET", own, "/callback?code=c&state=other", 400),
            ("GET", own, "/callback?code=c", 400),
            ("GET", own, "/callback?code=c&state=s&state=s", 400),
            ("GET", own, "/?code=c&state=s", 404),
            ("POST", own, "/callback?code=c&state=s", 404),
            ("GET", "evil.example:4711", "/callback?code=c&state=s", 404),
            ("GET", "127.0.0.1:1", "/callback?code=c&state=s", 404),
        ] {
            assert_eq!(
                ask(method, host, path),
                (status, false),
                "{method} {host} {path}"
            );
        }
    }
}
