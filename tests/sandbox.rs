//! What a command in the sandbox can and cannot do, seen from inside, through `examples/sandbox.rs`.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

const CANARY: &str = "canary-7f3a9c51d2";
const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

/// The example, which cargo builds beside the tests.
fn program() -> String {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.push("examples/sandbox");
    assert!(path.exists(), "run `cargo build --example sandbox` first");
    path.to_str().unwrap().to_owned()
}

/// Words of a wrapper, the example, its options, and a shell script.
fn sandbox(before: &[&str], options: &[&str], script: &str) -> Command {
    let program = program();
    let mut words: Vec<&str> = before.to_vec();
    words.push(&program);
    words.extend(options);
    words.extend(["--drop", "CANARY", "--", "sh", "-c", script]);
    let mut command = Command::new(words[0]);
    command
        .args(&words[1..])
        .env_clear()
        .env("PATH", PATH)
        .env("CANARY", CANARY)
        .stdin(Stdio::null());
    command
}

fn run(before: &[&str], options: &[&str], script: &str) -> Output {
    sandbox(before, options, script).output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The user of the tests, and where that is root another one.
fn users() -> Vec<Vec<&'static str>> {
    let mut users = vec![vec![]];
    if rustix::process::geteuid().is_root() {
        users.push(vec![
            "setpriv",
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
        ]);
    }
    users
}

/// A directory that any user can reach.
fn scratch() -> tempfile::TempDir {
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    open_up(dir.path());
    dir
}

fn open_up(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Forbids all further namespaces to what it runs.
const FORBID: [&str; 6] = [
    "unshare",
    "-Ur",
    "sh",
    "-c",
    "for kind in user mnt pid net; do echo 0 > /proc/sys/user/max_${kind}_namespaces; done; exec \"$@\"",
    "sh",
];

#[test]
fn the_command_sees_no_process_but_its_own_and_no_canary() {
    for user in users() {
        let script =
            "ls -d /proc/[0-9]* | wc -l; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline; env";
        let output = run(&user, &[], script);
        let text = out(&output);
        let seen: u32 = text.lines().next().unwrap().trim().parse().unwrap();
        assert!(seen <= 4, "{user:?} sees {seen}: {}", err(&output));
        assert!(!text.contains(CANARY), "{user:?}");
        assert!(!err(&output).contains("weaker"), "{}", err(&output));
    }
}

#[test]
fn the_command_keeps_its_user_and_its_directory() {
    for user in users() {
        let mut bare = user.clone();
        bare.extend(["sh", "-c", "id -u; id -g; pwd"]);
        let bare = Command::new(bare[0]).args(&bare[1..]).output().unwrap();
        assert_eq!(out(&run(&user, &[], "id -u; id -g; pwd")), out(&bare));
    }
}

#[test]
fn a_mask_covers_a_file_and_a_directory_and_cannot_be_lifted() {
    let dir = scratch();
    let path = |name: &str| -> PathBuf { dir.path().join(name) };
    fs::create_dir(path("folder")).unwrap();
    open_up(&path("folder"));
    for name in ["login", "key", "folder/inner"] {
        fs::write(path(name), CANARY).unwrap();
    }
    let all = dir.path().display();
    let script = format!(
        "cd {all}; cat login key folder/* /proc/self/root{all}/login; touch folder/mine && echo .writable.
         umount {all}/login; umount -l {all}/folder; cat login folder/*
         unshare -Urm sh -c 'umount {all}/login; umount -l {all}/folder; mount --rbind {all} /mnt;
             umount -l /mnt/login; umount -l /mnt/folder; cat {all}/login /mnt/login {all}/folder/* /mnt/folder/*;
             umount -l /proc; cat /proc/[0-9]*/environ'"
    );
    let (login, key, folder) = (
        format!("{all}/login=placeholder"),
        format!("{all}/key"),
        format!("{all}/folder"),
    );
    let options = [
        "--mask",
        &login,
        "--mask",
        &key,
        "--mask",
        &folder,
        "--mask",
        "/not/there",
    ];
    for user in users() {
        let output = run(&user, &options, &script);
        let text = out(&output);
        assert!(text.starts_with("placeholder"), "{text} {}", err(&output));
        assert!(text.contains(".writable."), "{text}");
        assert!(!text.contains(CANARY), "{user:?}: {text}");
        assert!(!err(&output).contains("weaker"), "{}", err(&output));
    }
    assert_eq!(fs::read_to_string(path("login")).unwrap(), CANARY);
}

#[test]
fn exit_codes_and_signals_are_those_of_the_command() {
    assert_eq!(run(&[], &[], "exit 7").status.code(), Some(7));
    assert_eq!(run(&[], &[], "kill -TERM $$").status.code(), Some(143));
    assert_eq!(run(&[], &[], "kill -KILL $$").status.code(), Some(137));
    let code = |word: &str| {
        let output = Command::new(program())
            .args(["--", word])
            .env("PATH", PATH)
            .output();
        output.unwrap().status.code()
    };
    assert_eq!(code("no-such-command-here"), Some(127));
    assert_eq!(code("/etc/passwd"), Some(126));
}

#[test]
fn standard_input_reaches_the_command() {
    let mut child = sandbox(&[], &[], "cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"through").unwrap();
    assert_eq!(out(&child.wait_with_output().unwrap()), "through");
}

#[test]
fn a_term_to_keyward_reaches_the_command() {
    let script = "trap 'echo got; exit 5' TERM; echo ready; while :; do sleep 0.05; done";
    let mut child = sandbox(&[], &[], script)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 6]).unwrap();
    // keyward catches the signal just after the command started.
    std::thread::sleep(Duration::from_millis(200));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(5));
    assert_eq!(rest.trim(), "got");
}

/// Whether a pipe's writers, which the command's descendants are, are all gone: then reading ends.
fn ends_soon(mut pipe: impl Read + Send + 'static) -> bool {
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        pipe.read_to_end(&mut Vec::new()).ok();
        done.send(()).ok();
    });
    ended.recv_timeout(Duration::from_secs(5)).is_ok()
}

#[test]
fn what_the_command_left_in_the_background_ends_with_it() {
    for before in [&[][..], &FORBID] {
        let mut child = sandbox(before, &[], "setsid sh -c 'sleep 600 & sleep 600' & exit 0")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
        assert!(ends_soon(stdout), "{before:?}");
    }
}

#[test]
fn the_death_of_keyward_ends_the_command() {
    for before in [&[][..], &FORBID] {
        let mut child = sandbox(before, &[], "echo ready; sleep 600 & sleep 600")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = child.stdout.take().unwrap();
        stdout.read_exact(&mut [0; 6]).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(ends_soon(stdout), "{before:?}");
    }
}

#[test]
fn isolation_leaves_one_way_out() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in server.incoming() {
            let mut stream = stream.unwrap();
            assert!(stream.read(&mut [0; 1024]).unwrap() > 0);
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi";
            stream.write_all(answer).unwrap();
        }
    });
    let dir = scratch();
    let path = dir.path().join("host.sock");
    let _open = UnixListener::bind(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    let script = format!(
        "curl -sS http://127.0.0.1:8180/; echo; curl -sS -m 2 http://{address}/ && echo LEAK
         curl -sS -m 2 http://192.0.2.1/ && echo LEAK; curl -sS -m 2 --unix-socket {} http://x/; echo $?",
        path.display()
    );
    for user in users() {
        let output = run(&user, &["--isolate", "8180", "--to", &address], &script);
        // 7: curl could not connect, for an empty file covers the socket.
        assert_eq!(out(&output), "hi\n7\n", "{}", err(&output));
    }
}

#[test]
fn without_namespaces_it_says_what_is_weaker_and_works() {
    let dir = scratch();
    let login = dir.path().join("login");
    fs::write(&login, "x").unwrap();
    let login = login.to_str().unwrap();
    let output = run(&FORBID, &["--mask", login], "exit 3");
    let said = err(&output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert_eq!(said.matches("no namespaces").count(), 1, "{said}");
    assert!(said.contains("environment"), "{said}");
    assert!(said.contains(login), "{said}");
}

#[test]
fn without_namespaces_isolation_is_refused() {
    let output = run(&FORBID, &["--isolate", "8180"], "echo ran");
    assert_eq!(output.status.code(), Some(69));
    assert_eq!(out(&output), "");
}

#[test]
fn without_namespaces_keyward_itself_is_closed() {
    let script =
        "up=$(ps -o ppid= -p $PPID | tr -d ' '); cat /proc/$PPID/environ; cat /proc/$up/environ;
                  head -c 1 /proc/$up/mem";
    let output = run(&FORBID, &[], script);
    assert!(!out(&output).contains(CANARY));
    assert!(
        err(&output).matches("denied").count() >= 2,
        "{}",
        err(&output)
    );
}

/// Runs `argv` on a terminal of its own, types each text after its mark was seen, and gives all that was shown.
fn on_a_terminal(argv: &[&str], typed: &[(&str, &[u8])]) -> String {
    let host = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&host).unwrap();
    unlockpt(&host).unwrap();
    let name = ptsname(&host, Vec::new()).unwrap();
    let end = fs::File::options()
        .read(true)
        .write(true)
        .open(name.to_str().unwrap())
        .unwrap();
    let stdio = || Stdio::from(end.try_clone().unwrap());
    let mut child = Command::new("setsid")
        .args(["-c", "-w"])
        .args(argv)
        .env_clear()
        .env("PATH", PATH)
        .stdin(stdio())
        .stdout(stdio())
        .stderr(stdio())
        .spawn()
        .unwrap();
    drop(end);
    let mut host = fs::File::from(host);
    let (mut seen, mut from) = (String::new(), 0);
    let mut steps = typed.iter().peekable();
    let mut chunk = [0; 1024];
    // Reading fails once nobody holds the other end.
    while let Ok(read @ 1..) = host.read(&mut chunk) {
        seen.push_str(&String::from_utf8_lossy(&chunk[..read]));
        while let Some((mark, keys)) = steps.peek()
            && let Some(at) = seen[from..].find(mark)
        {
            from += at + mark.len();
            // A hand at the keyboard is slower than a program that has just said it is ready.
            std::thread::sleep(Duration::from_millis(150));
            host.write_all(keys).unwrap();
            steps.next();
        }
    }
    child.wait().unwrap();
    seen
}

#[test]
fn ctrl_c_reaches_the_command_once_and_not_keyward() {
    let script = "trap 'echo caught' INT; echo ready; sleep 0.5; sleep 0.5; exit 4";
    let outer = format!(
        "trap : INT; {} -- sh -c \"{script}\"; echo code=$?",
        program()
    );
    let seen = on_a_terminal(&["sh", "-c", &outer], &[("ready", b"\x03")]);
    assert_eq!(seen.matches("caught").count(), 1, "{seen}");
    assert!(seen.contains("code=4"), "{seen}");
}

#[test]
fn ctrl_z_and_fg_work_from_the_outer_shell() {
    let line = format!(
        "{} -- sh -c 'echo re\"\"ady; sleep 1; echo go\"\"es on; exit 6'\n",
        program()
    );
    let typed: [(&str, &[u8]); 4] = [
        ("bash-", b"PS1=; echo be''gin\n"),
        ("begin", line.as_bytes()),
        ("ready", b"\x1a"),
        ("Stopped", b"fg; echo co''de=$?; exit\n"),
    ];
    let seen = on_a_terminal(&["bash", "--norc", "-i"], &typed);
    assert!(
        seen.contains("goes on") && seen.contains("code=6"),
        "{seen}"
    );
}

#[test]
fn a_shell_inside_has_job_control_and_the_terminal_comes_back() {
    let outer = format!(
        "{} -- bash --norc -i; echo code=$?; read line; echo line=$line",
        program()
    );
    let typed: [(&str, &[u8]); 4] = [
        ("bash-", b"PS1=; echo be''gin; sleep 600\n"),
        ("begin", b"\x1a"),
        // bash stays where a job is stopped, and learns of its end only between two commands.
        ("Stopped", b"kill -9 %1; sleep 0.3; exit 9\n"),
        ("code=", b"after\n"),
    ];
    let seen = on_a_terminal(&["sh", "-c", &outer], &typed);
    assert!(!seen.contains("no job control"), "{seen}");
    assert!(seen.contains("code=9"), "{seen}");
    // The shell outside reads again: the terminal is its own.
    assert!(seen.contains("line=after"), "{seen}");
}

#[test]
#[ignore = "a measurement, not a test: run it with --run-ignored only --no-capture"]
fn the_overhead_beside_the_bare_command() {
    let median = |run: &dyn Fn()| {
        let mut times: Vec<Duration> = Vec::new();
        for _ in 0..21 {
            let start = Instant::now();
            run();
            times.push(start.elapsed());
        }
        times.sort();
        times[10]
    };
    let bare = median(&|| assert!(Command::new("true").status().unwrap().success()));
    let inside = median(&|| assert!(run(&[], &[], "exec true").status.success()));
    println!("bare {bare:?}, in the sandbox {inside:?} (medians of 21)");
}
