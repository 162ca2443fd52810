//! An HTTP client that sends exactly what it is told: one request, one connection.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A request to be sent.
#[derive(Clone, Debug)]
pub struct Request {
    address: SocketAddr,
    method: String,
    path: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    chunked: bool,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn new(address: SocketAddr, method: &str, path: &str) -> Self {
        Self {
            address,
            method: method.to_owned(),
            path: path.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
            chunked: false,
        }
    }

    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    pub fn host(self, host: &str) -> Self {
        self.header("Host", host)
    }

    pub fn bearer(self, token: &str) -> Self {
        self.header("Authorization", format!("Bearer {token}"))
    }

    pub fn basic(self, user: &str, password: &str) -> Self {
        self.header("Authorization", format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
    }

    /// Through a proxy that the server trusts, from this address.
    pub fn through_proxy(self, client: &str) -> Self {
        self.header("X-Forwarded-For", client)
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub fn json(self, body: &Value) -> Self {
        self.header("Content-Type", "application/json").body(body.to_string())
    }

    pub fn form(self, body: &str) -> Self {
        self.header("Content-Type", "application/x-www-form-urlencoded").body(body)
    }

    /// Without a length, in pieces of five bytes.
    pub fn chunked(mut self) -> Self {
        self.chunked = true;
        self
    }

    pub async fn send(self) -> Answer {
        let mut text =
            format!("{} {} HTTP/1.1\r\nConnection: close\r\n", self.method, self.path).into_bytes();
        if !self.headers.iter().any(|(name, _)| name == "Host") {
            text.extend(format!("Host: localhost:{}\r\n", self.address.port()).bytes());
        }
        for (name, value) in &self.headers {
            text.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        if self.chunked {
            text.extend(b"Transfer-Encoding: chunked\r\n\r\n");
            for piece in self.body.chunks(5) {
                text.extend([format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat());
            }
            text.extend(b"0\r\n\r\n");
        } else {
            if !self.body.is_empty() || self.method != "GET" {
                text.extend(format!("Content-Length: {}\r\n", self.body.len()).bytes());
            }
            text.extend(b"\r\n");
            text.extend(&self.body);
        }
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // A server that refuses the head may close before it has read all.
        let _ = stream.write_all(&text).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        Answer::parse(&answer)
    }
}

impl Answer {
    fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no head: {}", bytes.escape_ascii()));
        let head = String::from_utf8_lossy(&bytes[..end]);
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.filter_map(|line| {
            let (name, value) = line.split_once(": ")?;
            Some((name.to_lowercase(), value.to_owned()))
        });
        Self { status, headers: headers.collect(), body: bytes[end + 4..].to_vec() }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}: {text}", self.status))
    }

    /// The code of a registry's error.
    pub fn code(&self) -> String {
        self.json()["errors"][0]["code"].as_str().unwrap_or_default().to_owned()
    }

    /// A parameter of the Bearer challenge.
    pub fn challenge(&self, parameter: &str) -> Option<String> {
        let rest = self.header("www-authenticate")?.strip_prefix("Bearer ")?;
        let start = rest.find(&format!("{parameter}=\""))? + parameter.len() + 2;
        Some(rest[start..].split('"').next().unwrap().to_owned())
    }

    /// The token in a token endpoint's answer.
    pub fn token(&self) -> String {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        self.json()["token"].as_str().unwrap().to_owned()
    }
}
