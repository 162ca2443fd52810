//! Very many connections whose heads never end: what they cost, and that nobody waits for them.
//!
//! `SLOW_CONNECTIONS=9900` opens so many (300). This process and the server each need as many files (`ulimit -n`).

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::client::Ask;
use super::get;
use super::process::Process;

/// The default server closes them after ten seconds; no machine is slower than this.
const PATIENCE: Duration = Duration::from_secs(60);
/// So that no connect is lost in a queue that is full.
const AT_ONCE: usize = 250;

#[tokio::test(flavor = "multi_thread")]
async fn slow_heads_cost_little_and_hold_up_nobody() {
    let count = std::env::var("SLOW_CONNECTIONS").map_or(300, |count| count.parse().unwrap());
    let data = tempfile::tempdir().unwrap();
    let server = Process::start(&data, &[]);
    let alone = slowest_answer(server.address).await;
    let before = resident(data.path());

    let started = Instant::now();
    let mut slow = JoinSet::new();
    for batch in (0..count).step_by(AT_ONCE) {
        let connects = (batch..count.min(batch + AT_ONCE)).map(|_| TcpStream::connect(server.address));
        for stream in futures_util::future::join_all(connects).await {
            slow.spawn(dribble(stream.unwrap()));
        }
    }
    let opened = started.elapsed();
    let beside = slowest_answer(server.address).await;
    let (during, open) = (resident(data.path()), open_connections(server.address).await);

    let mut longest = Duration::ZERO;
    while let Some(lasted) = slow.join_next().await {
        longest = longest.max(lasted.unwrap().expect("the server closes what never ends"));
    }
    let each = during.saturating_sub(before) / count as u64;
    println!(
        "{count} slow heads in {opened:?}, {open} open: {} MiB resident, {} MiB before, {each} KiB each; the slowest of \
         20 answers took {beside:?}, {alone:?} before; the last was closed after {longest:?}",
        during >> 10,
        before >> 10,
    );
    // Ten times what was measured, and for the time more, since the machine may have other work.
    assert!(beside < Duration::from_secs(5), "others wait: {beside:?}");
    assert!(each < 300, "{before} KiB became {during} KiB");
    assert_eq!(get(server.address, "/readyz").await.0, 200);
}

/// Sends a byte of a header twice a second. How long it was let; `None`: for as long as it liked.
async fn dribble(stream: TcpStream) -> Option<Duration> {
    let started = Instant::now();
    let (mut from, mut to) = stream.into_split();
    let drip = async {
        let mut sent = to.write_all(b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nX-Slow: ").await;
        while sent.is_ok() {
            sleep(Duration::from_millis(500)).await;
            sent = to.write_all(b"a").await;
        }
    };
    let closed = async {
        let mut said = [0; 256];
        while matches!(from.read(&mut said).await, Ok(read) if read > 0) {}
    };
    let over = async {
        tokio::select! {
            () = drip => {}
            () = closed => {}
        }
    };
    timeout(PATIENCE, over).await.ok().map(|()| started.elapsed())
}

/// Of twenty, one after the other, each on a connection of its own.
async fn slowest_answer(address: SocketAddr) -> Duration {
    let mut slowest = Duration::ZERO;
    for _ in 0..20 {
        let started = Instant::now();
        let answer = Ask::get("/v2/").send(address).await;
        assert_eq!(answer.status, 200, "{}", answer.all());
        slowest = slowest.max(started.elapsed());
    }
    slowest
}

async fn open_connections(address: SocketAddr) -> String {
    let metrics = get(address, "/metrics").await.1;
    let line = metrics.lines().find_map(|line| line.strip_prefix("binaryrepo_connections "));
    line.unwrap_or("no number").to_owned()
}

/// In KiB: the server on this data directory.
fn resident(data: &Path) -> u64 {
    let data = data.to_str().unwrap();
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    let is_server = |path: &Path| {
        let words = fs::read_to_string(path.join("cmdline")).unwrap_or_default();
        words.contains("binaryrepo\0serve\0") && words.contains(data)
    };
    let server = processes.into_iter().find(|path| is_server(path)).expect("it runs");
    let status = fs::read_to_string(server.join("status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
