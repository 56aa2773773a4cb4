//! Path patterns: reading one and matching with it ends, and `/**` matches every path.
#![no_main]

use keyward::route::PathPattern;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|texts: (&str, &str)| {
    let (pattern, path) = texts;
    let Ok(pattern) = pattern.parse::<PathPattern>() else {
        return;
    };
    assert_eq!(pattern.as_str().parse(), Ok(pattern.clone()));
    let matched = pattern.matches(path);
    if matched {
        assert!(path.starts_with('/'), "{pattern} matches {path:?}");
    } else if path.starts_with('/') {
        assert!(
            !pattern.is_everything(),
            "{pattern} does not match {path:?}"
        );
    }
});
