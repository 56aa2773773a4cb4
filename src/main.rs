//! The `keyward` program; everything is in the library.
use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = keyward::sandbox::helper_main() {
        return code;
    }
    ExitCode::SUCCESS
}
