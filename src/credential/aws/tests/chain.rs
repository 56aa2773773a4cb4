//! The links of the standard chain, each by what it gives and by what it is not passed over for.

use std::ffi::OsString;

use super::super::chain::{Chain, Found, Start};
use super::{ASSUMED, AwsSource, IssueError, Keys, Life, Material, NOW, issue, network, service};

async fn found(variables: &[(&str, &str)]) -> Result<Found, IssueError> {
    start(variables).await.map(|start| start.found)
}

async fn start(variables: &[(&str, &str)]) -> Result<Start, IssueError> {
    let variables: Vec<(String, OsString)> = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).into()))
        .collect();
    let env = move |name: &str| {
        let mut named = variables.iter().filter(|(other, _)| other == name);
        named.next().map(|(_, value)| value.clone())
    };
    let chain = Chain::of(&env, network().client());
    chain.find(NOW.parse().unwrap()).await
}

fn keys(found: Result<Found, IssueError>) -> (String, Keys, Life) {
    let Ok(Found::Keys(issued)) = found else {
        panic!("no keys: {found:?}");
    };
    let Material::Aws(keys) = issued.material else {
        panic!("other material");
    };
    (keys.id.to_string(), keys, issued.life)
}

const GIVEN: &str = r#"{"Code":"Success","AccessKeyId":"ASIAHERE","SecretAccessKey":"secret","Token":"token","Expiration":"2026-11-22T03:20:00Z"}"#;
const NOT_HERE: (&str, &str) = ("HOME", "/nonexistent");

#[tokio::test]
async fn the_instance_is_asked_by_version_2_and_last() {
    let (url, asked) = service(|line| match line {
        "PUT /latest/api/token HTTP/1.1" => (200, "imds-token".into()),
        "GET /latest/meta-data/iam/security-credentials/ HTTP/1.1" => (200, "role-of-it".into()),
        "GET /latest/meta-data/iam/security-credentials/role-of-it HTTP/1.1" => (200, GIVEN.into()),
        _ => (404, String::new()),
    });
    let endpoint = ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &*url);
    let (id, pair, life) = keys(found(&[NOT_HERE, endpoint]).await);
    assert_eq!(
        (&*id, life),
        ("ASIAHERE", Life::For(std::time::Duration::from_mins(20)))
    );
    assert!(pair.token.unwrap().equals(b"token"));
    let asked = asked.lock().clone();
    assert!(asked[0].contains("x-aws-ec2-metadata-token-ttl-seconds: 60"));
    assert!(
        asked[1..]
            .iter()
            .all(|text| text.contains("x-aws-ec2-metadata-token: imds-token"))
    );
    let off = ("AWS_EC2_METADATA_DISABLED", "true");
    let none = found(&[NOT_HERE, endpoint, off]).await;
    assert_eq!(none.unwrap_err(), IssueError::Refused);
    // What stands before it in the chain is asked alone.
    let own = [
        ("AWS_ACCESS_KEY_ID", "AKIAOWN"),
        ("AWS_SECRET_ACCESS_KEY", "own"),
    ];
    let (id, _, life) = keys(found(&[NOT_HERE, endpoint, own[0], own[1]]).await);
    assert_eq!((&*id, life), ("AKIAOWN", Life::Endless));
}

#[tokio::test]
async fn a_role_name_that_is_a_path_is_not_followed() {
    let (url, asked) = service(|line| match line {
        "PUT /latest/api/token HTTP/1.1" => (200, "imds-token".into()),
        _ => (200, "../../dynamic/x".into()),
    });
    let endpoint = ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &*url);
    let none = found(&[NOT_HERE, endpoint]).await;
    assert_eq!(none.unwrap_err(), IssueError::Refused);
    assert_eq!(asked.lock().len(), 2);
}

#[tokio::test]
async fn a_container_is_asked_with_its_token_and_nobody_after_it() {
    let (url, asked) = service(|line| match line {
        "GET /keys HTTP/1.1" => (200, GIVEN.into()),
        _ => (403, "{}".into()),
    });
    let (instance, not_asked) = service(|_| (200, GIVEN.into()));
    let instance = ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &*instance);
    let token = ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "container-token");
    let good = format!("{url}/keys");
    let full = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &*good);
    let (id, ..) = keys(found(&[NOT_HERE, full, token, instance]).await);
    assert_eq!(id, "ASIAHERE");
    assert!(asked.lock()[0].contains("authorization: container-token"));
    let bad = format!("{url}/others");
    let full = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &*bad);
    let none = found(&[NOT_HERE, full, token, instance]).await;
    assert_eq!(none.unwrap_err(), IssueError::Refused);
    assert!(not_asked.lock().is_empty());
    // Cleartext goes to the machine itself only: another URL is none.
    let full = (
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "http://198.51.100.7/keys",
    );
    let off = ("AWS_EC2_METADATA_DISABLED", "true");
    assert!(found(&[NOT_HERE, full, token, off]).await.is_err());
}

#[tokio::test]
async fn a_web_identity_of_the_environment_brings_its_role() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "header.payload.signature").unwrap();
    let file = ("AWS_WEB_IDENTITY_TOKEN_FILE", file.to_str().unwrap());
    let role = ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/pod");
    let Ok(Found::WebIdentity { role, token }) = found(&[NOT_HERE, file, role]).await else {
        panic!("no web identity");
    };
    assert_eq!(role.as_deref(), Some("arn:aws:iam::123456789012:role/pod"));
    assert!(token.equals(b"header.payload.signature"));
}

#[tokio::test]
async fn what_variables_name_and_cannot_be_used_is_not_passed_over() {
    let (instance, not_asked) = service(|_| (200, GIVEN.into()));
    let instance = ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &*instance);
    for bad in [
        ("AWS_ACCESS_KEY_ID", "AKIAHALF"),
        ("AWS_SECRET_ACCESS_KEY", "half"),
        (
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            "http://198.51.100.7/keys",
        ),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "/nonexistent/token"),
        ("AWS_PROFILE", "nobody"),
    ] {
        assert!(found(&[NOT_HERE, instance, bad]).await.is_err(), "{bad:?}");
    }
    assert!(not_asked.lock().is_empty());
    // A token alone is enough where keyward's own file names the role.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "header.payload.signature").unwrap();
    let file = ("AWS_WEB_IDENTITY_TOKEN_FILE", file.to_str().unwrap());
    let alone = found(&[NOT_HERE, file]).await.unwrap();
    assert!(matches!(alone, Found::WebIdentity { role: None, .. }));
}

/// A home with a `~/.aws/config`, and other files below it.
fn home(config: &str, files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [(".aws/config", config)].iter().chain(files) {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    folder
}

#[tokio::test]
async fn a_login_by_sso_is_shown_to_the_portal() {
    const CONFIG: &str = "[default]\nsso_session = corp\nsso_account_id = 123456789012\nsso_role_name = Read+er\n\
        [sso-session corp]\nsso_region = eu-west-1\nsso_start_url = https://corp.example/start\n";
    // `printf corp | sha1sum`
    const CACHED: &str = ".aws/sso/cache/ee0bfd2552fbd840c02cc48b6e823320543c450f.json";
    let (url, asked) = service(|line| {
        match line {
        "GET /federation/credentials?role_name=Read%2Ber&account_id=123456789012 HTTP/1.1" => (
            200,
            r#"{"roleCredentials":{"accessKeyId":"ASIASSO","secretAccessKey":"sso-secret","sessionToken":"sso-token","expiration":1795318200000}}"#.into(),
        ),
        _ => (401, "{}".into()),
    }
    });
    let portal = ("AWS_ENDPOINT_URL_SSO", &*url);
    let token = |end: &str| {
        format!(r#"{{"accessToken":"of-the-browser","expiresAt":"{end}","region":"eu-west-1"}}"#)
    };
    for (end, good) in [
        ("2026-11-22T04:00:00Z", true),
        ("2026-11-22T04:00:00UTC", true),
        ("2026-11-22T02:59:59Z", false),
        ("soon", false),
    ] {
        let home = home(CONFIG, &[(CACHED, &token(end))]);
        let at = ("HOME", home.path().to_str().unwrap());
        let found = found(&[at, portal]).await;
        assert_eq!(found.is_ok(), good, "{end}");
        if good {
            let (id, pair, life) = keys(found);
            // The end is in milliseconds: half past three, half an hour from now.
            assert_eq!(
                (&*id, life),
                ("ASIASSO", Life::For(std::time::Duration::from_mins(30)))
            );
            assert!(pair.secret.equals(b"sso-secret") && pair.token.unwrap().equals(b"sso-token"));
        }
    }
    assert_eq!(asked.lock().len(), 2, "a token that is over is not shown");
    assert!(asked.lock()[0].contains("x-amz-sso_bearer_token: of-the-browser"));
    // Without a login nobody is asked.
    let home = home(CONFIG, &[]);
    let at = ("HOME", home.path().to_str().unwrap());
    assert_eq!(found(&[at, portal]).await.unwrap_err(), IssueError::Refused);
    assert_eq!(asked.lock().len(), 2);
}

/// CreateToken as the API reference of IAM Identity Center's OIDC describes it: JSON in camel case, seconds.
#[tokio::test]
async fn a_token_of_an_sso_session_is_renewed_and_written_back() {
    use std::os::unix::fs::PermissionsExt as _;

    const CONFIG: &str = "[default]\nsso_session = corp\nsso_account_id = 123456789012\nsso_role_name = Reader\n\
        [sso-session corp]\nsso_region = eu-west-1\nsso_start_url = https://corp.example/start\n";
    const CACHED: &str = ".aws/sso/cache/ee0bfd2552fbd840c02cc48b6e823320543c450f.json";
    let (url, asked) = service(|line| {
        match line.split(' ').nth(1).unwrap() {
        "/token" => (200, r#"{"accessToken":"renewed-token","tokenType":"Bearer","expiresIn":3600,"refreshToken":"next-refresh","idToken":null}"#.into()),
        _ => (200, r#"{"roleCredentials":{"accessKeyId":"ASIASSO","secretAccessKey":"sso-secret","sessionToken":"sso-token","expiration":1795318200000}}"#.into()),
    }
    });
    let (broken, refusals) = service(|line| {
        match line.split(' ').nth(1).unwrap() {
        "/token" => (400, r#"{"error":"invalid_grant","error_description":"Invalid refresh token provided"}"#.into()),
        _ => (200, r#"{"roleCredentials":{"accessKeyId":"ASIASSO","secretAccessKey":"sso-secret","sessionToken":"sso-token","expiration":1795318200000}}"#.into()),
    }
    });
    let cached = |end: &str, registered: &str| {
        format!(
            r#"{{"startUrl":"https://corp.example/start","region":"eu-west-1","accessToken":"of-the-browser","expiresAt":"{end}","clientId":"a client","clientSecret":"client-secret","registrationExpiresAt":"{registered}","refreshToken":"first-refresh","more":[1]}}"#
        )
    };
    let (over, soon) = ("2026-11-22T02:00:00Z", "2026-11-22T03:04:59Z");
    let (registered, lapsed) = ("2026-12-01T00:00:00Z", "2026-11-22T03:00:00Z");
    for (end, until, at, shown) in [
        (over, registered, &url, Ok("renewed-token")),
        (soon, registered, &url, Ok("renewed-token")),
        (
            "2026-11-22T03:05:01Z",
            registered,
            &url,
            Ok("of-the-browser"),
        ),
        // A registration that has lapsed renews nothing, and a refusal takes nothing away that is still good.
        (soon, lapsed, &url, Ok("of-the-browser")),
        (over, lapsed, &url, Err(IssueError::Refused)),
        (soon, registered, &broken, Ok("of-the-browser")),
        (over, registered, &broken, Err(IssueError::Refused)),
    ] {
        let home = home(CONFIG, &[(CACHED, &cached(end, until))]);
        let place = ("HOME", home.path().to_str().unwrap());
        let ends = [
            place,
            ("AWS_ENDPOINT_URL_SSO", at),
            ("AWS_ENDPOINT_URL_SSO_OIDC", at),
        ];
        let (asked, case) = (
            if at == &url { &asked } else { &refusals },
            format!("{end} {until}"),
        );
        asked.lock().clear();
        for _ in 0..2 {
            assert_eq!(found(&ends).await.map(drop), shown.map(drop), "{case}");
        }
        let said = asked.lock().clone();
        let renewals: Vec<_> = said
            .iter()
            .filter(|text| text.starts_with("POST /token "))
            .collect();
        let portal = said
            .iter()
            .find(|text| text.starts_with("GET /federation/"));
        if let Ok(token) = shown {
            let field = format!("x-amz-sso_bearer_token: {token}\r\n");
            assert!(portal.unwrap().contains(&field), "{case}");
        }
        let file = home.path().join(CACHED);
        let text = std::fs::read_to_string(&file).unwrap();
        if shown != Ok("renewed-token") {
            assert_eq!(text, cached(end, until), "{case}");
            continue;
        }
        assert_eq!(renewals.len(), 1, "once, and then it is had");
        let (head, body) = renewals[0].split_once("\r\n\r\n").unwrap();
        assert!(head.contains("content-type: application/json"), "{head}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        let due = serde_json::json!({
            "clientId": "a client",
            "clientSecret": "client-secret",
            "grantType": "refresh_token",
            "refreshToken": "first-refresh",
        });
        assert_eq!(body, due);
        let left: serde_json::Value = serde_json::from_str(&text).unwrap();
        let mut due: serde_json::Value = serde_json::from_str(&cached(end, until)).unwrap();
        due["accessToken"] = "renewed-token".into();
        due["refreshToken"] = "next-refresh".into();
        due["expiresAt"] = "2026-11-22T04:00:00Z".into();
        assert_eq!(left, due, "all else stays");
        let mode = std::fs::metadata(&file).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        assert_eq!(
            std::fs::read_dir(file.parent().unwrap()).unwrap().count(),
            1
        );
    }
}

/// Where the file cannot be replaced, what was renewed is had all the same, and its refresh token used once.
#[tokio::test]
async fn a_renewed_token_that_cannot_be_written_back_is_kept_in_memory() {
    const CONFIG: &str = "[default]\nsso_session = corp\nsso_account_id = 123456789012\nsso_role_name = Reader\n\
        [sso-session corp]\nsso_region = eu-west-1\nsso_start_url = https://corp.example/start\n";
    const CACHED: &str = ".aws/sso/cache/ee0bfd2552fbd840c02cc48b6e823320543c450f.json";
    const TEXT: &str = r#"{"accessToken":"of-the-browser","expiresAt":"2026-11-22T03:01:00Z","clientId":"c","clientSecret":"s","refreshToken":"first-refresh"}"#;
    let (url, asked) = service(|line| {
        match line.split(' ').nth(1).unwrap() {
        "/token" => (200, r#"{"accessToken":"renewed-token","tokenType":"Bearer","expiresIn":60,"refreshToken":"next-refresh"}"#.into()),
        _ => (200, r#"{"roleCredentials":{"accessKeyId":"ASIASSO","secretAccessKey":"sso-secret","sessionToken":"sso-token","expiration":1795318200000}}"#.into()),
    }
    });
    let home = home(CONFIG, &[(CACHED, TEXT)]);
    let file = home.path().join(CACHED);
    // What would be renamed over the file stands there as a folder: this fails for every user, root too.
    let beside = format!("{}.keyward-{}", file.display(), std::process::id());
    std::fs::create_dir(&beside).unwrap();
    let place = ("HOME", home.path().to_str().unwrap());
    let ends = [
        place,
        ("AWS_ENDPOINT_URL_SSO", &*url),
        ("AWS_ENDPOINT_URL_SSO_OIDC", &*url),
    ];
    for _ in 0..2 {
        found(&ends).await.unwrap();
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), TEXT);
    let said = asked.lock().clone();
    let renewals = said.iter().filter(|text| text.starts_with("POST /token "));
    let shown: Vec<_> = renewals.map(|text| text.contains("next-refresh")).collect();
    assert_eq!(shown, [false, true], "each refresh token once");
    assert!(
        said.last()
            .unwrap()
            .contains("x-amz-sso_bearer_token: renewed-token")
    );

    // Whoever signs in again is believed.
    std::fs::write(
        &file,
        TEXT.replace("of-the-browser", "of-another-day")
            .replace("03:01", "09:01"),
    )
    .unwrap();
    found(&ends).await.unwrap();
    assert!(
        asked
            .lock()
            .last()
            .unwrap()
            .contains("x-amz-sso_bearer_token: of-another-day")
    );
}

#[tokio::test]
async fn a_process_gives_keys_and_sees_no_secret_of_keyward() {
    for (said, expected) in [
        (
            r#"{"Version":1,"AccessKeyId":"AKIAPROCESS","SecretAccessKey":"s","SessionToken":"t","Expiration":"2026-11-22T03:20:00Z"}"#,
            Some(Life::For(std::time::Duration::from_mins(20))),
        ),
        (
            r#"{"Version":1,"AccessKeyId":"AKIAPROCESS","SecretAccessKey":"s"}"#,
            Some(Life::For(std::time::Duration::from_mins(5))),
        ),
        (
            r#"{"Version":2,"AccessKeyId":"AKIAPROCESS","SecretAccessKey":"s"}"#,
            None,
        ),
        (r#"{"Version":1,"AccessKeyId":"AKIAPROCESS"}"#, None),
        ("AKIAPROCESS", None),
    ] {
        let home = home("", &[("said", said)]);
        let path = home.path().to_str().unwrap();
        let script = format!(
            "[default]\ncredential_process = /bin/sh -c \"env > {path}/env; cat '{path}/said'\"\n"
        );
        std::fs::write(home.path().join(".aws/config"), script).unwrap();
        let environment = [
            ("HOME", path),
            ("PATH", "/usr/bin:/bin"),
            ("AWS_SESSION_TOKEN", "hush"),
            ("AWS_REGION", "eu-west-1"),
        ];
        let found = found(&environment).await;
        let env = std::fs::read_to_string(home.path().join("env")).unwrap();
        assert!(
            !env.contains("hush") && env.contains("AWS_REGION=eu-west-1"),
            "{env}"
        );
        match expected {
            Some(life) => assert_eq!(keys(found).2, life, "{said}"),
            None => assert_eq!(found.unwrap_err(), IssueError::Refused, "{said}"),
        }
    }
    // One that fails gives nothing, whatever it has written before.
    let failing = "[default]\ncredential_process = /bin/sh -c \"echo '{}'; exit 1\"\n";
    let home = home(failing, &[]);
    assert!(
        found(&[("HOME", home.path().to_str().unwrap())])
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_profile_says_which_link_its_role_stands_on() {
    let (url, _) = service(|_| (200, GIVEN.into()));
    let full = format!("{url}/keys");
    let home = home(
        "[default]\nrole_arn = arn:aws:iam::123456789012:role/r\ncredential_source = EcsContainer\n",
        &[],
    );
    let at = ("HOME", home.path().to_str().unwrap());
    let container = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &*full);
    let Start { found: from, roles } = start(&[at, container]).await.unwrap();
    assert_eq!(keys(Ok(from)).0, "ASIAHERE");
    assert_eq!(roles.len(), 1);
    // The container that it names is not there: the instance is no substitute.
    let instance = ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &*url);
    assert!(start(&[at, instance]).await.is_err());
}

/// Real files, a real walk: the first role is assumed with the file's keys, the second with those of the first.
#[tokio::test]
async fn roles_that_stand_on_each_other_are_assumed_one_after_the_other() {
    let (url, asked) = service(|_| (200, ASSUMED.into()));
    let home = home(
        "[default]\nrole_arn = arn:aws:iam::123456789012:role/second\nsource_profile = first\nexternal_id = e-1\n\
         [profile first]\nrole_arn = arn:aws:iam::123456789012:role/first\nsource_profile = keys\nrole_session_name = named\n\
         duration_seconds = 1800\n[profile keys]\naws_access_key_id = AKIAFILE\naws_secret_access_key = of-the-file\n",
        &[],
    );
    let path = home.path().to_owned();
    let env = move |name: &str| (name == "HOME").then(|| path.clone().into_os_string());
    let issued = issue(AwsSource::Default, &url, None, &env).await.unwrap();
    let Material::Aws(pair) = issued.0 else {
        panic!("other material");
    };
    assert_eq!(&*pair.id, "ASIAROLE");
    let asked = asked.lock().clone();
    assert_eq!(asked.len(), 2);
    for (place, parts) in [
        (
            0,
            [
                "Credential=AKIAFILE/",
                "role%2Ffirst&RoleSessionName=named&DurationSeconds=1800",
                "",
            ],
        ),
        (
            1,
            [
                "Credential=ASIAROLE/",
                "role%2Fsecond&RoleSessionName=keyward-calendar-s1&DurationSeconds=900",
                "ExternalId=e-1",
            ],
        ),
    ] {
        for part in parts {
            assert!(asked[place].contains(part), "{part} in {}", asked[place]);
        }
    }
    assert!(asked[1].contains("x-amz-security-token: role-token=="));
    // A circle asks nobody.
    let (url, not_asked) = service(|_| (200, ASSUMED.into()));
    let circle = "[default]\nrole_arn = arn:a\nsource_profile = b\n[profile b]\nrole_arn = arn:b\nsource_profile = default\n";
    std::fs::write(home.path().join(".aws/config"), circle).unwrap();
    let refused = issue(AwsSource::Default, &url, None, &env).await;
    assert_eq!(refused.unwrap_err(), IssueError::Refused);
    assert!(not_asked.lock().is_empty());
}
