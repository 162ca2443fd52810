//! The engine through its public handle, against a scripted upstream: pulls, fan-out, faults, restarts.

#[path = "../support/mod.rs"]
mod support;

mod faults;
mod house;
mod manifests;
mod pulls;
mod restart;
