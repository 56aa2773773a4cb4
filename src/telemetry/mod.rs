//! (placeholder: the telemetry room is being written)
