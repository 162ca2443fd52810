//! Cleanup and scrubs through the engine's public handle: what goes, what stays, and that nothing which somebody may
//! still need is lost, whatever happens at the same time.
#![expect(clippy::disallowed_methods, reason = "a test looks at the files it made")]

mod collect;
mod histories;
mod model;
mod scrub;
mod sparse;
#[path = "../support/mod.rs"]
mod support;
mod yard;
