//! The engine through its public handle, against a scripted upstream: pulls, fan-out, faults, restarts.

#![expect(clippy::disallowed_methods, reason = "a test looks at the files it made")]

#[path = "../support/mod.rs"]
mod support;

mod faults;
mod house;
mod manifests;
mod pulls;
mod restart;
