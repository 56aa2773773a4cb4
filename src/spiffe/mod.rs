//! SPIFFE's words: an ID, what makes a certificate an X.509-SVID, and which IDs the other side of a call may have.
//!
//! Nothing here is fetched or verified: a chain is held to a trust domain's bundle in `tls` and `identity`.

mod id;
mod peers;
mod svid;

pub use id::{SpiffeId, is_domain};
pub use peers::{BadPeer, PeerId, Peers};
pub use svid::{NoSvid, Svid, is_leaf, uris};
