//! binaryrepo: a binary repository manager.

pub mod api;
pub mod cache;
pub mod clock;
pub mod config;
pub mod docker;
pub mod engine;
pub mod form;
pub mod http;
pub mod meta;
pub mod names;
pub mod reply;
mod start;
pub mod store;
pub mod telemetry;
pub mod text;
pub mod upstream;

pub use start::{StartError, Started, StartedRepository, offline, serve};
