//! (placeholder: the cli room is being written)
