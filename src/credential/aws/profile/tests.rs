//! What a profile leads to, and what leads nowhere.

use super::*;

/// The plan of a profile (the default one where none is named) of these two files, by their folder.
fn plan(
    folder: &Path,
    name: Option<&str>,
    credentials: &str,
    config: &str,
) -> Result<Option<Plan>, String> {
    let aws = folder.join(".aws");
    std::fs::create_dir_all(&aws).unwrap();
    std::fs::write(aws.join("credentials"), credentials).unwrap();
    std::fs::write(aws.join("config"), config).unwrap();
    let env = |variable: &str| match variable {
        "HOME" => Some(folder.to_str().unwrap().to_owned()),
        "AWS_PROFILE" => name.map(str::to_owned),
        _ => None,
    };
    let plan = Profile::of(&env).plan();
    plan.map_err(|bad| bad.to_string().replace(aws.to_str().unwrap(), "~"))
}

fn base(name: &str, config: &str) -> Base {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(folder.path(), Some(name), "", config)
        .unwrap()
        .unwrap();
    assert!(plan.roles.is_empty());
    plan.base
}

#[test]
fn one_profile_is_read_and_nothing_of_another() {
    let text = "[default]\naws_access_key_id = A\n[profile two]\n# aws_access_key_id = X\n\
        aws_access_key_id=B\ns3 =\n  aws_secret_access_key = nested\naws_secret_access_key = k=v\n[other]\naws_session_token = T\n";
    let Base::Keys(Shared(keys)) = base("two", text) else {
        panic!("no keys");
    };
    assert_eq!(&*keys.id, "B");
    assert!(keys.secret.equals(b"k=v") && keys.token.is_none());
    let folder = tempfile::tempdir().unwrap();
    // Half a pair of keys is none.
    assert_eq!(plan(folder.path(), None, "", text), Ok(None));
    assert_eq!(plan(folder.path(), None, "", ""), Ok(None));
    let missing = plan(folder.path(), Some("none"), "", text).unwrap_err();
    assert_eq!(
        missing,
        "~/credentials, ~/config: no profile is called \"none\" (AWS_PROFILE)"
    );
    // Of one name in both files, the first file's values stand.
    let first = "[two]\naws_access_key_id = FIRST\n";
    let plan = plan(folder.path(), Some("two"), first, text)
        .unwrap()
        .unwrap();
    assert!(matches!(plan.base, Base::Keys(keys) if &*keys.0.id == "FIRST"));
}

#[test]
fn a_profile_leads_to_each_kind_of_source() {
    let process = base(
        "p",
        "[profile p]\ncredential_process = /bin/keys --for \"a b\"\n",
    );
    assert_eq!(
        process,
        Base::Process(vec!["/bin/keys".into(), "--for".into(), "a b".into()])
    );
    let web = base(
        "p",
        "[profile p]\nrole_arn = arn:r\nweb_identity_token_file = /run/token\n",
    );
    assert_eq!(
        web,
        Base::WebIdentity {
            role: "arn:r".into(),
            file: "/run/token".into()
        }
    );
    let account = "sso_account_id = 123456789012\nsso_role_name = Reader\n";
    let session = format!(
        "[profile p]\nsso_session = corp\n{account}[sso-session corp]\nsso_region = eu-west-1\nsso_start_url = https://x/start\n"
    );
    let old =
        format!("[profile p]\nsso_start_url = https://x/start\nsso_region = eu-west-1\n{account}");
    for (text, filed) in [(session, "corp"), (old, "https://x/start")] {
        let sso = Sso {
            filed: filed.into(),
            region: "eu-west-1".into(),
            account: "123456789012".into(),
            role: "Reader".into(),
        };
        assert_eq!(base("p", &text), Base::Sso(sso));
    }
}

#[test]
fn roles_are_assumed_in_the_order_in_which_they_stand_on_each_other() {
    let config = "[profile top]\nrole_arn = arn:top\nsource_profile = middle\nexternal_id = x\nduration_seconds = 900\n\
        [profile middle]\nrole_arn = arn:middle\nsource_profile = keys\nrole_session_name = s\n\
        [profile own]\nrole_arn = arn:own\nsource_profile = own\naws_access_key_id = C\naws_secret_access_key = d\n\
        [profile machine]\nrole_arn = arn:machine\ncredential_source = Ec2InstanceMetadata\n";
    // A profile below has its own keys: its role is not assumed.
    let credentials = "[keys]\naws_access_key_id = A\naws_secret_access_key = b\nrole_arn = arn:not\nsource_profile = none\n";
    let folder = tempfile::tempdir().unwrap();
    let plan = |name| {
        plan(folder.path(), Some(name), credentials, config)
            .unwrap()
            .unwrap()
    };
    let names =
        |plan: &Plan| -> Vec<String> { plan.roles.iter().map(|step| step.role.clone()).collect() };
    let top = plan("top");
    assert_eq!(names(&top), ["arn:middle", "arn:top"]);
    assert!(matches!(&top.base, Base::Keys(keys) if &*keys.0.id == "A"));
    assert_eq!(top.roles[0].session.as_deref(), Some("s"));
    assert_eq!(top.roles[1].external_id.as_deref(), Some("x"));
    assert_eq!(top.roles[1].duration, Some(Duration::from_mins(15)));
    let own = plan("own");
    assert!(matches!(&own.base, Base::Keys(keys) if &*keys.0.id == "C"));
    assert_eq!(names(&own), ["arn:own"]);
    let machine = plan("machine");
    assert_eq!(
        (&machine.base, names(&machine).len()),
        (&Base::Of(Place::Instance), 1)
    );
}

#[test]
fn what_leads_nowhere_is_told_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let role = "[profile a]\nrole_arn = arn:a\n";
    for (text, told) in [
        (
            "[profile a]\nrole_arn = arn:a\nsource_profile = b\n[profile b]\nrole_arn = arn:b\n\nsource_profile = c\n[profile c]\nrole_arn = arn:c\nsource_profile = b\n".to_owned(),
            "~/config:10: source_profile makes a circle: a → b → c → b",
        ),
        (
            format!("{role}source_profile = b\n[profile b]\nrole_arn = arn:b\nsource_profile = a\n"),
            "~/config:6: source_profile makes a circle: a → b → a",
        ),
        (
            format!("{role}source_profile = a\n"),
            "~/config:3: source_profile names its own profile, which has no keys",
        ),
        (
            format!("{role}source_profile = b\n"),
            "~/config:3: the profile \"b\" gives no keys",
        ),
        (
            role.to_owned(),
            "~/config:2: role_arn needs source_profile, credential_source or web_identity_token_file",
        ),
        (
            format!("{role}source_profile = b\ncredential_source = Environment\n"),
            "~/config:4: source_profile and credential_source exclude each other",
        ),
        (
            format!("{role}credential_source = Moon\n"),
            "~/config:3: credential_source is Environment, EcsContainer or Ec2InstanceMetadata",
        ),
        (
            format!("{role}mfa_serial = arn:mfa\nsource_profile = b\n"),
            "~/config:3: mfa_serial asks for a person, and nobody is there",
        ),
        (
            format!("{role}credential_source = Environment\nduration_seconds = 60\n"),
            "~/config:4: duration_seconds is 900 to 43200",
        ),
        (
            "[profile a]\nsso_session = corp\n".to_owned(),
            "~/config:2: there is no [sso-session corp]",
        ),
        (
            "[profile a]\nsso_session = corp\n[sso-session corp]\nsso_region = r\n".to_owned(),
            "~/config:2: a login by SSO needs sso_account_id",
        ),
        (
            "[profile a]\ncredential_process = \"/bin/x\n".to_owned(),
            "~/config:2: credential_process has a quote that does not end",
        ),
        (
            "[profile a]\naws_access_key_id = a b\naws_secret_access_key = hush\n".to_owned(),
            "~/config:2: aws_access_key_id is not the id of a key",
        ),
    ] {
        let said = plan(folder.path(), Some("a"), "", &text).unwrap_err();
        assert_eq!(said, told, "{text}");
    }
}
