//! What is held of every preset, and of each placeholder whose shape a vendor or a client checks.

use std::collections::{BTreeMap, BTreeSet};

use http::Method;

use super::shipped::file_names;
use super::*;
use crate::host::{Host, HostMatch};
use crate::inject::{Injection, Material, Slot};

fn shipped() -> &'static Presets {
    Presets::shipped()
}

fn preset(name: &str) -> &'static Preset {
    shipped().get(name).unwrap()
}

fn read(text: &str) -> Result<Preset, String> {
    let file: File = toml::from_str(text).map_err(|fault| fault.to_string())?;
    file.named("mine".parse().unwrap())
        .map_err(|fault| fault.to_string())
}

#[test]
fn every_file_of_the_folder_is_embedded_and_loads() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/presets");
    let on_disk: BTreeSet<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .map(|name| name.strip_suffix(".toml").unwrap().to_owned())
        .collect();
    let embedded: BTreeSet<String> = file_names().map(str::to_owned).collect();
    assert_eq!(on_disk, embedded);
    let loaded: BTreeSet<String> = shipped().iter().map(|p| p.name.to_string()).collect();
    assert_eq!(
        loaded, embedded,
        "a name twice would leave fewer presets than files"
    );
    assert!(loaded.len() >= 40, "{}", loaded.len());
}

#[test]
fn no_wildcard_covers_a_public_suffix() {
    for preset in shipped().iter() {
        for host in &preset.hosts {
            match &host.kind {
                HostMatch::OneLabel(parent) => {
                    let suffix = psl::suffix(parent.as_bytes()).unwrap();
                    assert!(
                        suffix != parent.as_bytes() && suffix.is_known(),
                        "{}: anybody can register under *.{parent}",
                        preset.name
                    );
                }
                HostMatch::Exact(host) => {
                    let name = host.name().unwrap();
                    assert!(psl::domain(name.as_bytes()).is_some(), "{name}");
                    assert!(psl::suffix(name.as_bytes()).unwrap().is_known(), "{name}");
                }
            }
        }
    }
}

/// Two presets of one variable are two ways of one secret; the first by name is what a run without a file takes for
/// the host at hand, so their hosts and paths must tell them apart.
#[test]
fn a_variable_is_shared_only_where_it_is_meant() {
    let mut owners: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for preset in shipped().iter() {
        for var in preset.env() {
            owners.entry(var).or_default().push(preset.name.as_str());
        }
    }
    for (var, names) in owners {
        let by_env: Vec<_> = shipped().by_env(var).map(|p| p.name.as_str()).collect();
        assert_eq!(by_env, names);
        let meant = matches!(
            names[..],
            [_] | ["github", "github-git"] | ["gitlab", "gitlab-git"]
        );
        assert!(meant, "{var}: {names:?}");
        let fits = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
        assert!(var.bytes().all(fits), "{var}");
    }
    assert_eq!(shipped().by_env("HOME").count(), 0);
}

#[test]
fn presets_of_one_host_are_told_apart_by_path_or_by_variable() {
    let all: Vec<_> = shipped().iter().collect();
    for (place, one) in all.iter().enumerate() {
        for two in &all[place + 1..] {
            if !one.hosts.iter().any(|host| two.hosts.contains(host)) {
                continue;
            }
            let by_path = !one.paths.is_empty() && !two.paths.is_empty();
            let by_variable = one.env().all(|var| two.env().all(|other| other != var));
            assert!(by_path || by_variable, "{} and {}", one.name, two.name);
        }
    }
}

#[test]
fn every_placeholder_is_plainly_one_and_can_stand_where_it_goes() {
    for preset in shipped().iter() {
        assert!(!preset.keys.is_empty(), "{}", preset.name);
        for key in &preset.keys {
            let text = &*key.placeholder;
            let named = text.to_ascii_lowercase().contains("keyward");
            // Supabase's command-line tool wants forty hexadecimal digits: no name fits in there, so they are zeros.
            assert!(
                named || preset.name.as_str() == "supabase",
                "{}: {text}",
                preset.name
            );
            assert!(text.len() >= 12, "{}: {text}", preset.name);
            assert!(text.bytes().all(|b| b.is_ascii_graphic()), "{text}");
            assert!(entropy(text) < 3.2, "{text}: {}", entropy(text));
            let secret = crate::secret::Secret::from(text.to_owned());
            let material = Material::UserPass {
                user: "user".into(),
                password: secret.into(),
            };
            Injection::compile(&key.placements, &material).unwrap();
        }
    }
}

/// Shannon's, in bits a character: what secret scanners hold against a threshold (of 3 to 4.5 for most rules).
fn entropy(text: &str) -> f64 {
    let mut counts: BTreeMap<u8, f64> = BTreeMap::new();
    for byte in text.bytes() {
        *counts.entry(byte).or_default() += 1.0;
    }
    let length: f64 = counts.values().sum();
    counts
        .values()
        .map(|n| -(n / length) * (n / length).log2())
        .sum()
}

#[test]
fn placeholders_have_the_shape_that_clients_look_for() {
    let alnum = |b: u8| b.is_ascii_alphanumeric();
    let wordy = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    let lengths = |name: &str| preset(name).keys[0].placeholder.len();
    let begins = |name: &str, prefix: &str, clean: &dyn Fn(u8) -> bool| {
        let text = &*preset(name).keys[0].placeholder;
        let rest = text
            .strip_prefix(prefix)
            .unwrap_or_else(|| panic!("{name}"));
        assert!(rest.bytes().all(clean), "{name}: {text}");
    };
    begins("openai", "sk-", &wordy);
    begins("anthropic", "sk-ant-api03-", &wordy);
    begins("anthropic-oauth", "sk-ant-oat01-", &wordy);
    begins("groq", "gsk_", &wordy);
    begins("perplexity", "pplx-", &wordy);
    begins("xai", "xai-", &wordy);
    begins("openrouter", "sk-or-v1-", &wordy);
    begins("huggingface", "hf_", &alnum);
    begins("slack", "xoxb-", &wordy);
    begins("linear", "lin_api_", &wordy);
    begins("notion", "ntn_", &wordy);
    begins("stripe", "sk_test_", &wordy);
    begins("sendgrid", "SG.", &|b| wordy(b) || b == b'.');
    begins("netlify", "nfp_", &alnum);
    begins("digitalocean", "dop_v1_", &alnum);
    for (name, prefix, length) in [
        ("replicate", "r8_", 40),
        ("github", "ghp_", 40),
        ("github-git", "ghp_", 40),
        ("gitlab", "glpat-", 26),
        ("npm", "npm_", 40),
        ("crates-io", "cio", 35),
        ("twilio", "", 32),
        ("cloudflare", "", 40),
        ("vercel", "", 24),
        ("supabase", "sbp_", 44),
    ] {
        begins(name, prefix, &wordy);
        assert_eq!(lengths(name), length, "{name}");
    }
    // Two bot libraries split the token at its colon and want digits before it.
    let (id, rest) = preset("telegram").keys[0]
        .placeholder
        .split_once(':')
        .unwrap();
    assert!(id.bytes().all(|b| b.is_ascii_digit()) && rest.len() == 35);
    // Its command-line tool refuses a token with anything but letters and digits.
    assert!(preset("vercel").keys[0].placeholder.bytes().all(alnum));
}

#[test]
fn base_urls_point_at_the_hosts() {
    for preset in shipped().iter() {
        let Some(base) = &preset.base_url else {
            continue;
        };
        let rest = base.url.strip_prefix("https://").unwrap();
        let (authority, _) = rest.split_once('/').unwrap_or((rest, ""));
        let target = Target::from_authority(Scheme::Https, authority).unwrap();
        assert!(preset.names(&target), "{}: {}", preset.name, base.url);
    }
}

#[test]
fn sources_are_https_and_login_files_lie_at_home() {
    for preset in shipped().iter() {
        assert!(preset.source.starts_with("https://"), "{}", preset.name);
        for file in &preset.login_files {
            let inner = file.strip_prefix("~/").unwrap();
            assert!(!inner.is_empty() && !inner.contains(".."), "{file}");
        }
    }
}

/// An operation behind one that already takes its requests would be dead.
#[test]
fn no_operation_hides_behind_another() {
    for preset in shipped().iter() {
        for operation in &preset.operations {
            let sample = operation
                .path
                .as_str()
                .replace("**", "x/y")
                .replace('*', "sample");
            let found = preset.operation(&operation.method, &sample).unwrap();
            assert_eq!(
                found.name, operation.name,
                "{}: {} {sample}",
                preset.name, operation.method
            );
            assert!(
                preset.paths.is_empty() || preset.paths.iter().any(|p| p.matches(&sample)),
                "{}: {sample} lies outside of its paths",
                preset.name
            );
        }
    }
}

#[test]
fn requests_are_named_by_the_first_operation_that_matches() {
    let github = preset("github");
    let named = |method: Method, path: &str| {
        github
            .operation(&method, path)
            .map(|operation| (&*operation.name, operation.action))
    };
    let issues = "/repos/a/b/issues";
    assert_eq!(
        named(Method::POST, issues),
        Some(("issues.create", Action::Write))
    );
    assert_eq!(
        named(Method::HEAD, issues),
        Some(("issues.list", Action::Read))
    );
    assert_eq!(named(Method::PUT, issues), None);
    assert_eq!(
        named(Method::DELETE, "/repos/a/b"),
        Some(("repos.delete", Action::Delete))
    );
}

#[test]
fn credential_minting_is_known_in_every_spelling_that_a_service_takes() {
    let github = preset("github");
    for path in [
        "/app/installations/1/access_tokens",
        "/app/installations/1/access_tokens/",
        "/App/Installations/1/Access_Tokens",
        "/app/installations/1;x=y/access_tokens;z",
        "/app%2Finstallations/1/access_tokens",
        "/user/keys.json",
        "/user/keys",
        "/repos/a/b/keys",
    ] {
        assert!(github.mints(&Method::POST, path), "{path}");
    }
    assert!(!github.mints(&Method::GET, "/user/keys"));
    assert!(!github.mints(&Method::POST, "/"));
    for path in [
        "/2010-04-01/Accounts/AC1/Keys",
        "/2010-04-01/Accounts/AC1/Keys.xml",
    ] {
        assert!(preset("twilio").mints(&Method::POST, path), "{path}");
    }
    let gitlab = preset("gitlab");
    assert!(gitlab.mints(&Method::POST, "/api/v4/projects/a%2Fb/access_tokens"));
    assert!(!github.mints(&Method::POST, "/repos/a/b/issues"));
    let google = preset("google");
    let mint = "/v1/projects/-/serviceAccounts/bot@p.iam.gserviceaccount.com:generateAccessToken";
    assert!(google.mints(&Method::POST, mint));
    assert!(preset("slack").mints(&Method::GET, "/api/oauth.v2.access"));
    assert!(preset("openai").mints(&Method::POST, "/v1/organization/admin_api_keys"));
}

#[test]
fn no_preset_refuses_a_plain_reading_operation_as_minting() {
    for preset in shipped().iter() {
        for operation in &preset.operations {
            let sample = operation
                .path
                .as_str()
                .replace("**", "x/y")
                .replace('*', "sample");
            assert!(
                !preset.mints(&operation.method, &sample),
                "{}: {}",
                preset.name,
                operation.name
            );
        }
    }
}

#[test]
fn two_secrets_of_one_service_go_to_two_headers() {
    let datadog = preset("datadog");
    let shown: Vec<_> = datadog
        .keys
        .iter()
        .map(|key| key.placements[0].to_string())
        .collect();
    assert_eq!(
        shown,
        ["header dd-api-key: {}", "header dd-application-key: {}"]
    );
    let twilio = &preset("twilio").keys[0];
    assert_eq!(*twilio.user_env, [Box::<str>::from("TWILIO_ACCOUNT_SID")]);
    assert_eq!(twilio.placements, [Placement::Basic { user: "".into() }]);
}

#[test]
fn a_user_that_is_left_open_has_its_variable() {
    for preset in shipped().iter() {
        for key in &preset.keys {
            let open = key
                .placements
                .contains(&Placement::Basic { user: "".into() });
            assert_eq!(open, !key.user_env.is_empty(), "{}", preset.name);
        }
    }
}

#[test]
fn what_is_substituted_is_the_placeholder_of_its_key() {
    let key = &preset("telegram").keys[0];
    assert_eq!(
        key.placements,
        [Placement::Substitute {
            placeholder: key.placeholder.clone(),
            slot: Slot::Path
        }]
    );
}

#[test]
fn an_operator_adds_presets_and_replaces_shipped_ones() {
    let mine = read(
        "title = 'Mine'\nhosts = ['api.mine.test']\nsource = 'https://mine.test'\n\
         [[key]]\ninject = [{ basic = 'u' }, { header = 'x-a', format = 'k {}' }, { cookie = 'c' }, { query = 'q' }]\n\
         env = ['OPENAI_API_KEY']\nplaceholder = 'keyward-mine'\n",
    )
    .unwrap();
    assert_eq!(mine.keys[0].placements.len(), 4);
    let all = shipped().with(vec![mine.clone()]);
    assert_eq!(all.iter().len(), shipped().iter().len() + 1);
    let names: Vec<_> = all
        .by_env("OPENAI_API_KEY")
        .map(|p| p.name.as_str())
        .collect();
    assert_eq!(names, ["mine", "openai"]);
    let other = Preset {
        name: "openai".parse().unwrap(),
        ..mine
    };
    let all = shipped().with(vec![other]);
    assert_eq!(all.iter().len(), shipped().iter().len());
    let host = &all.get("openai").unwrap().hosts[0];
    assert_eq!(
        host.kind,
        HostMatch::Exact("api.mine.test".parse::<Host>().unwrap())
    );
}

#[test]
fn faults_are_found_where_they_stand() {
    let faulty = |line: &str, key: &str| {
        read(&format!(
            "title = 'Mine'\nsource = 'https://mine.test'\n{line}\n[[key]]\nenv = ['A']\nplaceholder = 'p'\n{key}\n"
        ))
        .unwrap_err()
    };
    let hosts = "hosts = ['a.test']";
    for (line, key, place, word) in [
        (
            "hosts = ['*.a']\nx = 1",
            "",
            "line 4, column 1",
            "unknown field",
        ),
        ("hosts = ['a b']", "", "line 3, column 9", "a host is"),
        (
            "hosts = ['a.test']\noperations = [{ name = 'n', action = 'look', method = 'GET', path = '/' }]",
            "",
            "line 4, column 38",
            "an action is",
        ),
        (
            hosts,
            "inject = 'basic'",
            "line 7, column 10",
            "exactly one of",
        ),
        (
            hosts,
            "inject = { header = 'x', query = 'y' }",
            "line 7, column 10",
            "exactly one of",
        ),
        (
            hosts,
            "inject = [{ header = 'x', format = 'y' }]",
            "line 7, column 36",
            "a format is",
        ),
        (
            hosts,
            "inject = { substitute = 'body' }",
            "line 7, column 25",
            "a slot is",
        ),
    ] {
        let fault = faulty(line, key);
        assert!(fault.contains(place) && fault.contains(word), "{fault}");
    }
    assert!(faulty("", "").contains("either `hosts` or"));
    let twice = "[[key]]\nenv = ['B']\nplaceholder = 'p'";
    assert!(faulty(hosts, twice).contains("two keys called token"));
}
