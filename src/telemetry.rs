//! Placeholder until the room is built.

/// Counters and gauges.
pub struct Metrics {}
