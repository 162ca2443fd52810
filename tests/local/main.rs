//! Local repositories from the outside: uploads, manifests, mounts, lists, deletions, and what a SIGKILL leaves.
//! The server runs within the test, or as a process of its own where it must die.
#![expect(
    clippy::disallowed_methods,
    reason = "tests look at files, and their clients are tasks of their own"
)]

#[path = "../support/mod.rs"]
mod support;

#[path = "../server/client.rs"]
#[allow(dead_code, reason = "each binary uses its own part")]
mod client;
#[path = "../server/house.rs"]
#[allow(dead_code, reason = "each binary uses its own part")]
mod house;
#[path = "../server/process.rs"]
#[allow(dead_code, reason = "each binary uses its own part")]
mod process;
#[path = "../engine/rig.rs"]
#[allow(dead_code, reason = "each binary uses its own part")]
mod rig;

#[path = "../hostile/vectors.rs"]
#[allow(dead_code, reason = "each binary uses its own part")]
mod vectors;

mod bad_input;
mod cached;
mod deletions;
mod disk;
mod kill;
mod lists;
mod manifests;
mod mounts;
mod pusher;
mod sessions;
mod sparse;
mod uploads;
mod workshop;

/// Stands for the secrets in hostile requests.
const CANARY: &str = "canary";
