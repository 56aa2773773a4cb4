//! A private repository, served by git itself behind Basic, and a git that clones it through keyward.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderName, Response, StatusCode};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::harness::{Harness, TOKEN_A};
use crate::upstream::{AnyBody, Seen, Upstream, full};

fn git(home: &Path) -> Command {
    let mut git = Command::new("git");
    git.env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", home)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .kill_on_drop(true);
    git
}

async fn run(git: &mut Command) {
    let done = git.output().await.unwrap();
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
}

/// The repository `web.git` below `folder`, for whoever says this pair of user and password.
pub async fn service(folder: &Path, pair: &str) -> Upstream {
    let (work, bare) = (folder.join("work"), folder.join("served/web.git"));
    run(git(folder).args(["init", "-q", "-b", "main"]).arg(&work)).await;
    std::fs::write(work.join("readme"), "hello\n").unwrap();
    run(git(folder).arg("-C").arg(&work).args(["add", "."])).await;
    let who = ["-c", "user.name=t", "-c", "user.email=t@example.com"];
    let commit = ["commit", "-q", "-m", "one"];
    run(git(folder).arg("-C").arg(&work).args(who).args(commit)).await;
    run(git(folder)
        .args(["clone", "-q", "--bare"])
        .arg(&work)
        .arg(&bare))
    .await;
    let (home, due) = (
        folder.to_owned(),
        format!("Basic {}", STANDARD.encode(pair)),
    );
    Upstream::service(&["http/1.1"], move |seen| {
        let (home, due) = (home.clone(), due.clone());
        Box::pin(async move {
            if seen.get("authorization").as_deref() == Some(&due) {
                backend(&home, &seen).await
            } else {
                let mut closed = Response::new(full("closed"));
                *closed.status_mut() = StatusCode::UNAUTHORIZED;
                let basic = "Basic realm=\"private\"".parse().unwrap();
                closed.headers_mut().insert("www-authenticate", basic);
                closed
            }
        })
    })
    .await
}

/// git's own CGI.
async fn backend(home: &Path, seen: &Seen) -> Response<AnyBody> {
    let (path, query) = seen.uri.split_once('?').unwrap_or((&seen.uri, ""));
    let field = |name| seen.get(name).unwrap_or_default();
    let mut child = git(home)
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", home.join("served"))
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REQUEST_METHOD", &seen.method)
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("CONTENT_TYPE", field("content-type"))
        .env("CONTENT_LENGTH", seen.body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", field("content-encoding"))
        .env("GIT_PROTOCOL", field("git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&seen.body).await.unwrap();
    drop(stdin);
    let mut said = child.wait_with_output().await.unwrap().stdout;
    let end = memchr::memmem::find(&said, b"\r\n\r\n").unwrap();
    let content = said.split_off(end + 4);
    let mut response = Response::new(full(content));
    for line in String::from_utf8(said).unwrap().lines() {
        let Some((name, value)) = line.split_once(": ") else {
            continue;
        };
        if name == "Status" {
            *response.status_mut() = value[..3].parse().unwrap();
        } else {
            let name: HeaderName = name.parse().unwrap();
            response.headers_mut().insert(name, value.parse().unwrap());
        }
    }
    response
}

/// Clones into `cloned` below `folder`, as agent `a`; whether that worked, and what git said.
pub async fn clone(harness: &Harness, folder: &Path, url: &str) -> (bool, String) {
    let ca: PathBuf = folder.join("ca.pem");
    std::fs::write(&ca, &*harness.app().roots_pem()).unwrap();
    let proxy = format!("http://a:{TOKEN_A}@{}", harness.agent().proxy);
    let done = git(folder)
        .args(["clone", "-q", url])
        .arg(folder.join("cloned"))
        .env("HTTPS_PROXY", proxy)
        .env("GIT_SSL_CAINFO", ca)
        .output()
        .await
        .unwrap();
    let said = [done.stdout, done.stderr].concat();
    (
        done.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}
