//! Hostile input: raw bytes over TCP to the real binary, directly and through nginx with the configuration of this
//! repository, and the table of docs/hostile.md held against the tests that it names.
//!
//! What goes through nginx needs nginx, so it is ignored here and run by `make e2e`, where a missing nginx is a failure.
#![expect(clippy::disallowed_methods, reason = "these tests look at files, and start processes")]

#[allow(dead_code, reason = "each binary uses its own part")]
#[path = "../server/client.rs"]
mod client;
#[allow(dead_code, reason = "each binary uses its own part")]
#[path = "../server/process.rs"]
mod process;

#[path = "../support/mod.rs"]
mod support;

mod attack;
mod mapped;
mod nginx;
mod proxied;
mod slow;
mod table;
mod vectors;

use std::net::SocketAddr;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use client::Ask;
use process::Process;

/// In every request, wherever a secret can stand. Must be found in nothing that is written down or shown.
pub const CANARY: &str = "canary-5d1f";

#[tokio::test(flavor = "multi_thread")]
async fn nothing_hostile_is_answered_with_more_than_a_refusal() {
    let scene = Scene::start();
    attack::all(scene.server.address).await;
    scene.find_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nginx: `make e2e` runs it"]
async fn nor_through_nginx() {
    let scene = Scene::start();
    let nginx = nginx::Nginx::start(scene.server.address);
    attack::all(nginx.address).await;
    nginx.keeps_claims_out().await;
    drop(nginx);
    scene.find_unharmed().await;
}

/// A server that trusts the proxy at 127.0.0.2.
struct Scene {
    server: Process,
    _data: TempDir,
}

impl Scene {
    fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        let flags = ["--log-level", "debug", "--open-access", "--set", "server.trusted_proxies=127.0.0.2/32"];
        Self { server: Process::start(&data, &flags), _data: data }
    }

    /// Its repositories are there, its log is whole lines of JSON, nothing panicked, and no secret was said.
    async fn find_unharmed(mut self) {
        let address = self.server.address;
        for name in ["docker-local", "docker-remote"] {
            assert_eq!(get(address, &format!("/api/repository/{name}")).await.0, 200, "{name}");
        }
        let (status, metrics) = get(address, "/metrics").await;
        assert_eq!(status, 200);
        self.server.signal(Signal::TERM);
        assert_eq!(self.server.wait(), 0);
        let log = self.server.log();
        assert!(log.len() > vectors::all().len() / 2, "hardly anything was logged");
        for line in &log {
            let entry: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
            assert!(!line.contains("panicked"), "{line}");
            assert!(entry["status"].as_u64().is_none_or(|status| status < 500), "{line}");
        }
        let said = log.iter().chain([&metrics]);
        let told: Vec<_> = said.filter(|text| text.contains(CANARY)).collect();
        assert!(told.is_empty(), "{} texts hold the secret, the first:\n{}", told.len(), told[0]);
    }
}

async fn get(address: SocketAddr, target: &str) -> (u16, String) {
    let answer = Ask::get(target).send(address).await;
    (answer.status, answer.all())
}
