//! (placeholder: the cli room is being written)

pub mod audit;
pub mod preset;
