//! A client that compares what it gets with what it should get, and tells a whole answer from a broken one.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// No answer takes as long, unless the server hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A request, not yet sent.
#[derive(Clone, Debug)]
pub struct Ask {
    method: &'static str,
    target: String,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
}

impl Ask {
    pub fn get(target: impl Into<String>) -> Self {
        Self::new("GET", target, Bytes::new())
    }

    pub fn new(method: &'static str, target: impl Into<String>, body: Bytes) -> Self {
        Self { method, target: target.into(), headers: Vec::new(), body }
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Sends it to a server that may die meanwhile. What comes is held against `expected`.
    pub async fn send(self, to: SocketAddr, expected: &Bytes) -> Got {
        let mut got = Got::default();
        let told = format!("{} {}", self.method, self.target);
        timeout(PATIENCE, self.talk(to, expected, &mut got)).await.unwrap_or_else(|_| panic!("{told} hangs"));
        Got { told, ..got }
    }

    async fn talk(self, to: SocketAddr, expected: &Bytes, got: &mut Got) {
        let Ok(mut stream) = TcpStream::connect(to).await else { return };
        let mut head = format!("{} {} HTTP/1.1\r\nhost: localhost\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("content-length: {}\r\nconnection: close\r\n\r\n", self.body.len()));
        // A server that refuses early may close before it has read everything.
        let _ = stream.write_all(&[head.as_bytes(), &self.body].concat()).await;
        let mut bytes = Vec::new();
        // A reset is an end like any other: how much came tells which.
        let _ = stream.read_to_end(&mut bytes).await;
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return };
        let body = bytes.split_off(end + 4);
        let head = String::from_utf8(bytes).unwrap();
        let (first, rest) = head.split_once("\r\n").unwrap();
        got.status = first.split(' ').nth(1).unwrap().parse().unwrap();
        let headers = rest.lines().filter_map(|line| line.split_once(':'));
        got.headers = headers.map(|(name, value)| (name.to_lowercase(), value.trim().to_owned())).collect();
        got.received = body.len();
        got.complete = got.header("content-length").is_none_or(|length| length.parse() == Ok(body.len()));
        got.right = expected.starts_with(&body);
        got.text = String::from_utf8_lossy(&body[..body.len().min(65536)]).into_owned();
        got.right &= !got.complete || body.len() == expected.len();
    }
}

/// An answer, whole or broken off.
#[derive(Clone, Default)]
pub struct Got {
    /// 0: the connection ended without one.
    pub status: u16,
    /// The beginning of the body.
    pub text: String,
    headers: Vec<(String, String)>,
    received: usize,
    /// As many bytes came as were announced.
    complete: bool,
    /// All that came is what should come.
    right: bool,
    told: String,
}

impl Got {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn is_whole(&self) -> bool {
        self.status == 200 && self.complete && self.right
    }

    pub fn is_broken(&self) -> bool {
        self.status == 0 || self.status == 200 && !self.complete
    }

    /// Wrong bytes, whether or not they were all: what must never be.
    pub fn is_poison(&self) -> bool {
        self.status == 200 && !self.right
    }
}

impl std::fmt::Debug for Got {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { status, told, received, complete, right, .. } = self;
        write!(f, "{told}: {status}, {received} bytes, complete: {complete}, right: {right}")?;
        if *status >= 300 { write!(f, ", {:.1000}", self.text) } else { Ok(()) }
    }
}
