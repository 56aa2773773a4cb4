//! What a configuration cannot say: a credential for strangers' hosts, and an upstream that need not prove itself.

use std::path::Path;

use keyward::config;
use keyward::preset::Presets;

const CREDENTIAL: &str = "[credential.c.static]\nvalue = { env = \"CANARY\" }\n";

/// Whether a route with a credential is taken for these hosts; else every fault.
fn taken(host: &str) -> Result<(), String> {
    let text = format!(
        "[agent.a]\ntoken = {{ env = \"TOKEN_A\" }}\n{CREDENTIAL}[[route]]\nhosts = [\"{host}\"]\ncredential = \"c\"\ninject = \"bearer\"\n"
    );
    config::parse(&text, "test.toml", Path::new("/"), &**Presets::shipped())
        .map(drop)
        .map_err(|report| report.to_string())
}

/// HOST-13: a credential is never bound to names that anybody can own.
#[test]
fn a_wildcard_over_names_that_anybody_can_own_takes_no_credential() {
    for host in ["*.com", "*.co.uk", "*.github.io", "*.s3.amazonaws.com"] {
        let fault = taken(host).expect_err(host);
        assert!(fault.contains("public suffix"), "{host}: {fault}");
    }
    for host in ["*", "*.*", "**.api.test", "*.", "api.*"] {
        assert!(taken(host).is_err(), "{host}");
    }
    for host in ["api.test", "*.crm.example", "me.github.io"] {
        assert_eq!(taken(host), Ok(()), "{host}");
    }
}

/// Every name of a property, and every value of an enumeration, in a schema.
fn words(schema: &serde_json::Value, out: &mut Vec<String>) {
    use serde_json::Value;
    match schema {
        Value::Object(map) => {
            for (key, value) in map {
                if key == "properties" {
                    out.extend(value.as_object().unwrap().keys().cloned());
                }
                if key == "enum" {
                    let values = value.as_array().unwrap().iter();
                    out.extend(values.filter_map(|value| value.as_str().map(str::to_owned)));
                }
                words(value, out);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| words(value, out)),
        _ => {}
    }
}

/// HOST-20: nothing switches the verification of upstreams off; another CA is added by `trust`.
#[test]
fn no_key_switches_verification_off() {
    let mut found = Vec::new();
    words(&config::schema(), &mut found);
    for known in ["trust", "connect-to", "allow-private", "inject"] {
        assert!(found.iter().any(|word| word == known), "{known}");
    }
    // `verify` of [trust.NAME.kubernetes] says who verifies an agent's token; that it is no key elsewhere is tried below.
    // `image-verifier` names a program that looks at images; `verify-name` asks for a name beside a SPIFFE ID.
    let others = ["verify", "image-verifier", "verify-name"];
    for word in found.iter().filter(|word| !others.contains(&word.as_str())) {
        let word = word.to_lowercase();
        for part in ["insecure", "verif", "skip", "danger", "unsafe", "no-tls"] {
            assert!(!word.contains(part), "{word}");
        }
    }
    for line in ["insecure = true", "verify = false", "tls-verify = false"] {
        let text = format!("[upstream]\n{line}\n");
        let parsed = config::parse(&text, "test.toml", Path::new("/"), &**Presets::shipped());
        assert!(parsed.is_err(), "{line}");
    }
}
