//! The data plane seen from outside: real sockets, real TLS, a canary for every secret.
//!
//! `harness` starts keyward in this process, an upstream and an agent; every byte that the agent receives, the audit
//! trail and the metrics are searched for the canaries when a test ends. `docs/attacks.md` says which attack is tried
//! by which test.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::large_futures,
    clippy::format_push_string,
    clippy::format_collect,
    clippy::bool_to_int_with_if,
    clippy::explicit_write,
    missing_docs,
    unreachable_pub,
    reason = "a test may panic, and spawns and sleeps as its peers would"
)]

mod agent;
mod answers;
mod broker;
mod canary;
mod channel;
mod daemon;
mod h2raw;
mod harness;
#[path = "../../src/store/tests/server.rs"]
mod server;
mod signatures;
mod svid;
mod upstream;

mod admin;
mod approval;
mod approval_attacks;
mod approval_request;
mod attacks;
mod aws;
mod base_url;
mod delegation;
mod delegation_attacks;
mod kept;
mod leak;
mod lifecycle;
mod login;
mod mesh;
mod oauth;
mod outside;
mod placement;
mod plugin;
mod process;
mod protocol;
mod relay;
mod replicas;
mod rest;
mod rules;
mod session;
mod session_admin;
mod session_store;
mod slices;
mod token;
mod tokens;
mod trust;
mod upgrades;
mod vault;
mod vault_certificate;
mod vault_faults;
mod vault_server;
