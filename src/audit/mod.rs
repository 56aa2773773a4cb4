//! The audit trail: one JSON object a line, hash-chained, written ahead of every use of a credential.
//!
//! (placeholder: the audit room is being written)

use std::path::PathBuf;

/// `[audit]`, resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Where records go.
    pub sink: Sink,
    /// What an intent survives.
    pub durability: Durability,
    /// The size in bytes past which the file is rotated.
    pub rotate_at: u64,
    /// How many rotated files are kept; 0 keeps all.
    pub keep: usize,
}

/// Where records go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sink {
    /// Standard output.
    Stdout,
    /// A file, appended to; rotated by size.
    File(PathBuf),
    /// Nowhere but memory: `demo` and tests read it back.
    Memory,
}

/// What a record survives once written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// A kill of keyward: the bytes are with the kernel.
    #[default]
    Os,
    /// A power cut: group commit (`fdatasync`) before the request leaves.
    Disk,
}
