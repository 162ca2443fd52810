//! On real sockets, under the real library: it is the one that must not know.

use std::fs::File;
use std::io::Write as _;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::http::body::{ResponseBody, Source, Way, Witness};
use crate::http::{Handler, Limits, Listener, Peer, Threads, serve};
use crate::telemetry::Metrics;

const PATIENT: Duration = Duration::from_secs(30);
/// Not a multiple of anything.
const SIZE: usize = (3 << 20) + 12_347;

/// More than sockets hold. Behind its content the file has a hole.
const LONG: u64 = 64 << 20;

/// Part of a file; fails where it is told to.
struct Part {
    file: Arc<File>,
    at: u64,
    left: usize,
    fails_at: u64,
    waits: bool,
}

impl Window for Part {
    fn left(&self) -> usize {
        self.left
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // As if the disk had to be waited for, now and then.
        self.waits = !self.waits;
        if self.waits {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    fn send(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        if self.at >= self.fails_at {
            return Err(io::Error::other("the disk is gone"));
        }
        let sent = rustix::fs::sendfile(socket, &*self.file, Some(&mut self.at), self.left)?;
        self.left -= sent;
        Ok(sent)
    }
}

/// Windows of all lengths, and now and then bytes.
struct Mixed {
    whole: Part,
    random: fastrand::Rng,
}

impl Source for Mixed {
    fn poll_chunk(&mut self, _: &mut Context<'_>, max: usize) -> Poll<Option<io::Result<Bytes>>> {
        let mut bytes = vec![0; max.min(1 + self.random.usize(..5_000))];
        rustix::io::pread(&*self.whole.file, &mut bytes[..], self.whole.at)?;
        self.whole.at += bytes.len() as u64;
        Poll::Ready(Some(Ok(bytes.into())))
    }

    fn window(&mut self, most: usize) -> Option<Box<dyn Window>> {
        if self.random.u8(..4) == 0 {
            return None;
        }
        let left = most.min(1 << self.random.u32(..20));
        let window = Part { file: self.whole.file.clone(), left, ..self.whole };
        self.whole.at += left as u64;
        Some(Box::new(window))
    }
}

struct Nobody;

impl Witness for Nobody {
    fn sent(&mut self, _: usize, _: bool) {}
    fn nothing_to_send(&mut self) {}
}

#[derive(Clone)]
struct Files {
    file: Arc<File>,
    metrics: Arc<Metrics>,
}

impl Handler for Files {
    type Body = ResponseBody<Nobody, Mixed>;
    type Held = ();

    fn connected(&self) {}

    /// `/<from>/<to>`, and `/<from>/<to>/<where it fails>`.
    async fn answer(&self, request: Request<Incoming>, _: Peer) -> Response<Self::Body> {
        let mut numbers =
            request.uri().path().split('/').skip(1).map(|n| n.parse::<u64>().expect("a number"));
        let (from, to) = (numbers.next().expect("from"), numbers.next().expect("to"));
        let fails_at = numbers.next().unwrap_or(u64::MAX);
        let whole = Part { file: self.file.clone(), at: from, left: 0, fails_at, waits: false };
        let source = Mixed { whole, random: fastrand::Rng::with_seed(from ^ to) };
        let body = ResponseBody::blob(source, to - from, Way::Windows, &self.metrics, Nobody);
        Response::builder().header("content-length", to - from).body(body).expect("a response")
    }
}

fn content() -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    (0..SIZE).map(|_| random.u8(1..)).collect()
}

async fn start(content: &[u8]) -> (TcpStream, CancellationToken) {
    start_with(content, Limits::default()).await
}

async fn start_with(content: &[u8], limits: Limits) -> (TcpStream, CancellationToken) {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(content).expect("room");
    file.set_len(LONG).expect("a length");
    let files = Files { file: Arc::new(file), metrics: Metrics::new() };
    let listener = Listener::tcp("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let address = listener.local_address().expect("bound");
    let stop = CancellationToken::new();
    let threads = Arc::new(Threads::start(2, "connections").expect("threads"));
    tokio::runtime::Handle::current().spawn(serve(
        vec![listener],
        files,
        limits,
        threads,
        stop.clone(),
        PATIENT,
    ));
    (TcpStream::connect(address).await.expect("a server"), stop)
}

/// Takes its time now and then, so that the socket is full in all kinds of places.
async fn take(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    for (number, part) in bytes.chunks_mut(100_000).enumerate() {
        if number % 7 == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::timeout(PATIENT, stream.read_exact(part)).await.expect("it comes").expect("all of it");
    }
    bytes
}

async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a head"));
    }
    String::from_utf8(head).expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_files_go_out_byte_for_byte_in_the_order_asked() {
    let content = content();
    let (mut stream, _stop) = start(&content).await;
    let parts = [(0, SIZE), (1, 2), (SIZE - 1, SIZE), (5, SIZE - 5), (70_000, 900_001), (0, SIZE)];
    // All asked at once: the answers queue behind one another.
    for (from, to) in parts {
        let asked = format!("GET /{from}/{to} HTTP/1.1\r\nHost: a\r\n\r\n");
        stream.write_all(asked.as_bytes()).await.expect("sent");
    }
    for (from, to) in parts {
        let head = head(&mut stream).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(take(&mut stream, to - from).await == content[from..to], "{from}..{to}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_cannot_be_sent_breaks_the_body_off() {
    let content = content();
    let (mut stream, _stop) = start(&content).await;
    let asked = format!("GET /0/{SIZE}/1000000 HTTP/1.1\r\nHost: a\r\n\r\n");
    stream.write_all(asked.as_bytes()).await.expect("sent");
    head(&mut stream).await;
    let mut got = Vec::new();
    // However it ends, it ends early, and what came is right.
    let _ = tokio::time::timeout(PATIENT, stream.read_to_end(&mut got)).await.expect("an end");
    assert!(got.len() < SIZE && got == content[..got.len()], "{} bytes", got.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_nothing_of_a_window_is_let_go() {
    let limits = Limits { stalled_write: Duration::from_millis(300), ..Limits::default() };
    let (mut stream, _stop) = start_with(&content(), limits).await;
    let asked = format!("GET /0/{LONG} HTTP/1.1\r\nHost: a\r\n\r\n");
    stream.write_all(asked.as_bytes()).await.expect("sent");
    head(&mut stream).await;
    // Ten times as long as its patience lasts.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut got = Vec::new();
    let _ = tokio::time::timeout(PATIENT, stream.read_to_end(&mut got)).await.expect("an end");
    assert!((got.len() as u64) < LONG, "all {} bytes", got.len());
}

async fn pair() -> (Direct, Arc<Outlet>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let far = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("a listener");
    let outlet = Arc::new(Outlet::default());
    let (near, _) = listener.accept().await.expect("a client");
    (Direct::new(near, outlet.clone()), outlet, far)
}

fn window(bytes: usize) -> Box<Part> {
    let file = tempfile::tempfile().expect("a file");
    file.set_len(bytes as u64).expect("a length");
    Box::new(Part { file: Arc::new(file), at: 0, left: bytes, fails_at: u64::MAX, waits: false })
}

#[tokio::test]
async fn what_only_stands_for_bytes_is_never_sent() {
    let nothing = |mut far: TcpStream| async move {
        let mut got = Vec::new();
        far.read_to_end(&mut got).await.expect("an end");
        assert!(got.is_empty(), "{} bytes", got.len());
    };
    // A mark without its window.
    let (mut direct, _, far) = pair().await;
    let stray = Piece::Window { left: 10 };
    direct.write_all(stray.chunk()).await.expect_err("nothing to send");
    drop(direct);
    nothing(far).await;
    // Longer than its window.
    let (mut direct, outlet, far) = pair().await;
    outlet.put(window(9));
    direct.write_all(stray.chunk()).await.expect_err("a byte too many");
    drop(direct);
    nothing(far).await;
    // A window whose mark was copied: what is written looks like any other bytes.
    let (mut direct, outlet, far) = pair().await;
    let copied = outlet.put(window(10)).chunk().to_vec();
    direct.write_all(&copied).await.expect_err("the window is still owed");
    drop(direct);
    nothing(far).await;
}
