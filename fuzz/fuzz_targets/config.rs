//! A configuration file: no text makes the reader panic, and every fault says where it is.
#![no_main]

use std::path::Path;

use keyward::config;
use keyward::preset::Presets;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let presets = Presets::shipped();
    if let Err(report) = config::parse(text, "keyward.toml", Path::new("/"), &**presets) {
        assert!(!report.is_empty(), "refused without a fault");
        let shown = report.to_string();
        assert!(shown.contains("keyward.toml:"), "{shown}");
    }
});
