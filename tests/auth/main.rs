//! Who may do what, through the real server on a loopback port: users, roles, tokens, and what clients send.

#![allow(clippy::disallowed_methods, reason = "a server under test is a task of its own, and has files")]

#[path = "../support/mod.rs"]
mod support;

mod bad;
mod client;
mod clients;
mod house;
mod manage;
mod pushes;
mod rules;
mod start;
mod tokens;
