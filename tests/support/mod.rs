//! What several test binaries, benches and the demonstration share.
#![allow(dead_code, reason = "each binary uses its own part")]
#![allow(clippy::disallowed_methods, reason = "a test's upstream is a process of its own, in effect")]

pub mod body;
pub mod demonstration;
pub mod effects;
pub mod fault;
pub mod image;
pub mod metrics;
pub mod patience;
pub mod proxy;
pub mod server;
pub mod shelf;
pub mod tls;
pub mod upstream;
