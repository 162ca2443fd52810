//! On real sockets, with raw bytes: what a client library would never send is the point.

use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::*;
use crate::http::body::{ResponseBody, Source, Way, Witness};
use crate::http::outlet;
use crate::telemetry::Metrics;

const SOON: Duration = Duration::from_millis(300);
const PATIENT: Duration = Duration::from_secs(10);

/// What a blob of the fake does after its head.
#[derive(Clone, Copy)]
enum Plan {
    Whole,
    /// An error, or an end, after so many bytes.
    BreaksAfter(usize),
    EndsAfter(usize),
}

struct FakeBlob {
    plan: Plan,
    given: usize,
    /// What was given has gone out.
    flushed: bool,
}

impl Source for FakeBlob {
    fn poll_chunk(&mut self, cx: &mut Context<'_>, max: usize) -> Poll<Option<io::Result<Bytes>>> {
        let stop = match self.plan {
            Plan::Whole => usize::MAX,
            Plan::BreaksAfter(stop) | Plan::EndsAfter(stop) => stop,
        };
        if self.given < stop {
            let piece = Bytes::from_static(&[b'x'; 1024]).slice(..max.min(1024));
            self.given += piece.len();
            return Poll::Ready(Some(Ok(piece)));
        }
        if !self.flushed {
            self.flushed = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        match self.plan {
            Plan::BreaksAfter(_) => Poll::Ready(Some(Err(io::ErrorKind::InvalidData.into()))),
            Plan::Whole | Plan::EndsAfter(_) => Poll::Ready(None),
        }
    }

    fn window(&mut self, _: usize) -> Option<Box<dyn outlet::Window>> {
        None
    }
}

struct Nobody;

impl Witness for Nobody {
    fn sent(&mut self, _: usize, _: bool) {}
    fn nothing_to_send(&mut self) {}
}

type FakeBody = ResponseBody<Nobody, FakeBlob>;

/// Answers by path, and remembers the paths.
#[derive(Clone)]
struct Fake {
    seen: Arc<Mutex<Vec<String>>>,
    open: Arc<AtomicUsize>,
    release: Arc<Notify>,
    metrics: Arc<Metrics>,
}

impl Fake {
    fn new() -> Self {
        Self { seen: Arc::default(), open: Arc::default(), release: Arc::default(), metrics: Metrics::new() }
    }
}

struct Count(Arc<AtomicUsize>);

impl Drop for Count {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Handler for Fake {
    type Body = FakeBody;
    type Held = Count;

    fn connected(&self) -> Count {
        self.open.fetch_add(1, Ordering::Relaxed);
        Count(self.open.clone())
    }

    async fn answer(&self, request: Request<Incoming>, _: Peer) -> Response<FakeBody> {
        let path = request.uri().path().to_owned();
        self.seen.lock().expect("no test panicked").push(path.clone());
        let (plan, length) = match path.as_str() {
            "/breaks" => (Plan::BreaksAfter(2048), 4096),
            "/ends" => (Plan::EndsAfter(2048), 4096),
            "/endless" => (Plan::Whole, 1 << 40),
            "/waits" => {
                self.release.notified().await;
                (Plan::Whole, 4096)
            }
            _ => (Plan::Whole, 4096),
        };
        if path == "/refused" {
            let refusal = Response::builder().status(404).header("connection", "close");
            return refusal.body(ResponseBody::empty(Nobody)).expect("a response");
        }
        let blob = FakeBlob { plan, given: 0, flushed: false };
        let body = match *request.method() {
            Method::HEAD => ResponseBody::empty(Nobody),
            _ => ResponseBody::blob(blob, length, Way::Windows, &self.metrics, Nobody),
        };
        Response::builder().header("content-length", length).body(body).expect("a response")
    }
}

struct Server {
    address: SocketAddr,
    fake: Fake,
    stop: CancellationToken,
    done: tokio::task::JoinHandle<Stopped>,
}

/// Nothing ends by itself.
fn patient() -> Limits {
    let long = PATIENT * 2;
    Limits { connections: 10, first_head: long, idle: long, stalled_write: long, refused: long }
}

fn threads() -> Arc<Threads> {
    Arc::new(Threads::start(2, "connections").expect("threads"))
}

impl Server {
    fn start(limits: Limits, grace: Duration) -> Self {
        let listener = Listener::tcp("127.0.0.1:0".parse().expect("an address")).expect("a free port");
        let address = listener.local_address().expect("bound");
        let fake = Fake::new();
        let stop = CancellationToken::new();
        let serving = serve(vec![listener], fake.clone(), limits, threads(), stop.clone(), grace);
        let done = tokio::runtime::Handle::current().spawn(serving);
        Self { address, fake, stop, done }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("a listening server")
    }

    fn seen(&self) -> Vec<String> {
        self.fake.seen.lock().expect("no test panicked").clone()
    }

    async fn stop(self) -> Stopped {
        self.stop.cancel();
        timeout(PATIENT, self.done).await.expect("it stops in time").expect("no panic")
    }
}

/// All that comes until the server closes, an abort included.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 8192];
    let reading = async {
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            bytes.extend_from_slice(&buffer[..count]);
        }
    };
    timeout(PATIENT, reading).await.expect("the server closes");
    bytes
}

async fn exchange(server: &Server, request: &[u8]) -> String {
    let mut stream = server.connect().await;
    stream.write_all(request).await.expect("sent");
    String::from_utf8_lossy(&rest(&mut stream).await).into_owned()
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("nothing")
}

#[tokio::test]
async fn a_connection_without_a_whole_first_head_is_closed() {
    let server = Server::start(Limits { first_head: SOON, ..patient() }, PATIENT);
    for sent in ["", "GET / HT", "GET / HTTP/1.1\r\nHost: a\r\n", "GET /v2/ HTTP/1.1\r\nHo"] {
        assert_eq!(exchange(&server, sent.as_bytes()).await, "", "{sent:?}");
    }
    assert!(server.seen().is_empty());
    server.stop().await;
}

#[tokio::test]
async fn an_idle_connection_lives_longer_than_a_silent_one_and_then_ends() {
    let server = Server::start(Limits { first_head: SOON, idle: SOON * 10, ..patient() }, PATIENT);
    let mut stream = server.connect().await;
    for _ in 0..2 {
        stream.write_all(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("sent");
        let mut buffer = [0; 2048];
        assert!(stream.read(&mut buffer).await.expect("an answer") > 0);
        sleep(SOON * 2).await;
    }
    rest(&mut stream).await;
    assert_eq!(server.seen(), ["/a", "/a"]);
    server.stop().await;
}

#[tokio::test]
async fn heads_over_the_limits_are_refused() {
    let server = Server::start(patient(), PATIENT);
    let many = "X-A: 1\r\n".repeat(100);
    let answer = exchange(&server, format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n").as_bytes()).await;
    assert_eq!(status(&answer), "431");
    let long = "a".repeat(65 << 10);
    let answer =
        exchange(&server, format!("GET / HTTP/1.1\r\nHost: a\r\nX-A: {long}\r\n\r\n").as_bytes()).await;
    assert_eq!(status(&answer), "431");
    assert!(server.seen().is_empty());
    server.stop().await;
}

#[tokio::test]
async fn a_smuggled_request_is_never_dispatched() {
    let server = Server::start(patient(), PATIENT);
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    for (first, body) in [
        ("Content-Length: 4\r\nTransfer-Encoding: chunked", "0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5", "0\r\n\r\n"),
        ("Content-Length: 0\r\nContent-Length: 37", ""),
        ("Transfer-Encoding: chunked, identity", "0\r\n\r\n"),
    ] {
        exchange(
            &server,
            format!("POST /a HTTP/1.1\r\nHost: a\r\n{first}\r\n\r\n{body}{smuggled}").as_bytes(),
        )
        .await;
    }
    assert!(!server.seen().iter().any(|path| path == "/smuggled"), "{:?}", server.seen());
    server.stop().await;
}

/// A petabyte is announced, and nothing of it is read before the answer.
async fn refused(server: &Server) -> TcpStream {
    let mut stream = server.connect().await;
    let head = b"PUT /refused HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000000000\r\n\r\n";
    stream.write_all(head).await.expect("sent");
    stream
}

#[tokio::test]
async fn who_still_sends_what_was_refused_hears_why() {
    let server = Server::start(patient(), PATIENT);
    let mut stream = refused(&server).await;
    for _ in 0..64 {
        stream.write_all(&[b'x'; 1 << 20]).await.expect("nobody closes over it");
    }
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 404");
    drop(stream);
    server.stop().await;
}

#[tokio::test]
async fn who_never_ends_sending_what_was_refused_is_let_go() {
    let server = Server::start(Limits { refused: SOON, ..patient() }, PATIENT);
    let mut stream = refused(&server).await;
    let sending = async { while stream.write_all(&[b'x'; 1 << 10]).await.is_ok() {} };
    timeout(PATIENT, sending).await.expect("the connection ends");
    assert_eq!(server.stop().await, Stopped { broken: 0 });
}

#[tokio::test]
async fn a_body_that_breaks_is_never_a_clean_end() {
    let server = Server::start(patient(), PATIENT);
    for path in ["/breaks", "/ends"] {
        let asked = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\nGET /next HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = exchange(&server, asked.as_bytes()).await;
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(head.contains("content-length: 4096"), "{head}");
        // Nothing follows what was sent: no error in the middle of a blob, no next answer.
        assert!(body.len() == 2048 && body.bytes().all(|byte| byte == b'x'), "{} bytes", body.len());
    }
    assert_eq!(server.seen(), ["/breaks", "/ends"]);
    assert_eq!(server.fake.metrics.open_bodies(), 0);
    server.stop().await;
}

#[tokio::test]
async fn a_head_is_answered_with_the_length_alone() {
    let server = Server::start(patient(), PATIENT);
    let asked = b"HEAD /a HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let answer = exchange(&server, asked).await;
    assert_eq!(answer.matches("content-length: 4096").count(), 2, "{answer}");
    let (_, second) = answer.split_once("\r\n\r\n").expect("a first head");
    assert!(second.starts_with("HTTP/1.1 200"), "{second}");
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_stops_reading_is_let_go() {
    let server = Server::start(Limits { stalled_write: SOON, ..patient() }, PATIENT);
    let mut stream = server.connect().await;
    stream.write_all(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("sent");
    let gone = async {
        while server.fake.open.load(Ordering::Relaxed) > 0 || server.seen().is_empty() {
            sleep(SOON / 10).await;
        }
    };
    timeout(PATIENT, gone).await.expect("the connection is given up");
    server.stop().await;
}

#[tokio::test]
async fn a_stop_lets_requests_under_way_finish_and_closes_the_idle() {
    let server = Server::start(patient(), PATIENT);
    let mut silent = server.connect().await;
    let mut idle = server.connect().await;
    idle.write_all(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("sent");
    let mut busy = server.connect().await;
    busy.write_all(b"GET /waits HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("sent");
    while server.seen().len() < 2 || server.fake.open.load(Ordering::Relaxed) < 3 {
        sleep(SOON / 10).await;
    }
    server.stop.cancel();
    rest(&mut silent).await;
    assert!(rest(&mut idle).await.ends_with(b"xxxx"));
    assert!(TcpStream::connect(server.address).await.is_err());
    server.fake.release.notify_one();
    assert!(rest(&mut busy).await.ends_with(b"xxxx"));
    assert_eq!(server.stop().await, Stopped { broken: 0 });
}

#[tokio::test]
async fn a_stop_breaks_what_outlasts_the_grace() {
    let server = Server::start(patient(), SOON);
    let mut busy = server.connect().await;
    busy.write_all(b"GET /waits HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("sent");
    while server.seen().is_empty() {
        sleep(SOON / 10).await;
    }
    assert_eq!(server.stop().await, Stopped { broken: 1 });
    assert_eq!(rest(&mut busy).await, b"");
}

#[tokio::test]
async fn connections_over_the_limit_wait_their_turn() {
    let server = Server::start(Limits { connections: 2, ..patient() }, PATIENT);
    let first = server.connect().await;
    let _second = server.connect().await;
    let mut third = server.connect().await;
    third.write_all(b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.expect("sent");
    sleep(SOON).await;
    assert!(server.seen().is_empty());
    assert_eq!(server.fake.open.load(Ordering::Relaxed), 2);
    drop(first);
    assert!(rest(&mut third).await.ends_with(b"xxxx"));
    server.stop().await;
}

#[tokio::test]
async fn the_admin_socket_is_for_its_owner_and_goes_with_its_server() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("admin.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket left behind"));
    let listener = Listener::admin(&path).expect("a socket").expect("a path that is short enough");
    let mode = std::fs::metadata(&path).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let fake = Fake::new();
    let stop = CancellationToken::new();
    let serving = serve(vec![listener], fake.clone(), patient(), threads(), stop.clone(), PATIENT);
    let asking = async {
        let mut stream = tokio::net::UnixStream::connect(&path).await.expect("a listening server");
        stream.write_all(b"GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("sent");
        let mut buffer = [0; 64];
        assert!(stream.read(&mut buffer).await.expect("an answer") > 0);
        stop.cancel();
    };
    tokio::join!(serving, asking);
    assert!(!path.exists());
}

#[test]
fn a_path_too_long_for_a_socket_is_no_reason_not_to_serve() {
    let directory = tempfile::tempdir().expect("a directory");
    assert!(Listener::admin(&directory.path().join("a".repeat(110))).expect("no fault").is_none());
}

#[test]
fn a_client_that_gave_up_needs_no_pause() {
    assert!(is_the_clients_affair(&io::ErrorKind::ConnectionAborted.into()));
    assert!(!is_the_clients_affair(&io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error())));
}
