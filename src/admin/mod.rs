//! (placeholder: the admin room is being written)
