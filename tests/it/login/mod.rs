//! People who sign in: against the certified OpenID provider where it is installed, and against one that lies.

pub mod browser;
mod command;
mod console;
mod gateway;
mod liar;
mod rotation;
