//! The server as a whole through what the outside sees of it: requests, commands, signals, log lines, metrics.
//! In front of a scripted upstream, on loopback, on ports that the system chose.
#![expect(
    clippy::disallowed_methods,
    reason = "tests look at files, and their clients are tasks of their own"
)]

#[path = "../support/mod.rs"]
mod support;

mod addressing;
mod backups;
mod bad_input;
mod client;
mod commands;
mod configured;
mod credentials;
mod environment;
mod house;
mod images;
mod known;
mod lifecycle;
mod listings;
mod management;
mod process;
mod pulls;
mod recovery;
mod rules;
mod secrets;
mod seen;
mod settings;
mod snapshots;
mod terminal;
mod timeouts;
mod trouble;
mod upkeep;
mod verdicts;
mod who_manages;
mod windows;
