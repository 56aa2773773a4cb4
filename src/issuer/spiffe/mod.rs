//! What SPIFFE publishes: the bundle of a trust domain from a file, an endpoint or the Workload API, and the SVIDs that
//! the Workload API issues to this process.

mod bundle;
pub mod workload;

pub use bundle::{BundlePlace, Published, Site};
