//! Clients that are slow, silent, or gone: let go after the configured time, and never before.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::client::Ask;
use super::house::{House, blob};
use super::support::image::Image;
use super::support::patience::found;
use super::support::upstream::Registry;

const SHORT: Duration = Duration::from_millis(300);

/// Reads until the server closes. What it said.
async fn until_closed(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset is a close too.
    let _ = timeout(Duration::from_secs(30), stream.read_to_end(&mut bytes)).await.expect("it is closed");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Not before its time, and soon after: clocks may differ by a little.
fn in_time(started: Instant) -> bool {
    (SHORT - Duration::from_millis(50)..SHORT * 20).contains(&started.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_a_whole_head_is_closed() {
    let house = House::with(&[("server.header_timeout", "300ms")]).await;
    for start in ["", "GET /v2/ HTTP/1.1\r\nHost: a\r\nX-Slow: "] {
        let started = Instant::now();
        let mut stream = TcpStream::connect(house.address).await.unwrap();
        stream.write_all(start.as_bytes()).await.unwrap();
        assert_eq!(until_closed(&mut stream).await, "");
        assert!(in_time(started), "{start:?}: {:?}", started.elapsed());
    }
    // One that drips does not buy time: it is the whole head that must come.
    let mut stream = TcpStream::connect(house.address).await.unwrap();
    let started = Instant::now();
    while stream.write_all(b"GET /v2/".get(..1).unwrap()).await.is_ok() {
        assert!(started.elapsed() < SHORT * 20, "it goes on for ever");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(house.get("/v2/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_kept_for_its_time_and_then_closed() {
    let house = House::with(&[("server.idle_timeout", "3s"), ("server.header_timeout", "200ms")]).await;
    let mut stream = TcpStream::connect(house.address).await.unwrap();
    let mut buffer = [0; 4096];
    for _ in 0..3 {
        stream.write_all(b"GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert!(stream.read(&mut buffer).await.unwrap() > 0);
        // Longer than a first head may take: this one has shown that it is a client.
        tokio::time::sleep(SHORT).await;
    }
    // Without an answer, well before its 30 seconds of patience are over.
    assert_eq!(until_closed(&mut stream).await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_comes_too_slowly_is_refused() {
    let house = House::with(&[("server.body_timeout", "300ms")]).await;
    let started = Instant::now();
    let mut stream = TcpStream::connect(house.address).await.unwrap();
    let head = "POST /api/repository HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let said = until_closed(&mut stream).await;
    assert!(said.starts_with("HTTP/1.1 408 "), "{said}");
    assert!(said.contains("the body comes too slowly"), "{said}");
    assert!(in_time(started), "{:?}", started.elapsed());

    // One that keeps the pace may take longer than that.
    let house = House::with(&[("server.body_timeout", "2s")]).await;
    let mut stream = TcpStream::connect(house.address).await.unwrap();
    let form = json!({ "name": "slow", "repo_type": "local" }).to_string();
    let padding = 16_384 - form.len();
    let head = "POST /api/repository HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 16384\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    for piece in [" ".repeat(padding), form].concat().as_bytes().chunks(2048) {
        tokio::time::sleep(SHORT).await;
        stream.write_all(piece).await.unwrap();
    }
    let said = until_closed(&mut stream).await;
    assert!(said.starts_with("HTTP/1.1 201 "), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_nothing_is_let_go_and_holds_up_nobody() {
    let registry = Registry::open().await;
    let image = Image::new(1201, &[40 << 20]);
    registry.add_image("library/redis", "7", &image);
    let house = House::beside_with(&registry, &[("server.write_timeout", "2s")], json!({})).await;
    let path = blob("redis", &image.layers[0]);
    // It reads the head, and then no more: the kernel's buffers are full long before the end.
    let mut stuck = Ask::get(&path).open(house.address).await;
    stuck.until(1).await;
    let whole = house.get(&path).await;
    assert!(whole.is_whole());
    let gone = async || (house.metric("binaryrepo_open_bodies").await == 0).then_some(());
    found("it is let go", gone).await;
    assert!(!stuck.rest().await.is_whole());
}

/// A slow client is no client that takes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_is_served_to_the_end() {
    let registry = Registry::open().await;
    let image = Image::new(1202, &[12 << 20]);
    registry.add_image("library/redis", "7", &image);
    let house = House::beside_with(&registry, &[("server.write_timeout", "2s")], json!({})).await;
    let mut slow = Ask::get(&blob("redis", &image.layers[0])).open(house.address).await;
    let mut read = 0;
    while read < 12 << 20 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        read = slow.until(read + (512 << 10)).await.len();
    }
    let answer = slow.rest().await;
    assert!(answer.is_whole());
    assert_eq!(answer.body, image.layers[0].bytes);
}

/// That there is a limit at all is shown with the other settings.
#[tokio::test(flavor = "multi_thread")]
async fn connections_over_the_limit_wait_and_are_served() {
    let house = House::with(&[("server.max_connections", "2"), ("server.header_timeout", "500ms")]).await;
    let mut silent = Vec::new();
    for _ in 0..2 {
        silent.push(TcpStream::connect(house.address).await.unwrap());
    }
    // Taken up as soon as the silent ones have been let go.
    let answers = (0..8).map(|_| house.get("/v2/"));
    for answer in futures_util::future::join_all(answers).await {
        assert_eq!(answer.status, 200);
    }
}
