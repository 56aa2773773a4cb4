//! The data path.

mod settings;

pub use settings::{Identify, Limits, ListenAddr, ListenerSettings, Unmatched, UpstreamSettings};
