//! Whether Java trusts the CA: it reads none of the variables, and has a store of its own.

use std::ffi::OsString;

use super::Finding;
use super::runtimes::{CHECK, said};

/// Looks for one of our roots, by its fingerprint, in the store that `java` of this shell would use; nothing where there
/// is no Java.
pub(super) async fn look(
    told: &[(String, OsString)],
    (roots, shown): (&[String], &str),
) -> Option<Finding> {
    let options = told.iter().find(|(name, _)| name == "JAVA_TOOL_OPTIONS");
    let options = options.and_then(|(_, value)| value.to_str()).unwrap_or("");
    let option = |name: &str| {
        let value = |word: &str| {
            let rest = word.strip_prefix("-Djavax.net.ssl.")?.strip_prefix(name)?;
            rest.strip_prefix('=').map(str::to_owned)
        };
        options.split_whitespace().find_map(value)
    };
    let password = option("trustStorePassword").unwrap_or_else(|| "changeit".to_owned());
    let mut args: Vec<String> = ["-list", "-v", "-storepass", &password]
        .map(str::to_owned)
        .into();
    match option("trustStore") {
        Some(store) => args.extend(["-keystore".to_owned(), store]),
        None => args.push("-cacerts".to_owned()),
    }
    let list = said("keytool", &args, told).await?;
    let trusted = roots.iter().any(|root| list.contains(root.as_str()));
    Some(if trusted {
        Finding::ok(CHECK, "Java trusts the CA")
    } else {
        let message = "Java does not trust the CA: it reads none of these variables";
        let help = format!(
            "keytool -importcert -noprompt -alias keyward -file {shown} -keystore keyward.p12 -storetype PKCS12 -storepass changeit; \
             JAVA_TOOL_OPTIONS=\"-Djavax.net.ssl.trustStore=keyward.p12 -Djavax.net.ssl.trustStorePassword=changeit -Dhttps.proxyHost=… -Dhttps.proxyPort=…\""
        );
        Finding::warn(CHECK, message, help)
    })
}
