//! What a browser does, as far as signing in needs it: cookies by host, redirects one after the other.

use std::collections::BTreeMap;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::super::agent::within;

/// An answer.
#[derive(Debug)]
pub struct Page {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Page {
    /// The values of a header field.
    pub fn all(&self, name: &str) -> Vec<String> {
        let fields = self.head.lines().filter_map(|line| line.split_once(':'));
        fields
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim().to_owned())
            .collect()
    }

    pub fn get(&self, name: &str) -> String {
        self.all(name).into_iter().next().unwrap_or_default()
    }
}

/// One browser. Cookies are kept by host and port, which is stricter than a real one.
#[derive(Debug, Default)]
pub struct Browser {
    pub cookies: BTreeMap<(String, String), String>,
}

impl Browser {
    /// One request; redirects are not followed.
    pub async fn send(&mut self, method: &str, url: &str, fields: &[&str], body: &str) -> Page {
        let (host, path) = parts(url);
        let own = self.cookies.iter().filter(|((of, _), _)| *of == host);
        let cookies: Vec<String> = own
            .map(|((_, name), value)| format!("{name}={value}"))
            .collect();
        let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
        if !fields.iter().any(|field| field.starts_with("host:")) {
            head.push_str(&format!("host: {host}\r\n"));
        }
        if !cookies.is_empty() {
            head.push_str(&format!("cookie: {}\r\n", cookies.join("; ")));
        }
        for field in fields {
            head.push_str(&format!("{field}\r\n"));
        }
        if method == "POST" {
            let length = body.len();
            head.push_str(&format!(
                "content-type: application/x-www-form-urlencoded\r\ncontent-length: {length}\r\n"
            ));
        }
        let mut stream = TcpStream::connect(&host).await.unwrap();
        let request = format!("{head}\r\n{body}");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        within(stream.read_to_end(&mut answer)).await.unwrap();
        let text = String::from_utf8(answer).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let page = Page {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head: head.to_owned(),
            body: body.to_owned(),
        };
        for cookie in page.all("set-cookie") {
            let (name, rest) = cookie.split_once('=').unwrap();
            let value = rest.split(';').next().unwrap();
            self.cookies
                .insert((host.clone(), name.to_owned()), value.to_owned());
        }
        page
    }

    pub async fn get(&mut self, url: &str) -> Page {
        self.send("GET", url, &[], "").await
    }

    /// Follows redirects within the host of `url`; the URL that leads away.
    pub async fn away(&mut self, url: &str) -> String {
        let (home, _) = parts(url);
        let mut at = url.to_owned();
        for _ in 0..12 {
            let page = self.get(&at).await;
            assert!((300..400).contains(&page.status), "{at}: {page:?}");
            let to = page.get("location");
            at = if to.starts_with('/') {
                format!("http://{home}{to}")
            } else {
                to
            };
            if parts(&at).0 != home {
                return at;
            }
        }
        panic!("round and round: {at}");
    }
}

/// Host with port, and path with query.
pub fn parts(url: &str) -> (String, String) {
    let rest = url.strip_prefix("http://").unwrap();
    let at = rest.find(['/', '?']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(at);
    let path = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    };
    (host.to_owned(), path)
}

/// The first value of this name in a URL's query.
pub fn query(url: &str, name: &str) -> Option<String> {
    let (_, query) = url.split_once('?')?;
    form_urlencoded::parse(query.as_bytes())
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
}
