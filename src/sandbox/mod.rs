//! (placeholder: the sandbox room is being written)
