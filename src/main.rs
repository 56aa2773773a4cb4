//! The `keyward` program; everything is in the library.

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::Arc;

/// The data path asks for small pieces from many threads, which the system's allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    if let Some(code) = keyward::sandbox::helper_main() {
        return code;
    }
    // Read once, here: whatever needs a variable is handed this.
    let environment: HashMap<_, _> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .collect();
    keyward::cli::main(Arc::new(environment))
}
