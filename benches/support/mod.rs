//! What the benches share: servers to compare with, load, and how figures are taken and shown.
#![allow(dead_code, reason = "each bench uses its own part")]
#![allow(clippy::disallowed_methods, reason = "a bench measures real time, and starts real processes")]

pub mod bare;
pub mod figures;
pub mod load;
pub mod nginx;
pub mod process;
pub mod pusher;
pub mod registry;
#[path = "../../tests/support/mod.rs"]
pub mod scripted;
