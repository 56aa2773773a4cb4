use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::*;
use crate::credential::{Holder, Life};

const SECRET: &str = "plug-in-secret-0123456789";

fn env(name: &str) -> Option<OsString> {
    match name {
        "PATH" => Some("/usr/local/bin:/usr/bin:/bin".into()),
        "KEPT" => Some("kept-value".into()),
        "CANARY" | "HOME" | "SSH_AUTH_SOCK" => Some("canary-of-the-environment".into()),
        _ => None,
    }
}

fn provider(script: &str) -> CommandProvider {
    let settings = CommandSettings {
        run: vec!["sh".into(), "-c".into(), script.into()],
        max_output: 64 * 1024,
        env: vec!["KEPT".into(), "NOT_SET".into()],
    };
    CommandProvider::new("own".parse().unwrap(), settings, &env)
}

fn scope() -> Scope {
    Scope {
        credential: "own".parse().unwrap(),
        holder: Holder::Session {
            agent: "calendar".parse().unwrap(),
            session: "sid-1".into(),
        },
        person: None,
        narrow: Arc::new(crate::route::Narrow {
            scopes: Some(vec!["read".into(), "write".into()]),
            ..crate::route::Narrow::default()
        }),
    }
}

/// Answers with this, whatever is asked.
async fn answered(json: &str) -> Result<Issued, IssueError> {
    let script = format!("cat >/dev/null; cat <<'END'\n{json}\nEND");
    provider(&script).issue(&scope()).await
}

fn token(issued: &Issued) -> &[u8] {
    match &issued.material {
        Material::Token(token) => token.expose(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn one_object_in_and_one_out() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("asked");
    let script = format!(
        "cat >> {}; echo '{{\"secret\":\"{SECRET}\",\"expires-in\":300,\"handle\":\"h-1\",\"revoke\":true}}'",
        file.display()
    );
    let provider = provider(&script);
    let issued = provider.issue(&scope()).await.unwrap();
    assert_eq!(token(&issued), SECRET.as_bytes());
    assert_eq!(issued.life, Life::For(Duration::from_mins(5)));
    let handle = issued.handle.unwrap();
    assert_eq!(handle.content().expose(), b"h-1");
    provider.revoke(&handle).await.unwrap();
    assert_eq!(
        fs::read_to_string(&file).unwrap(),
        "{\"version\":1,\"op\":\"issue\",\"credential\":\"own\",\"agent\":\"calendar\",\"user\":null,\"session\":\"sid-1\",\"scopes\":[\"read\",\"write\"]}\n\
         {\"version\":1,\"op\":\"revoke\",\"handle\":\"h-1\"}\n"
    );
}

#[tokio::test]
async fn what_it_does_not_say_has_a_default() {
    let issued = answered("{\"secret\":\"0123456789ab\",\"more\":1}")
        .await
        .unwrap();
    assert_eq!(issued.life, Life::UNSTATED);
    assert!(issued.handle.is_none());
    let issued = answered("{\"version\":1,\"secret\":\"0123456789ab\",\"handle\":\"h\"}");
    assert!(
        issued.await.unwrap().handle.is_none(),
        "a handle that revokes nothing"
    );
}

#[tokio::test]
async fn what_is_not_this_protocol_is_refused() {
    let secret = format!("\"secret\":\"{SECRET}\"");
    for bad in [
        "",
        "null",
        "[1, null]",
        SECRET,
        "<html></html>",
        "{}",
        "{\"secret\":\"\"}",
        "{\"secret\":42}",
        "{\"secret\":\"two\\r\\nlines-0123456789\"}",
        "{\"secret\":\"n\\u0000ul-0123456789\"}",
        "{\"secret\":\"h\u{f6}flich-0123456789\"}",
        &format!("{{{secret}}} {{{secret}}}"),
        &format!("{{{secret},\"version\":2}}"),
        &format!("{{{secret},\"version\":null}}"),
        &format!("{{{secret},\"expires-in\":0}}"),
        &format!("{{{secret},\"expires-in\":-1}}"),
        &format!("{{{secret},\"expires-in\":\"300\"}}"),
        &format!("{{{secret},\"expires-in\":null}}"),
        &format!("{{{secret},\"revoke\":true}}"),
        &format!("{{{secret},\"error\":\"no\"}}"),
        "{\"error\":\"try later\",\"retry-after\":0}",
        "{\"error\":\"try later\",\"retry-after\":-5}",
        "{\"error\":\"try later\",\"retry-after\":\"5\"}",
    ] {
        let outcome = answered(bad).await.map(|issued| issued.life);
        assert_eq!(outcome, Err(IssueError::Refused), "{bad}");
    }
    let fails = format!("echo '{{{secret}}}'; exit 1");
    let outcome = provider(&fails).issue(&scope()).await.map(|_| ());
    assert_eq!(outcome, Err(IssueError::Refused), "another code than 0");
    let none = CommandSettings {
        run: vec!["/nowhere/broker".into()],
        max_output: 1024,
        env: Vec::new(),
    };
    let none = CommandProvider::new("own".parse().unwrap(), none, &env);
    let outcome = none.issue(&scope()).await.map(|_| ());
    assert_eq!(outcome, Err(IssueError::Refused), "no such program");
}

#[tokio::test]
async fn a_time_to_come_back_is_heeded_whatever_the_code() {
    let later = "{\"error\":\"try later\",\"retry-after\":7.5}";
    let expected = IssueError::RefusedFor {
        retry_after: Duration::from_millis(7500),
    };
    assert_eq!(answered(later).await.map(drop), Err(expected));
    let fails = provider(&format!("cat >/dev/null; echo '{later}'; exit 3"));
    assert_eq!(fails.issue(&scope()).await.map(drop), Err(expected));
    let silent = provider("cat >/dev/null; echo '{\"retry-after\":7}'; exit 3");
    assert_eq!(
        silent.issue(&scope()).await.map(drop),
        Err(IssueError::Refused),
        "a time without an error is nothing of this protocol"
    );
}

#[tokio::test]
async fn what_it_gave_and_cannot_be_used_is_told_back() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("asked");
    for bad in [
        "\"secret\":\"n\\u0000ul-0123456789\"".to_owned(),
        format!("\"secret\":\"{SECRET}\",\"expires-in\":0"),
    ] {
        let script = format!(
            "cat >> {}; cat <<'END'\n{{{bad},\"handle\":\"h-7\",\"revoke\":true}}\nEND",
            file.display()
        );
        let outcome = provider(&script).issue(&scope()).await.map(drop);
        assert_eq!(outcome, Err(IssueError::Refused));
        let asked = fs::read_to_string(&file).unwrap();
        assert!(
            asked.ends_with("{\"version\":1,\"op\":\"revoke\",\"handle\":\"h-7\"}\n"),
            "{asked}"
        );
        fs::remove_file(&file).unwrap();
    }
}

#[tokio::test]
async fn a_revocation_counts_only_where_it_is_confirmed() {
    let handle = Handle::new(Arc::new("h-1".to_owned().into()));
    for (script, confirmed) in [
        ("cat >/dev/null; echo '{}'", true),
        ("echo '{}'", true),
        ("echo '{}'; exit 1", false),
        ("echo '{\"error\":\"x\"}'", false),
        ("true", false),
        ("echo revoked", false),
    ] {
        let outcome = provider(script).revoke(&handle).await;
        assert_eq!(outcome.is_ok(), confirmed, "{script}");
    }
}

#[tokio::test]
async fn it_sees_path_and_what_is_kept_and_nothing_else_of_the_environment() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("env");
    let held = fs::File::create(dir.path().join("held-open")).unwrap();
    let script = format!(
        "env > {0}; ls -l /proc/self/fd >> {0}; echo '{{\"secret\":\"{SECRET}\"}}'",
        file.display()
    );
    provider(&script).issue(&scope()).await.unwrap();
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("KEPT=kept-value"), "{text}");
    assert!(text.contains("PATH=/usr/local/bin"), "{text}");
    for foreign in ["canary", "HOME=", "SSH_AUTH_SOCK"] {
        assert!(!text.contains(foreign), "{text}");
    }
    assert!(text.contains("0 -> "), "{text}");
    assert!(
        !text.contains("held-open"),
        "no file of keyward's is open: {text}"
    );
    drop(held);
}

/// Whether the process in this file lives; a zombie does not.
async fn is_dead(pid_file: &Path) -> bool {
    let pid = fs::read_to_string(pid_file).unwrap();
    let stat = format!("/proc/{}/stat", pid.trim());
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(5) {
        if fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z ")) {
            return true;
        }
        tokio::task::yield_now().await;
    }
    false
}

/// As the broker does it: the future is dropped at the deadline.
async fn within(script: &str, deadline: Duration) -> Result<(), IssueError> {
    tokio::time::timeout(deadline, provider(script).issue(&scope()))
        .await
        .map_or(Err(IssueError::TimedOut), |outcome| outcome.map(drop))
}

#[tokio::test]
async fn at_the_deadline_the_whole_group_is_killed_whatever_it_ignores() {
    let dir = TempDir::new().unwrap();
    let pid = dir.path().join("pid");
    let answer = format!("echo '{{\"secret\":\"{SECRET}\"}}'");
    for script in [
        // It ignores what can be ignored, and so does its child.
        format!(
            "trap '' TERM HUP INT; sleep 300 & echo $! > {}; wait",
            pid.display()
        ),
        // It answers and ends, and leaves a child that keeps the output open.
        format!("sleep 300 & echo $! > {}; {answer}", pid.display()),
    ] {
        let outcome = within(&script, Duration::from_millis(500)).await;
        assert_eq!(outcome, Err(IssueError::TimedOut), "{script}");
        assert!(is_dead(&pid).await, "{script}");
    }
}

#[tokio::test]
async fn endless_output_is_cut_on_either_side() {
    let began = Instant::now();
    let endless = "while :; do echo xxxxxxxxxxxxxxxx; done";
    let outcome = within(endless, Duration::from_secs(9)).await;
    assert_eq!(outcome, Err(IssueError::Refused));
    // Much on the standard error neither stalls it nor counts.
    let chatty = format!(
        "head -c 3000000 /dev/zero >&2; cat >/dev/null; echo '{{\"secret\":\"{SECRET}\"}}'"
    );
    assert_eq!(within(&chatty, Duration::from_secs(9)).await, Ok(()));
    assert!(began.elapsed() < Duration::from_secs(9));
}

#[tokio::test]
async fn no_more_than_a_few_run_at_a_time() {
    let dir = TempDir::new().unwrap();
    let at = dir.path().display();
    let script = format!(
        "mkdir {at}/$$; ls {at} | wc -l >> {at}.count; sleep 0.2; rmdir {at}/$$; echo '{{\"secret\":\"{SECRET}\"}}'"
    );
    let provider = Arc::new(provider(&script));
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let provider = Arc::clone(&provider);
        all.spawn(async move { provider.issue(&scope()).await.map(drop) });
    }
    while let Some(one) = all.join_next().await {
        assert_eq!(one.unwrap(), Ok(()));
    }
    let counts = fs::read_to_string(format!("{at}.count")).unwrap();
    fs::remove_file(format!("{at}.count")).unwrap();
    let most: usize = counts
        .lines()
        .map(|line| line.trim().parse().unwrap())
        .max()
        .unwrap();
    assert!((2..=AT_A_TIME).contains(&most), "{most}");
}
