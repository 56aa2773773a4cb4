//! (placeholder: the config room is being written)
