//! keyward: a credential-injecting HTTPS egress proxy for AI agents.
//!
//! The agent gets `HTTPS_PROXY` and nothing else. keyward proves who the agent is, decides by policy whether this
//! call may happen, leases a credential, puts it in the request over TLS that it terminates with its own leaf, scrubs
//! the answer, and records everything.
//!
//! **The map.** The rooms stand in blocks. A room imports only from blocks above its own; rooms of one block do not
//! know each other. `tests/tidy.rs` reads this order and holds the code to it.

// block 1: words (no I/O)
pub mod agent;
pub mod clock;
pub mod host;
pub mod secret;
pub mod spiffe;
pub mod syscall;

// block 2a: pure decisions
pub mod delegation;
pub mod head;

// block 2b: what is put in, what is taken out
pub mod inject;
pub mod scrub;

// block 2c: which request goes where
pub mod route;

// block 2d: services as data
pub mod preset;

// block 3: the decision
pub mod policy;

// block 4a: ports that stand alone (the trait in `mod.rs`, an adapter a file)
pub mod audit;
pub mod process;
pub mod tls;

// block 4b: HTTPS towards issuers
pub mod issuer;

// block 4c: ports that call issuers
pub mod approval;
pub mod credential;
pub mod identity;
pub mod session;

// block 4d: signing people in
pub mod login;

// block 5: adapters of stores
pub mod store;

// block 6: the data path
pub mod proxy;

// block 7: edges
pub mod admin;
pub mod config;
pub mod relay;
pub mod sandbox;
pub mod telemetry;

// block 8: assembly
pub mod app;

// block 9: the command line
pub mod cli;
