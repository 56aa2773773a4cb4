//! The authority of a CONNECT: whatever is taken has one spelling, and that spelling is what was written.
#![no_main]

use keyward::host::Target;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(target) = Target::from_connect(text) {
        let shown = target.to_string();
        assert_eq!(
            Target::from_connect(&shown).as_ref(),
            Ok(&target),
            "{text:?} shows as {shown:?}"
        );
        // A name that resolvers read as an address has only its plain spelling.
        assert!(!text.contains(['@', '/', '%', '\0', ' ']), "{text:?}");
    }
});
