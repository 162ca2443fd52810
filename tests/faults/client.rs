//! A client that compares what it gets with what it should get, byte for byte, while it comes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::task::JoinHandle;

use super::support::fault::Gate;

/// What to ask, and how to take it.
#[derive(Clone)]
pub struct Ask {
    pub method: &'static str,
    pub target: String,
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
    /// Reads no further than this until the gate is opened, through a small window.
    pub pause: Option<(u64, Gate)>,
}

impl Ask {
    pub fn get(target: String) -> Self {
        Self { method: "GET", target, headers: Vec::new(), body: Bytes::new(), pause: None }
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Sends it. What comes is held against `expected`, the whole blob.
    pub fn send(self, to: SocketAddr, expected: &Bytes) -> Client {
        let watch = Arc::new(Watch::default());
        let task = tokio::spawn(talk(self, to, expected.clone(), watch.clone()));
        Client { watch, task }
    }
}

#[derive(Default)]
struct Watch {
    head: AtomicBool,
    bytes: AtomicU64,
}

pub struct Client {
    watch: Arc<Watch>,
    task: JoinHandle<Got>,
}

impl Client {
    pub async fn got(self) -> Got {
        self.task.await.expect("the client does not panic")
    }

    /// Closes its connection, wherever it is.
    pub async fn leave(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    pub fn has_head(&self) -> bool {
        self.watch.head.load(Ordering::Relaxed)
    }

    pub fn bytes(&self) -> u64 {
        self.watch.bytes.load(Ordering::Relaxed)
    }

    pub fn is_done(&self) -> bool {
        self.task.is_finished()
    }
}

/// An answer, whole or broken off.
#[derive(Clone, Debug, Default)]
pub struct Got {
    /// 0: the connection ended without one.
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub received: u64,
    /// All that came is what should come.
    pub right: bool,
    /// As many bytes came as were announced.
    pub complete: bool,
    /// The beginning of the body of an error.
    pub text: String,
}

impl Got {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn is_success(&self) -> bool {
        matches!(self.status, 200 | 206)
    }

    pub fn is_whole(&self) -> bool {
        self.is_success() && self.complete && self.right
    }

    pub fn is_broken(&self) -> bool {
        self.status == 0 || self.is_success() && !self.complete
    }

    /// Complete and wrong: what must never be.
    pub fn is_poison(&self) -> bool {
        self.is_success() && self.complete && !self.right
    }

    pub fn retry_after(&self) -> Option<u64> {
        self.header("retry-after")?.parse().ok()
    }
}

async fn talk(ask: Ask, to: SocketAddr, expected: Bytes, watch: Arc<Watch>) -> Got {
    let mut got = Got { right: true, ..Got::default() };
    let socket = TcpSocket::new_v4().unwrap();
    if ask.pause.is_some() {
        socket.set_recv_buffer_size(4096).unwrap();
    }
    let Ok(mut stream) = socket.connect(to).await else { return got };
    let mut head =
        format!("{} {} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n", ask.method, ask.target);
    for (name, value) in &ask.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !ask.body.is_empty() {
        head.push_str(&format!("content-length: {}\r\n", ask.body.len()));
    }
    head.push_str("\r\n");
    // A server that refuses early may close before it has read everything.
    let _ = stream.write_all(&[head.as_bytes(), &ask.body].concat()).await;
    let mut buffer = Vec::new();
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        match stream.read_buf(&mut buffer).await {
            Ok(read) if read > 0 => {}
            _ => return got,
        }
    };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    let (first, rest) = head.split_once("\r\n").unwrap_or((&head, ""));
    got.status = first.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let headers = rest.lines().filter_map(|line| line.split_once(':'));
    got.headers = headers.map(|(name, value)| (name.to_lowercase(), value.trim().to_owned())).collect();
    watch.head.store(true, Ordering::Relaxed);
    let body = buffer.split_off(end + 4);
    read_body(&ask, &mut stream, body, &mut got, &expected, &watch).await;
    got
}

async fn read_body(
    ask: &Ask,
    stream: &mut tokio::net::TcpStream,
    mut piece: Vec<u8>,
    got: &mut Got,
    expected: &Bytes,
    watch: &Watch,
) {
    let length: Option<u64> = got.header("content-length").and_then(|length| length.parse().ok());
    let begin = got.header("content-range").and_then(|range| range.strip_prefix("bytes ")?.split_once('-'));
    let begin: u64 = begin.and_then(|(first, _)| first.parse().ok()).unwrap_or(0);
    if ask.method == "HEAD" || got.status == 304 {
        got.complete = true;
        return;
    }
    let mut pause = ask.pause.clone();
    loop {
        if got.is_success() {
            let from = usize::try_from(begin + got.received).unwrap();
            got.right &= expected.get(from..from + piece.len()) == Some(&piece[..]);
        } else if got.text.len() < 4096 {
            got.text.push_str(&String::from_utf8_lossy(&piece));
        }
        got.received += piece.len() as u64;
        watch.bytes.store(got.received, Ordering::Relaxed);
        if length.is_some_and(|length| got.received >= length) {
            got.complete = length == Some(got.received);
            return;
        }
        if let Some((_, gate)) = pause.take_if(|(at, _)| got.received >= *at) {
            gate.passed().await;
        }
        piece.clear();
        let most = if pause.is_some() { 4096 } else { 256 * 1024 };
        piece.reserve(most);
        match tokio::time::timeout(Duration::from_secs(60), stream.read_buf(&mut piece)).await {
            Ok(Ok(read)) if read > 0 => {}
            _ => {
                got.complete = length.is_none() && !got.is_success();
                return;
            }
        }
    }
}
