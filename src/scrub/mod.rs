//! Taking secrets out of answers. (placeholder: the scrub room is being written)
