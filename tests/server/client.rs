//! A client that sends exactly what it is told, and tells a whole answer from a broken one.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// No answer takes as long, unless the server hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A request, not yet sent.
#[derive(Clone, Debug)]
pub struct Ask {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    from: IpAddr,
}

impl Ask {
    pub fn new(method: &str, target: &str) -> Self {
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
            from: Ipv4Addr::LOCALHOST.into(),
        }
    }

    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    pub fn head(target: &str) -> Self {
        Self::new("HEAD", target)
    }

    /// Set, so that a `Host` replaces the usual one.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn host(self, host: &str) -> Self {
        self.header("Host", host)
    }

    pub fn json(mut self, body: &Value) -> Self {
        self.body = body.to_string().into_bytes();
        self.header("Content-Type", "application/json")
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// From another address of this machine: all of 127.0.0.0/8 is.
    pub fn from(mut self, address: &str) -> Self {
        self.from = address.parse().unwrap();
        self
    }

    fn bytes(&self, address: SocketAddr) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        if !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head.push_str(&format!("Host: localhost:{}\r\n", address.port()));
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !self.body.is_empty() {
            head.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        head.push_str("Connection: close\r\n\r\n");
        [head.into_bytes(), self.body.clone()].concat()
    }

    /// Sends it, and reads the answer to its end or its break.
    pub async fn send(self, to: SocketAddr) -> Answer {
        self.open(to).await.rest().await
    }

    /// Sends it, and reads the head of the answer.
    pub async fn open(self, to: SocketAddr) -> Open {
        let is_head = self.method == "HEAD";
        Open::read(self.unread(to).await, is_head).await
    }

    /// Sends it, and reads nothing.
    pub async fn unread(self, to: SocketAddr) -> TcpStream {
        let mut stream = connect(self.from, to).await;
        stream.write_all(&self.bytes(to)).await.unwrap();
        stream
    }
}

async fn connect(from: IpAddr, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

/// Sends these bytes as they are, and reads the first answer.
pub async fn raw(to: SocketAddr, bytes: impl AsRef<[u8]>) -> Answer {
    let mut stream = TcpStream::connect(to).await.unwrap();
    // A server that refuses early may close before it has read everything.
    let _ = stream.write_all(bytes.as_ref()).await;
    Open::read(stream, bytes.as_ref().starts_with(b"HEAD")).await.rest().await
}

/// An answer whose body is still to be read.
pub struct Open {
    pub status: u16,
    headers: Vec<(String, String)>,
    stream: TcpStream,
    body: Vec<u8>,
    is_head: bool,
}

impl Open {
    async fn read(mut stream: TcpStream, is_head: bool) -> Self {
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break at;
            }
            let before = bytes.len();
            timeout(PATIENCE, stream.read_buf(&mut bytes)).await.expect("a head in time").unwrap_or(0);
            assert_ne!(bytes.len(), before, "no answer: {}", String::from_utf8_lossy(&bytes));
        };
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let (first, rest) = head.split_once("\r\n").unwrap_or((&head, ""));
        let headers = rest.lines().map(|line| line.split_once(':').unwrap());
        Self {
            status: first.split(' ').nth(1).unwrap().parse().unwrap(),
            headers: headers.map(|(name, value)| (name.to_lowercase(), value.trim().to_owned())).collect(),
            stream,
            body: bytes[end + 4..].to_vec(),
            is_head,
        }
    }

    /// Reads on until this much of the body is here, or it has ended.
    pub async fn until(&mut self, bytes: usize) -> &[u8] {
        while self.body.len() < bytes {
            match timeout(PATIENCE, self.stream.read_buf(&mut self.body)).await.expect("bytes in time") {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
        &self.body
    }

    pub async fn rest(mut self) -> Answer {
        self.until(usize::MAX).await;
        let Self { status, headers, body, is_head, .. } = self;
        Answer { status, headers, body, is_head }
    }
}

/// An answer, whole or broken off.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    is_head: bool,
}

impl Answer {
    /// The one value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value);
        let value = values.next();
        assert_eq!(values.next(), None, "{name} is there twice");
        value.map(String::as_str)
    }

    /// All of it, as a text to search in.
    pub fn all(&self) -> String {
        let headers = self.headers.iter().map(|(name, value)| format!("{name}: {value}\n"));
        format!("{}\n{}", headers.collect::<String>(), String::from_utf8_lossy(&self.body))
    }

    /// Whether as many bytes came as were announced.
    pub fn is_whole(&self) -> bool {
        let announced = self.header("content-length").map(|length| length.parse::<usize>().unwrap());
        self.is_head || matches!(self.status, 204 | 304) || announced == Some(self.body.len())
    }

    pub fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/json"), "{}", self.all());
        assert!(self.is_whole());
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn cache(&self) -> Option<&str> {
        self.header("x-cache")
    }

    /// The one error of the registry's form: `{"errors":[{"code","message"}]}`.
    pub fn error(&self) -> (u16, String, String) {
        let json = self.json();
        let errors = json["errors"].as_array().unwrap_or_else(|| panic!("no errors in {json}"));
        assert_eq!(errors.len(), 1, "{json}");
        let text = |name: &str| errors[0][name].as_str().unwrap().to_owned();
        assert!(!text("message").is_empty());
        (self.status, text("code"), text("message"))
    }

    /// Status and code of the error.
    pub fn code(&self) -> (u16, String) {
        let (status, code, _) = self.error();
        (status, code)
    }

    /// The management API's form: `{"error":{"field"?,"message","hint"?}}`.
    pub fn api_error(&self) -> (u16, String, String) {
        let json = self.json();
        let error = json["error"].as_object().unwrap_or_else(|| panic!("no error in {json}"));
        let text = |name: &str| error.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        assert!(!text("message").is_empty());
        (self.status, text("field"), format!("{} {}", text("message"), text("hint")))
    }
}
