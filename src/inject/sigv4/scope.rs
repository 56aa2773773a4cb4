//! Service and region of a signature: from the file, else from the host's name, never from the agent.

/// What the file says of a signature's scope; what it leaves out is read from the host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SigningScope {
    /// The service by its signing name (`s3`, `dynamodb`).
    pub service: Option<Box<str>>,
    /// The region (`eu-central-1`).
    pub region: Option<Box<str>>,
}

impl SigningScope {
    /// Service and region for a host; `None` where neither the file nor the host's name tells both.
    pub fn settle<'a>(&'a self, host: &'a str) -> Option<(&'a str, &'a str)> {
        if let (Some(service), Some(region)) = (&self.service, &self.region) {
            return Some((service, region));
        }
        let (service, region) = of_host(host)?;
        let service = self.service.as_deref().unwrap_or(service);
        let region = self.region.as_deref().or(region)?;
        Some((service, region))
    }

    /// Whether a host's requests are signed for S3, whose keys may hold `//`.
    pub fn is_s3(&self, host: &str) -> bool {
        self.settle(host)
            .is_some_and(|(service, _)| super::is_s3(service))
    }
}

/// What Amazon's own host names say. A region that they leave open (S3 Transfer Acceleration) is `None`.
fn of_host(host: &str) -> Option<(&str, Option<&str>)> {
    let (name, home) = if let Some(name) = host.strip_suffix(".amazonaws.com.cn") {
        (name, None)
    } else if let Some(name) = host.strip_suffix(".amazonaws.com") {
        (name, Some("us-east-1"))
    } else if let Some(name) = host.strip_suffix(".api.aws") {
        (name, None)
    } else if let Some(name) = host.strip_suffix(".on.aws") {
        // `ID.lambda-url.REGION.on.aws`
        let (rest, region) = name.rsplit_once('.')?;
        let is_function = rest.rsplit('.').next() == Some("lambda-url") && is_region(region);
        return is_function.then_some(("lambda", Some(region)));
    } else {
        return None;
    };
    let name = name.strip_suffix(".vpce").unwrap_or(name);
    let mut labels = name.rsplit('.');
    let last = labels.next()?;
    if let Some(found) = s3(name, last, home) {
        return Some(found);
    }
    let before = labels.next();
    match before {
        // `REGION.es`, `REGION.aoss`: the service stands behind the region.
        Some(region) if is_region(region) && matches!(last, "es" | "aoss") => {
            Some((last, Some(region)))
        }
        Some(region) if is_region(region) && last == "queue" => Some(("sqs", Some(region))),
        Some(service) if is_region(last) => {
            let service = match service {
                "dualstack" => labels.next()?,
                other => other,
            };
            Some((signing_name(service)?, Some(last)))
        }
        // A global service (`iam`, `sts`, `route53`) is signed for its partition's home.
        None if !is_region(last) => Some((signing_name(last)?, Some(home?))),
        Some(_) | None => None,
    }
}

/// The many names of S3: buckets before it, `s3-REGION`, dual stack, FIPS, access points. Website endpoints take no
/// signature, and S3 Express one of its own kind.
fn s3<'a>(
    name: &'a str,
    last: &'a str,
    home: Option<&'static str>,
) -> Option<(&'a str, Option<&'a str>)> {
    if last == "s3" {
        return Some(("s3", Some(home?)));
    }
    if last == "s3-accelerate" || name.ends_with("s3-accelerate.dualstack") {
        return Some(("s3", None));
    }
    if let Some(region) = last.strip_prefix("s3-").filter(|rest| is_region(rest)) {
        return Some(("s3", Some(region)));
    }
    if !is_region(last) {
        return None;
    }
    let mut labels = name.rsplit('.').skip(1);
    let service = match labels.next()? {
        "dualstack" => labels.next()?,
        other => other,
    };
    match service {
        "s3"
        | "s3-fips"
        | "s3-control"
        | "s3-control-fips"
        | "s3-accesspoint"
        | "s3-accesspoint-fips" => Some(("s3", Some(last))),
        "s3-object-lambda" | "s3-object-lambda-fips" => Some(("s3-object-lambda", Some(last))),
        "s3-outposts" | "s3-outposts-fips" => Some(("s3-outposts", Some(last))),
        _ => None,
    }
}

/// `eu-central-1`, `us-gov-west-1`, `ap-southeast-2`.
fn is_region(label: &str) -> bool {
    let mut parts = label.split('-');
    let partition = parts.next().unwrap_or_default();
    let words: Vec<&str> = parts.collect();
    let Some((number, words)) = words.split_last() else {
        return false;
    };
    (2..=4).contains(&partition.len())
        && partition.bytes().all(|b| b.is_ascii_lowercase())
        && (1..=2).contains(&words.len())
        && words
            .iter()
            .all(|word| word.len() >= 2 && word.bytes().all(|b| b.is_ascii_lowercase()))
        && number.len() == 1
        && number.bytes().all(|b| b.is_ascii_digit())
}

/// The name that a service is signed by, where its endpoint is called otherwise.
fn signing_name(endpoint: &str) -> Option<&str> {
    let endpoint = endpoint.strip_suffix("-fips").unwrap_or(endpoint);
    let endpoint = endpoint.strip_prefix("fips-").unwrap_or(endpoint);
    Some(match endpoint {
        "bedrock-runtime" | "bedrock-agent" | "bedrock-agent-runtime" => "bedrock",
        "ddb" => "dynamodb",
        "email" => "ses",
        "pinpoint" => "mobiletargeting",
        "queue" => "sqs",
        "transcribestreaming" => "transcribe",
        // Their signatures are of another kind or of none, or the label is no service.
        "fips" | "vpce" | "dualstack" | "s3-website" => return None,
        name if name.starts_with("s3express") || is_region(name) => return None,
        name => name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_tell_service_and_region() {
        for (host, service, region) in [
            ("sts.amazonaws.com", "sts", "us-east-1"),
            ("iam.amazonaws.com", "iam", "us-east-1"),
            ("sts.eu-central-1.amazonaws.com", "sts", "eu-central-1"),
            ("sts-fips.us-east-1.amazonaws.com", "sts", "us-east-1"),
            ("s3.amazonaws.com", "s3", "us-east-1"),
            ("bucket.s3.amazonaws.com", "s3", "us-east-1"),
            ("s3.eu-central-1.amazonaws.com", "s3", "eu-central-1"),
            ("a.b.s3.eu-central-1.amazonaws.com", "s3", "eu-central-1"),
            ("s3-eu-west-1.amazonaws.com", "s3", "eu-west-1"),
            ("bucket.s3-eu-west-1.amazonaws.com", "s3", "eu-west-1"),
            ("s3.dualstack.us-west-2.amazonaws.com", "s3", "us-west-2"),
            ("b.s3.dualstack.us-west-2.amazonaws.com", "s3", "us-west-2"),
            (
                "b.s3-fips.dualstack.us-gov-west-1.amazonaws.com",
                "s3",
                "us-gov-west-1",
            ),
            (
                "p-123.s3-accesspoint.eu-west-1.amazonaws.com",
                "s3",
                "eu-west-1",
            ),
            ("s3.cn-north-1.amazonaws.com.cn", "s3", "cn-north-1"),
            ("b.s3.cn-north-1.amazonaws.com.cn", "s3", "cn-north-1"),
            (
                "dynamodb.ap-southeast-2.amazonaws.com",
                "dynamodb",
                "ap-southeast-2",
            ),
            ("123.ddb.us-east-1.amazonaws.com", "dynamodb", "us-east-1"),
            (
                "bedrock-runtime.us-east-1.amazonaws.com",
                "bedrock",
                "us-east-1",
            ),
            (
                "abc.execute-api.eu-west-1.amazonaws.com",
                "execute-api",
                "eu-west-1",
            ),
            ("search-x.eu-west-1.es.amazonaws.com", "es", "eu-west-1"),
            ("ec2.eu-west-1.api.aws", "ec2", "eu-west-1"),
            ("vpce-1.s3.us-east-1.vpce.amazonaws.com", "s3", "us-east-1"),
            ("id.lambda-url.eu-west-1.on.aws", "lambda", "eu-west-1"),
        ] {
            let scope = SigningScope::default();
            assert_eq!(scope.settle(host), Some((service, region)), "{host}");
        }
    }

    #[test]
    fn what_no_name_tells_is_not_guessed() {
        for host in [
            "example.com",
            "s3.eu-central-1.amazonaws.com.evil.example",
            "amazonaws.com",
            "evilamazonaws.com",
            "s3.amazonaws.com.cn",
            "b.s3-accelerate.amazonaws.com",
            "b--use1-az4--x-s3.s3express-use1-az4.us-east-1.amazonaws.com",
            "b.s3-website.eu-central-1.amazonaws.com",
            "eu-central-1.amazonaws.com",
            "a.b.amazonaws.com",
            "127.0.0.1",
        ] {
            assert_eq!(SigningScope::default().settle(host), None, "{host}");
        }
    }

    #[test]
    fn the_file_goes_before_the_host() {
        let scope = SigningScope {
            service: Some("s3".into()),
            region: Some("eu-west-3".into()),
        };
        assert_eq!(scope.settle("minio.example"), Some(("s3", "eu-west-3")));
        let region = SigningScope {
            service: None,
            region: Some("eu-west-3".into()),
        };
        let fast = "b.s3-accelerate.amazonaws.com";
        assert_eq!(region.settle(fast), Some(("s3", "eu-west-3")));
        assert_eq!(region.settle("minio.example"), None);
    }
}
