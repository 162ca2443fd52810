//! The engine through its public handle, against a scripted upstream: pulls, fan-out, faults, restarts; and on a disk
//! and a metadata store that fail when the test says so.
#![expect(clippy::disallowed_methods, reason = "a test looks at the files it made")]

#[path = "../support/mod.rs"]
mod support;

mod announced;
mod aside;
mod beside;
mod boot;
mod damage;
mod disk;
mod documents;
mod durable;
mod faults;
mod house;
mod manifests;
mod metadata;
mod pulls;
mod restart;
#[allow(dead_code, reason = "each binary uses its own part")]
mod rig;
mod small_disk;
mod tasks;
mod unneeded;
