use proptest::prelude::*;

use super::*;

fn target() -> Target {
    Target::from_connect("api.test:443").unwrap()
}

/// A request as hyper would hand it over, from a start line's method and URI and a list of fields.
fn parts(method: &str, uri: &str, version: Version, fields: &[(&str, &str)]) -> Parts {
    let mut request = http::Request::builder()
        .method(method)
        .uri(uri)
        .version(version);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn h1(method: &str, uri: &str, fields: &[(&str, &str)]) -> Result<Head, Unclean> {
    let mut all = vec![("host", "api.test")];
    all.extend_from_slice(fields);
    Head::clean(parts(method, uri, Version::HTTP_11, &all), &target())
}

fn h2(method: &str, uri: &str, fields: &[(&str, &str)]) -> Result<Head, Unclean> {
    Head::clean(parts(method, uri, Version::HTTP_2, fields), &target())
}

#[test]
fn another_host_in_whatever_form_is_another_host() {
    for (uri, host) in [
        ("https://evil.test/x", "api.test"),
        ("http://api.test/x", "api.test"),
        ("https://api.test@evil.test/x", "api.test"),
        ("https://api.test:8443/x", "api.test"),
        ("/x", "evil.test"),
        ("/x", "api.test:8443"),
    ] {
        let outcome = Head::clean(
            parts("GET", uri, Version::HTTP_11, &[("host", host)]),
            &target(),
        );
        assert_eq!(outcome.unwrap_err(), Unclean::OtherHost, "{uri} {host}");
    }
    assert_eq!(
        h2("GET", "https://evil.test/x", &[]).unwrap_err(),
        Unclean::OtherHost
    );
    assert_eq!(
        h2("GET", "http://api.test/x", &[]).unwrap_err(),
        Unclean::OtherHost
    );
    assert_eq!(h2("GET", "/x", &[]).unwrap_err(), Unclean::Host);
    assert_eq!(
        h2("GET", "https://api.test/x", &[("host", "evil.test")]).unwrap_err(),
        Unclean::OtherHost
    );
    assert!(h2("GET", "https://api.test/x", &[("host", "api.test")]).is_ok());
}

#[test]
fn host_is_there_once_and_plain() {
    let outcome = |fields: &[(&str, &str)]| {
        Head::clean(parts("GET", "/x", Version::HTTP_11, fields), &target())
    };
    assert_eq!(outcome(&[]).unwrap_err(), Unclean::Host);
    assert_eq!(
        outcome(&[("host", "api.test"), ("host", "evil.test")]).unwrap_err(),
        Unclean::Host
    );
    assert_eq!(
        outcome(&[("host", "api.test"), ("host", "api.test")]).unwrap_err(),
        Unclean::Host
    );
    assert_eq!(outcome(&[("host", "")]).unwrap_err(), Unclean::Host);
    assert_eq!(
        outcome(&[("host", "api.test, evil.test")]).unwrap_err(),
        Unclean::Host
    );
}

#[test]
fn framing_has_one_reading() {
    for fields in [
        &[("transfer-encoding", "chunked"), ("content-length", "5")][..],
        &[
            ("transfer-encoding", "chunked"),
            ("transfer-encoding", "chunked"),
        ],
        &[("transfer-encoding", "chunked, identity")],
        &[("transfer-encoding", "cow, chunked")],
        &[("transfer-encoding", ",chunked")],
        &[("transfer-encoding", "xchunked")],
        &[("content-length", "010")],
        &[("content-length", "+5")],
        &[("content-length", "5, 5")],
        &[("content-length", "5"), ("content-length", "5")],
        &[("content-length", "99999999999999999999")],
    ] {
        assert_eq!(
            h1("POST", "/x", fields).unwrap_err(),
            Unclean::Framing,
            "{fields:?}"
        );
    }
    assert_eq!(
        h1("POST", "/x", &[("transfer-encoding", "Chunked")])
            .unwrap()
            .framing(),
        Framing::Unknown
    );
    assert_eq!(
        h1("POST", "/x", &[("content-length", "5")])
            .unwrap()
            .framing(),
        Framing::Length(5)
    );
    let old = Head::clean(
        parts(
            "POST",
            "/x",
            Version::HTTP_10,
            &[("host", "api.test"), ("transfer-encoding", "chunked")],
        ),
        &target(),
    );
    assert_eq!(old.unwrap_err(), Unclean::Framing);
}

#[test]
fn hop_by_hop_fields_go_and_nominated_ones_with_them() {
    let head = h1(
        "GET",
        "/x",
        &[
            ("connection", "close, x-api-key , cookie"),
            ("x-api-key", "agent"),
            ("cookie", "a=b"),
            ("proxy-authorization", "Basic QUdFTlQ6VE9LRU4="),
            ("te", "trailers"),
            ("expect", "100-continue"),
            ("x-forwarded-host", "evil.test"),
            ("x-http-method-override", "DELETE"),
            ("keyward-ticket", "t"),
            ("accept", "*/*"),
        ],
    )
    .unwrap();
    assert_eq!(
        head.headers()
            .keys()
            .map(HeaderName::as_str)
            .collect::<Vec<_>>(),
        ["host", "accept"]
    );
}

#[test]
fn what_would_lead_a_request_elsewhere_goes_in_both_spellings() {
    for name in [
        "x-http-host-override",
        "x-original-uri",
        "x-original-method",
        "x-override-url",
        "x-http-path-override",
        "x-envoy-original-path",
        "x-backend-host",
        "x-method",
        "x-wp-method",
        "x-real-ip",
        "true-client-ip",
        "client-ip",
        "x-client-ip",
        "x-cluster-client-ip",
        "cf-connecting-ip",
        "x-forwarded-for",
        "x-original-url",
        "x-method-override",
    ] {
        let other = name.replace('-', "_");
        let head = h1("GET", "/x", &[(name, "evil"), (&other, "evil")]).unwrap();
        assert_eq!(head.headers().len(), 1, "{name}");
    }
    let head = h1("GET", "/x", &[("client-ip-list", "a"), ("x-methods", "b")]).unwrap();
    assert_eq!(head.headers().len(), 3);
}

#[test]
fn connection_specific_fields_are_malformed_on_http2() {
    for field in [
        ("connection", "x"),
        ("transfer-encoding", "chunked"),
        ("te", "gzip"),
        ("upgrade", "h2c"),
        ("keep-alive", "1"),
    ] {
        assert_eq!(
            h2("GET", "https://api.test/x", &[field]).unwrap_err(),
            Unclean::Field,
            "{field:?}"
        );
    }
    assert!(h2("GET", "https://api.test/x", &[("te", "trailers")]).is_ok());
}

#[test]
fn paths_have_one_spelling() {
    for bad in [
        "/v1/ok/../admin",
        "/v1/ok/%2e%2e/admin",
        "/v1/ok/.%2E/admin",
        "/v1/./x",
        "/v1//../x",
        "/v1/%5cadmin",
        "/ok/..;x/admin",
        "/a%00b",
        "/a%0d%0ab",
        "/%252e%252e/admin",
        "/%25%32%65%25%32%65/admin",
        "/%25%36%31dmin",
        "/%252%65/x",
        "/%25%32e/x",
        "/token%25%37%33",
        "/%25%2532",
        "/%c0%ae/x",
        "/a%",
        "/a%2",
        "/a%zz",
        "/a%+1b",
        "/v1/..",
        "/v1/.",
    ] {
        assert_eq!(h1("GET", bad, &[]).unwrap_err(), Unclean::Path, "{bad}");
    }
    for (given, canonical) in [
        ("/v1/%61dmin", "/v1/admin"),
        ("/a%20b?q=%61", "/a%20b?q=%61"),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ("/", "/"),
        ("/a/", "/a/"),
        ("/100%25", "/100%25"),
        ("/a?b//c/../d", "/a?b//c/../d"),
        ("/a?", "/a?"),
        ("/100%25%2F", "/100%25%2F"),
        ("/100%25%25", "/100%25%25"),
    ] {
        assert_eq!(
            h1("GET", given, &[]).unwrap().path_and_query(),
            canonical,
            "{given}"
        );
    }
    assert!(h1("GET", "/g%2fp", &[]).unwrap().has_encoded_slash());
    for (given, folded) in [
        ("//admin", Some("/admin")),
        ("/v1//x", Some("/v1/x")),
        ("/v1/x//", Some("/v1/x/")),
        ("//v1///%61?a//b", Some("/v1/a")),
        ("/admin;x/users", Some("/admin/users")),
        ("/a/;/b;c;d/", Some("/a/b/")),
        ("/v1/x/", None),
        ("/v1/x?a//b", None),
        ("/", None),
    ] {
        let head = h1("GET", given, &[]).unwrap();
        assert_eq!(head.folded_path().as_deref(), folded, "{given}");
    }
    assert_eq!(h1("OPTIONS", "*", &[]).unwrap().path(), "*");
    assert_eq!(h1("GET", "*", &[]).unwrap_err(), Unclean::Path);
}

/// What hyper writes into the request line is the text of this URI.
fn written(head: Head) -> String {
    let (_, path, _) = head.into_parts();
    Uri::from(path).to_string()
}

#[test]
fn a_request_line_is_never_without_a_path() {
    for (uri, line) in [
        ("https://api.test#x", "/"),
        ("https://api.test/#x", "/"),
        ("https://api.test", "/"),
        ("https://api.test?a=b#x", "/?a=b"),
        ("https://api.test?#x", "/?"),
    ] {
        for method in ["GET", "POST", "OPTIONS"] {
            assert_eq!(written(h1(method, uri, &[]).unwrap()), line, "{uri}");
            assert_eq!(written(h2(method, uri, &[]).unwrap()), line, "{uri}");
        }
        let asks = [
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-version", "13"),
        ];
        assert_eq!(written(h1("GET", uri, &asks).unwrap()), line, "{uri}");
    }
    // As h2 makes it of `:path: #x`.
    for (path, line) in [("#x", "/"), ("?a", "/?a")] {
        let mut given = parts("GET", "https://api.test/", Version::HTTP_2, &[]);
        let mut uri = given.uri.into_parts();
        uri.path_and_query = Some(PathAndQuery::from_maybe_shared(path).unwrap());
        given.uri = Uri::from_parts(uri).unwrap();
        let head = Head::clean(given, &target()).unwrap();
        assert_eq!(written(head), line, "{path}");
    }
}

#[test]
fn an_encoded_slash_has_the_readings_of_a_decoder() {
    for (given, decoded) in [
        ("/a%2fb", &["/a/b", "/a/b"][..]),
        ("/a/%2Fb%2f", &["/a//b/", "/a/b/"]),
        ("/a;x%2Fb?c%2Fd", &["/a;x/b", "/a/b"]),
        ("/a/b?c%2Fd", &[]),
    ] {
        let head = h1("GET", given, &[]).unwrap();
        assert_eq!(head.decoded_paths(), decoded, "{given}");
    }
}

#[test]
fn only_a_well_formed_websocket_upgrade_is_one() {
    let key = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    let version = ("sec-websocket-version", "13");
    let asks = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        key,
        version,
    ];
    let head = h1("GET", "/ws", &asks).unwrap();
    assert!(head.is_websocket() && !head.headers().contains_key("sec-websocket-key"));
    assert_eq!(h1("POST", "/ws", &asks).unwrap_err(), Unclean::Upgrade);
    assert_eq!(
        h1(
            "GET",
            "/ws",
            &[("connection", "upgrade"), ("upgrade", "h2c")]
        )
        .unwrap_err(),
        Unclean::Upgrade
    );
    assert_eq!(
        h1(
            "GET",
            "/ws",
            &[("connection", "notupgrade"), ("upgrade", "websocket")]
        )
        .unwrap()
        .websocket(),
        None
    );
    assert_eq!(
        h1(
            "GET",
            "/ws",
            &[("connection", "upgrade"), ("upgrade", "websocket"), version]
        )
        .unwrap_err(),
        Unclean::Upgrade
    );
}

#[test]
fn a_websocket_over_http2_is_judged_as_the_get_that_it_stands_for() {
    let asks = |word| {
        let mut parts = parts("CONNECT", "https://api.test/ws", Version::HTTP_2, &[]);
        parts
            .extensions
            .insert(hyper::ext::Protocol::from_static(word));
        Head::clean(parts, &target())
    };
    let head = asks("websocket").unwrap();
    assert_eq!(head.websocket(), Some(&WebSocket::ExtendedConnect));
    assert_eq!(head.method(), Method::GET);
    assert_eq!(asks("connect-udp").unwrap_err(), Unclean::Method);
}

#[test]
fn methods_are_upper_case_and_trace_is_none_of_them() {
    for bad in ["TRACE", "CONNECT", "get", "Get", "G!T"] {
        assert_eq!(h1(bad, "/x", &[]).unwrap_err(), Unclean::Method, "{bad}");
    }
    assert!(h1("M-SEARCH", "/x", &[]).is_ok());
}

#[test]
fn sizes_are_bounded() {
    let big = "x".repeat(MAX_VALUE + 1);
    assert_eq!(
        h1("GET", "/x", &[("a", &big)]).unwrap_err(),
        Unclean::TooLarge
    );
    assert_eq!(
        h1("GET", &format!("/{big}"), &[]).unwrap_err(),
        Unclean::TooLarge
    );
    let many: Vec<(String, String)> = (0..MAX_FIELDS)
        .map(|n| (format!("x-{n}"), "y".to_owned()))
        .collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    assert_eq!(h1("GET", "/x", &many).unwrap_err(), Unclean::TooLarge);
}

proptest! {
    /// Percent signs, digits and letters, each plain or encoded: what one pass decodes, the next must not.
    #[test]
    fn what_is_encoded_twice_is_refused(path in "/((%(25|3[0-9]|[46][1-6]|2[eEfF]))|[%0-9a-fA-F/]){0,12}") {
        if path.parse::<Uri>().is_ok()
            && let Ok(head) = h1("GET", &path, &[])
        {
            let again = h1("GET", head.path_and_query().as_str(), &[]).unwrap();
            prop_assert_eq!(again.path_and_query(), head.path_and_query());
        }
    }

    #[test]
    fn cleaning_twice_changes_nothing(path in "/[a-zA-Z0-9%./;_~-]{0,30}", value in "[ -~]{0,30}") {
        if path.parse::<Uri>().is_ok()
            && let Ok(head) = h1("GET", &path, &[("x-a", value.trim())])
        {
            let again = h1("GET", head.path_and_query().as_str(), &[("x-a", value.trim())]).unwrap();
            prop_assert_eq!(again.path_and_query(), head.path_and_query());
            prop_assert_eq!(again.headers(), head.headers());
        }
    }

    #[test]
    fn no_clean_path_holds_a_dot_segment(path in "/[.%2eE/;a\\\\]{0,20}") {
        if path.parse::<Uri>().is_ok()
            && let Ok(head) = h1("GET", &path, &[])
        {
            prop_assert!(!head.path().split('/').any(|s| matches!(s, "." | "..")));
            prop_assert!(!head.path().contains('\\'));
            let folds = head.path().contains("//") || head.path().contains(';');
            prop_assert_eq!(head.folded_path().is_some(), folds);
            let once = |path: String| !path.contains("//") && !path.contains(';');
            prop_assert!(head.folded_path().is_none_or(once));
        }
    }
}
