use std::sync::Arc;

use http::{Request, Version};
use proptest::prelude::*;

use super::super::{Format, Placement, Slot};
use super::*;
use crate::host::Target;

const KEY: &str = "sk-live/+=0123456789";

fn head(path: &str, fields: &[(&str, &str)]) -> Head {
    let mut request = Request::builder()
        .method("POST")
        .uri(path)
        .version(Version::HTTP_11)
        .header("host", "api.test");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let target = Target::from_connect("api.test:443").unwrap();
    Head::clean(request.body(()).unwrap().into_parts().0, &target).unwrap()
}

fn injection(placements: &[Placement]) -> Injection {
    Injection::compile(
        placements,
        &Material::Token(Arc::new(Secret::from(KEY.to_owned()))),
    )
    .unwrap()
}

fn injected(placement: Placement, path: &str, fields: &[(&str, &str)]) -> Result<Head, Misplaced> {
    let mut head = head(path, fields);
    injection(&[placement]).apply(&mut head).map(|()| head)
}

fn header<'a>(head: &'a Head, name: &str) -> Vec<&'a str> {
    head.headers()
        .get_all(name)
        .iter()
        .map(|value| value.to_str().unwrap())
        .collect()
}

#[test]
fn what_the_agent_sent_in_the_slot_is_gone() {
    let agents = [
        ("authorization", "Bearer mine"),
        ("authorization", "Basic bWluZQ=="),
    ];
    let head = injected(Placement::Bearer, "/", &agents).unwrap();
    assert_eq!(header(&head, "authorization"), [format!("Bearer {KEY}")]);
    assert!(head.headers().get("authorization").unwrap().is_sensitive());

    let placement = Placement::Header {
        name: HeaderName::from_static("x-api-key"),
        format: Format::bare(),
    };
    let head = injected(placement, "/", &[("x-api-key", "a"), ("X-Api-Key", "b")]).unwrap();
    assert_eq!(header(&head, "x-api-key"), [KEY]);

    let query = Placement::Query { name: "key".into() };
    let head = injected(query, "/p?key=mine&a=b&%6bey=mine&c;key=mine&key", &[]).unwrap();
    assert_eq!(
        head.path_and_query(),
        "/p?a=b&key=sk-live%2F%2B%3D0123456789"
    );

    let cookie = Placement::Cookie { name: "sid".into() };
    let token = Material::Token(Arc::new(Secret::from("0123456789ab".to_owned())));
    let mut head = self::head(
        "/",
        &[("cookie", "a=1; sid=mine"), ("cookie", "sid =mine;b=2")],
    );
    Injection::compile(&[cookie], &token)
        .unwrap()
        .apply(&mut head)
        .unwrap();
    assert_eq!(header(&head, "cookie"), ["a=1; b=2; sid=0123456789ab"]);
}

#[test]
fn a_field_that_servers_read_as_the_injected_one_is_gone() {
    let fields = [
        ("X_API_KEY", "mine"),
        ("x_api-key", "mine"),
        ("x-api_key", "mine"),
        ("x-api-key", "PLACE"),
        ("x_api_keys", "kept"),
    ];
    let name = HeaderName::from_static("x-api-key");
    let whole = Placement::Header {
        name: name.clone(),
        format: Format::bare(),
    };
    let within = Placement::Substitute {
        placeholder: "PLACE".into(),
        slot: Slot::Header(name),
    };
    for placement in [whole, within] {
        let head = injected(placement, "/", &fields).unwrap();
        assert_eq!(header(&head, "x-api-key"), [KEY]);
        assert_eq!(header(&head, "x_api_keys"), ["kept"]);
        assert_eq!(head.headers().len(), 3, "{:?}", head.headers().keys());
    }
    // The injected name may be the one with the underscore.
    let placement = Placement::Header {
        name: HeaderName::from_static("private_token"),
        format: Format::bare(),
    };
    let head = injected(placement, "/", &[("private-token", "mine")]).unwrap();
    assert_eq!(header(&head, "private_token"), [KEY]);
    assert!(header(&head, "private-token").is_empty());
}

#[test]
fn a_placeholder_as_bearer_token_beside_the_slot_is_gone_and_a_token_of_the_agents_own_is_not() {
    const SHIPPED: &str = "sk-ant-api03-keyward-000000000000000000000000000000000000000";
    let sent = |placement, token: &str| {
        let value = format!("Bearer {token}");
        let mut head = head("/", &[("authorization", &value)]);
        let injection = injection(&[placement]);
        injection.apply(&mut head).unwrap();
        injection.drop_spare(&[SHIPPED.into()], &mut head);
        header(&head, "authorization").concat()
    };
    let in_header = || Placement::Header {
        name: HeaderName::from_static("x-api-key"),
        format: Format::bare(),
    };
    assert_eq!(sent(in_header(), SHIPPED), "");
    // No list of ours knows it: it may be the agent's own token.
    assert_eq!(
        sent(in_header(), "sk-other-keyward-00000000"),
        "Bearer sk-other-keyward-00000000"
    );
    assert_eq!(sent(in_header(), "keyward-user-7"), "Bearer keyward-user-7");
    assert_eq!(sent(Placement::Bearer, SHIPPED), format!("Bearer {KEY}"));
}

#[test]
fn several_places_at_once() {
    let places = [
        Placement::Basic { user: "bot".into() },
        Placement::Header {
            name: HeaderName::from_static("x-token"),
            format: "token {}".parse().unwrap(),
        },
    ];
    let mut head = head("/", &[]);
    injection(&places).apply(&mut head).unwrap();
    assert_eq!(
        header(&head, "authorization"),
        [format!("Basic {}", BASE64.encode(format!("bot:{KEY}")))]
    );
    assert_eq!(header(&head, "x-token"), [format!("token {KEY}")]);
}

#[test]
fn a_placeholder_becomes_the_secret_in_its_slot_alone() {
    let slot = |slot| Placement::Substitute {
        placeholder: "PLACE-HOLDER".into(),
        slot,
    };
    let in_header = || slot(Slot::Header(HeaderName::from_static("x-token")));
    let head = injected(in_header(), "/", &[("x-token", "v1 PLACE-HOLDER x")]).unwrap();
    assert_eq!(header(&head, "x-token"), [format!("v1 {KEY} x")]);
    assert_eq!(
        injected(in_header(), "/", &[("x-token", "x")]).unwrap_err(),
        Misplaced::Missing
    );
    assert_eq!(
        injected(in_header(), "/", &[]).unwrap_err(),
        Misplaced::Missing
    );
    for elsewhere in [
        ("user-agent", "PLACE-HOLDER"),
        ("referer", "https://x/PLACE%2DHOLDER"),
    ] {
        let fields = [("x-token", "PLACE-HOLDER"), elsewhere];
        assert_eq!(
            injected(in_header(), "/", &fields).unwrap_err(),
            Misplaced::Elsewhere
        );
    }
    assert_eq!(
        injected(in_header(), "/PLACE-HOLDER", &[("x-token", "PLACE-HOLDER")]).unwrap_err(),
        Misplaced::Elsewhere
    );

    let head = injected(slot(Slot::Path), "/bot-PLACE-HOLDER/send?a=b", &[]).unwrap();
    assert_eq!(
        head.path_and_query(),
        "/bot-sk-live%2F%2B%3D0123456789/send?a=b"
    );
    assert_eq!(
        injected(slot(Slot::Path), "/x?q=PLACE-HOLDER", &[]).unwrap_err(),
        Misplaced::Elsewhere
    );

    let in_query = || slot(Slot::Query("key".into()));
    let head = injected(in_query(), "/x?a=b&key=PLACE-HOLDER", &[]).unwrap();
    assert_eq!(
        head.path_and_query(),
        "/x?a=b&key=sk-live%2F%2B%3D0123456789"
    );
    assert_eq!(
        injected(in_query(), "/x?q=PLACE-HOLDER&key=PLACE-HOLDER", &[]).unwrap_err(),
        Misplaced::Elsewhere
    );
}

#[test]
fn one_named_body_field() {
    let slot = |slot| {
        injection(&[Placement::Substitute {
            placeholder: "PLACE".into(),
            slot,
        }])
    };
    let json = slot(Slot::Json("auth.token".into()));
    let edited = json
        .body()
        .unwrap()
        .apply(br#"{"a":1,"auth":{"token":"PLACE"}}"#)
        .unwrap();
    assert_eq!(
        edited,
        format!(r#"{{"a":1,"auth":{{"token":"{KEY}"}}}}"#).into_bytes()
    );
    for (body, expected) in [
        (
            r#"{"auth":{"token":"PLACE"},"note":"PLACE"}"#,
            Misplaced::Elsewhere,
        ),
        (
            r#"{"note":"PLACE","auth":{"token":"x"}}"#,
            Misplaced::Missing,
        ),
        (
            r#"{"auth":{"token":"\u0050LACE"},"PLACE":1}"#,
            Misplaced::Elsewhere,
        ),
        (r#"{"auth":"PLACE"}"#, Misplaced::Body),
        ("PLACE", Misplaced::Body),
    ] {
        assert_eq!(
            json.body().unwrap().apply(body.as_bytes()).unwrap_err(),
            expected,
            "{body}"
        );
    }
    let form = slot(Slot::Form("token".into()));
    let edited = form.body().unwrap().apply(b"a=b&token=PLACE").unwrap();
    assert_eq!(edited, b"a=b&token=sk-live%2F%2B%3D0123456789");
    assert_eq!(
        form.body()
            .unwrap()
            .apply(b"a=PL%41CE&token=PLACE")
            .unwrap_err(),
        Misplaced::Elsewhere
    );
}

#[test]
fn a_secret_that_could_break_a_header_is_unfit() {
    for bad in ["a\r\nb", "a\0b", "caf\u{e9}", "a\nb"] {
        let material = Material::Token(Arc::new(Secret::from(bad.to_owned())));
        assert_eq!(
            Injection::compile(&[Placement::Bearer], &material).unwrap_err(),
            Unfit::Characters
        );
    }
    let basic = [Placement::Basic { user: "".into() }];
    let token = Material::Token(Arc::new(Secret::from(KEY.to_owned())));
    assert_eq!(
        Injection::compile(&basic, &token).unwrap_err(),
        Unfit::NoUser
    );
}

proptest! {
    #[test]
    fn nothing_of_the_agents_stays_in_a_placed_query(query in "[a-zA-Z0-9=&;%+._-]{0,40}") {
        let mut head = head(&format!("/p?{query}"), &[]);
        injection(&[Placement::Query { name: "key".into() }]).apply(&mut head).unwrap();
        let pairs = head.query().unwrap().split('&').filter(|pair| form_decode(pair.split('=').next().unwrap()) == b"key");
        prop_assert_eq!(pairs.count(), 1);
    }
}
