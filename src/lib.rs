//! binaryrepo: a binary repository manager.

pub mod cache;
pub mod clock;
pub mod docker;
pub mod engine;
pub mod http;
pub mod names;
pub mod reply;
pub mod store;
pub mod telemetry;
