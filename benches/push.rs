//! Pushes: one large blob, beside what SHA-256 and the disk can do; and small images from 64 clients at once. What we
//! have acknowledged is durable; docker-registry, beside us, syncs nothing.

#![expect(clippy::disallowed_methods, reason = "a bench measures real time, and starts real processes")]

mod support;

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use support::figures::{Bound, Figure, ROUNDS, Verdicts};
use support::load;
use support::pusher::Pusher;
use support::registry::DockerRegistry;
use support::scripted::image::{Content, Image};
use support::scripted::server::Server;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

const SIZE: usize = 256 << 20;
const CLIENTS: u64 = 64;
const SPAN: Duration = Duration::from_secs(3);
/// What a small image's only layer weighs.
const LAYER: usize = 10_000;

fn main() -> ExitCode {
    let runtime = Runtime::new().unwrap();
    let server = Server::start(|_| {});
    let other = DockerRegistry::start();
    if other.is_none() {
        println!("docker-registry is not installed: the comparison with it is left out");
    }
    let other = other.as_ref().map(|registry| registry.address.as_str());
    let mut verdicts = Verdicts::default();
    large(&runtime, &server, other, &mut verdicts);
    small(&runtime, &server, other, &mut verdicts);
    verdicts.end()
}

fn large(runtime: &Runtime, server: &Server, other: Option<&str>, verdicts: &mut Verdicts) {
    let (mut hash, mut disk, mut ours, mut theirs) = <(Figure, Figure, Figure, Figure)>::default();
    let mut of_slower = Figure::default();
    for round in 0..ROUNDS as u64 {
        let content = Content::random(round, SIZE);
        let bound = megabytes_per_second(|| {
            std::hint::black_box(Sha256::digest(&content.bytes));
        });
        let written = megabytes_per_second(|| dd(server.dir.path()));
        let pushed = megabytes_per_second(|| push(runtime, &server.address, "docker-local/big", &content));
        hash.push(bound);
        disk.push(written);
        ours.push(pushed);
        of_slower.push(pushed / bound.min(written));
        if let Some(address) = other {
            theirs.push(megabytes_per_second(|| push(runtime, address, "big", &content)));
        }
    }
    println!("\none blob of {SIZE} bytes, pushed by POST and PUT, MB/s");
    println!("  SHA-256, one thread   {hash:.0}");
    println!("  dd conv=fdatasync     {disk:.0}");
    println!("  binaryrepo, durable   {ours:.0}");
    if other.is_some() {
        println!("  docker-registry       {theirs:.0}");
    }
    verdicts.judge("durable push, of the slower of SHA-256 and disk", &of_slower, Bound::AtLeast(0.8));
}

fn megabytes_per_second(work: impl FnOnce()) -> f64 {
    let began = Instant::now();
    work();
    SIZE as f64 / 1e6 / began.elapsed().as_secs_f64()
}

fn dd(dir: &Path) {
    let file = dir.join("dd");
    let mut dd = Command::new("dd");
    dd.args(["if=/dev/zero", "bs=1M", "conv=fdatasync"]).arg(format!("count={}", SIZE >> 20));
    dd.arg(format!("of={}", file.display())).stderr(Stdio::null());
    assert!(dd.status().unwrap().success());
    std::fs::remove_file(file).unwrap();
}

fn push(runtime: &Runtime, address: &str, name: &str, content: &Content) {
    runtime.block_on(async { Pusher::connect(address).await.blob(name, content).await });
}

/// A registry, and what it took.
#[derive(Default)]
struct Taken {
    per_second: Figure,
    p99_ms: Figure,
}

impl Taken {
    /// How many images it took in one round.
    fn round(&mut self, runtime: &Runtime, address: &str, prefix: &str, round: u64) -> f64 {
        let began = Instant::now();
        let mut times = runtime.block_on(small_images(address, prefix, round));
        let seconds = began.elapsed().as_secs_f64();
        times.sort();
        self.per_second.push(times.len() as f64 / seconds);
        self.p99_ms.push(times[times.len() * 99 / 100].as_secs_f64() * 1e3);
        times.len() as f64
    }
}

fn small(runtime: &Runtime, server: &Server, other: Option<&str>, verdicts: &mut Verdicts) {
    let (mut ours, mut theirs, mut commits) = <(Taken, Taken, Figure)>::default();
    for round in 0..ROUNDS as u64 {
        let before = committed(runtime, server);
        let images = ours.round(runtime, &server.address, "docker-local/small", round);
        commits.push((committed(runtime, server) - before) / images);
        if let Some(address) = other {
            theirs.round(runtime, address, "small", round);
        }
    }
    println!("\nimages of one small layer, {CLIENTS} clients at once");
    let show = |name: &str, taken: &Taken| {
        println!("  {name:<18} {:.0} images a second, p99 {:.0} ms", taken.per_second, taken.p99_ms);
    };
    show("binaryrepo", &ours);
    if other.is_some() {
        show("docker-registry", &theirs);
    }
    // Two blobs and a manifest: three promises, each durable, that would be three commits.
    verdicts.judge("commits an image", &commits, Bound::AtMost(1.0));
}

/// How long each took.
async fn small_images(address: &str, prefix: &str, round: u64) -> Vec<Duration> {
    let until = Instant::now() + SPAN;
    let address: Arc<str> = address.into();
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (address, name) = (Arc::clone(&address), format!("{prefix}-{client}"));
        clients.spawn(async move {
            let mut pusher = Pusher::connect(&address).await;
            let (mut times, mut number) = (Vec::new(), 0);
            while Instant::now() < until {
                number += 1;
                let image = Image::new((round * CLIENTS + client) << 20 | number, &[LAYER]);
                let began = Instant::now();
                pusher.image(&name, &format!("{round}-{number}"), &image).await;
                times.push(began.elapsed());
            }
            times
        });
    }
    clients.join_all().await.concat()
}

fn committed(runtime: &Runtime, server: &Server) -> f64 {
    let page = runtime.block_on(load::fetch(&server.address, "/metrics"));
    let text = std::str::from_utf8(page.body()).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("binaryrepo_meta_commits_total "));
    line.unwrap().parse().unwrap()
}
