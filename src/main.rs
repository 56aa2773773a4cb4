//! The `keyward` program; everything is in the library.
fn main() {}
