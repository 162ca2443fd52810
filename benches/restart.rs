//! Ready after a restart with a million blobs: how soon requests are answered, and how soon all that lies here is
//! known, so that something may be evicted. After an orderly stop, and after a kill.
//!
//! `RESTART_BLOBS=10000` makes it small.

#![expect(
    clippy::disallowed_methods,
    reason = "a bench measures real time, and writes the files that it serves"
)]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use binaryrepo::meta::{Batch, CopyRow, Durability, Meta, Options, RedbMeta};
use binaryrepo::names::{Algorithm, Digest};
use binaryrepo::store::FsStore;
use support::figures::{Bound, Figure, Verdicts};
use support::process::memory;
use support::scripted::server::Server;
use tempfile::TempDir;

const ROUNDS: usize = 3;
const ROWS: u64 = 10_000;
const MIB: f64 = (1 << 20) as f64;

/// Of one start.
#[derive(Default)]
struct Figures {
    ready: Figure,
    known: Figure,
    resident: Figure,
}

fn main() -> ExitCode {
    let blobs = std::env::var("RESTART_BLOBS").map_or(1_000_000, |text| text.parse().unwrap());
    let started = Instant::now();
    let mut dir = tempfile::tempdir().unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(fill(dir.path(), blobs));
    println!("{blobs} blobs of 64 bytes made in {:.0} s", started.elapsed().as_secs_f64());
    let (mut clean, mut killed) = (Figures::default(), Figures::default());
    for _ in 0..ROUNDS {
        dir = measure(dir, blobs, &mut clean).kill();
        dir = measure(dir, blobs, &mut killed).stop_and_keep();
    }
    let mut verdicts = Verdicts::default();
    for (how, figures) in [("an orderly stop", clean), ("a kill", killed)] {
        println!("\nafter {how}:");
        verdicts.judge("first request answered, seconds", &figures.ready, Bound::AtMost(5.0));
        verdicts.judge("all blobs known, seconds", &figures.known, Bound::AtMost(60.0));
        verdicts.judge("resident MiB then", &figures.resident, Bound::AtMost(1024.0));
    }
    verdicts.end()
}

/// Files and rows as an orderly stop would have left them.
async fn fill(dir: &Path, blobs: u64) {
    FsStore::open(dir).unwrap();
    let (meta, opened) = RedbMeta::open(&dir.join("meta.redb"), Options::default()).unwrap();
    for first in (0..blobs).step_by(ROWS as usize) {
        let mut batch = Batch::new(Durability::Relaxed);
        for number in first..blobs.min(first + ROWS) {
            let digest = Digest::of(Algorithm::Sha256, &number.to_be_bytes());
            let hex = digest.hex().to_string();
            std::fs::write(dir.join("cas/sha256").join(&hex[..2]).join(&hex), [0; 64]).unwrap();
            let row =
                CopyRow { size: 64, durable: false, epoch: opened.epoch, last_used_ms: number, upstream: 1 };
            batch.put(&digest, &row);
        }
        meta.apply(batch).await.unwrap();
    }
    meta.close().await.unwrap();
}

fn measure(dir: TempDir, blobs: u64, figures: &mut Figures) -> Server {
    let started = Instant::now();
    let server = Server::start_in(dir, |command| {
        command.args(["--set", "storage.min_free=0"]);
    });
    assert!(get(&server.address, "/readyz").starts_with("HTTP/1.1 200"));
    figures.ready.push(started.elapsed().as_secs_f64());
    let all = format!("\"blobs\":{blobs},");
    while !get(&server.address, "/api/status").replace(' ', "").contains(&all) {
        assert!(started.elapsed() < Duration::from_secs(600), "{}", get(&server.address, "/api/status"));
        std::thread::sleep(Duration::from_millis(50));
    }
    figures.known.push(started.elapsed().as_secs_f64());
    figures.resident.push(memory(server.pid()).resident as f64 / MIB);
    server
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let host = format!("localhost:{}", address.rsplit_once(':').unwrap().1);
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
