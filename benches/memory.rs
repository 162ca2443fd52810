//! Memory and fairness: 500 clients that stop reading, 500 clients on blobs that still come, and one slow reader
//! beside others.

#![expect(
    clippy::disallowed_methods,
    reason = "a bench measures real time, and writes the files that it serves"
)]

mod support;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use support::figures::{Bound, Figure, ROUNDS, Verdicts};
use support::load;
use support::process::{Memory, memory};
use support::scripted::server::Server;
use support::scripted::upstream::{Options, Registry};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const CLIENTS: usize = 500;
const MIB: f64 = (1 << 20) as f64;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut verdicts = Verdicts::default();
    let (mut stopped, mut flying, mut slowed) = <(Figure, Figure, Figure)>::default();
    for round in 1..=ROUNDS as u64 {
        stopped.push(runtime.block_on(clients_that_stop_reading()).anonymous as f64 / MIB);
        flying.push(runtime.block_on(clients_on_blobs_in_flight(round)).resident as f64 / MIB);
        let alone = runtime.block_on(twenty_clients(false));
        let beside = runtime.block_on(twenty_clients(true));
        slowed.push(beside.as_secs_f64() / alone.as_secs_f64());
    }
    println!();
    verdicts.judge("500 clients that stop reading, anonymous MiB", &stopped, Bound::AtMost(100.0));
    verdicts.judge("500 clients on ten blobs in flight, resident MiB", &flying, Bound::AtMost(100.0));
    verdicts.judge("20 clients beside a slow one, time of that without", &slowed, Bound::AtMost(1.1));
    verdicts.end()
}

async fn open(server: &Server, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    stream.write_all(load::get(&server.address, path).as_bytes()).await.unwrap();
    stream
}

async fn server_for(registry: &Registry) -> Server {
    let url = registry.url();
    tokio::task::spawn_blocking(move || Server::with_remote(&url, |_| {})).await.unwrap()
}

/// The most that was seen while `working`.
async fn peak<T>(server: &Server, working: impl Future<Output = T>) -> Memory {
    let pid = server.pid();
    let mut most = Memory::default();
    let mut working = std::pin::pin!(working);
    loop {
        let now = memory(pid);
        most.resident = most.resident.max(now.resident);
        most.anonymous = most.anonymous.max(now.anonymous);
        if tokio::time::timeout(Duration::from_millis(20), &mut working).await.is_ok() {
            return most;
        }
    }
}

async fn clients_that_stop_reading() -> Memory {
    let registry = Registry::open().await;
    let blob = registry.add_blob("a/b", 1, 64 << 20);
    let server = server_for(&registry).await;
    let path = format!("/v2/hub/a/b/blobs/{}", blob.digest);
    load::fetch(&server.address, &path).await;
    let filling = async {
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            clients.push(open(&server, &path).await);
        }
        // Until every socket is full.
        tokio::time::sleep(Duration::from_secs(2)).await;
    };
    peak(&server, filling).await
}

/// Ten layers of 48 MiB, each over 3 seconds, each with fifty readers.
async fn clients_on_blobs_in_flight(seed: u64) -> Memory {
    let registry = Registry::start(Options { connection_rate: Some(16 << 20), ..Options::default() }).await;
    let blobs: Vec<_> =
        (0..10).map(|number| registry.add_blob("a/b", seed * 100 + number, 48 << 20)).collect();
    let server = server_for(&registry).await;
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let blob = &blobs[number % blobs.len()];
        let stream = open(&server, &format!("/v2/hub/a/b/blobs/{}", blob.digest)).await;
        clients.spawn(read(stream, blob.bytes.len()));
    }
    peak(&server, clients.join_all()).await
}

/// At least so many bytes, and those of the head.
async fn read(mut stream: TcpStream, least: usize) {
    let mut buffer = vec![0; 64 << 10];
    let mut left = least;
    while left > 0 {
        let read = stream.read(&mut buffer).await.unwrap();
        assert_ne!(read, 0, "the server hung up");
        left = left.saturating_sub(read);
    }
}

/// How long 20 clients take for a layer of 32 MiB at 32 MiB/s; beside them there may be one that reads a
/// kilobyte in a tenth of a second.
async fn twenty_clients(beside_a_slow_one: bool) -> Duration {
    let registry = Registry::start(Options { connection_rate: Some(32 << 20), ..Options::default() }).await;
    let blob = registry.add_blob("a/b", 1, 32 << 20);
    let server = server_for(&registry).await;
    let path = format!("/v2/hub/a/b/blobs/{}", blob.digest);
    let began = Instant::now();
    let slow = beside_a_slow_one.then_some(async {
        let mut stream = open(&server, &path).await;
        let mut buffer = [0; 1024];
        while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let others = async {
        let mut clients = JoinSet::new();
        for _ in 0..20 {
            clients.spawn(read(open(&server, &path).await, blob.bytes.len()));
        }
        clients.join_all().await;
    };
    match slow {
        None => others.await,
        Some(slow) => tokio::select! {
            () = others => {}
            () = slow => panic!("the slow one was done first"),
        },
    }
    began.elapsed()
}
