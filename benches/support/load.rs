//! Load: connections that ask for the same again and again, and read no more of an answer than they must.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::HOST;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustix::net::RecvFlags;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Enough to keep a server of four cores busy, few enough to leave it some.
const THREADS: usize = 2;

/// Bytes that ask for `path`, on a connection that is kept.
pub fn get(host: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub answers: u64,
    pub body_bytes: u64,
    pub seconds: f64,
}

impl Load {
    pub fn per_second(&self) -> f64 {
        self.answers as f64 / self.seconds
    }
}

/// Whom a client of TLS believes.
#[derive(Clone)]
pub struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Tls {
    pub fn trusting(ca_pem: &str, name: &'static str) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap()).unwrap();
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Self { connector: TlsConnector::from(Arc::new(config)), name: name.try_into().unwrap() }
    }
}

/// What the connections have in common.
#[derive(Default)]
struct Tally {
    stop: AtomicBool,
    answers: AtomicU64,
    body_bytes: AtomicU64,
}

/// Asks on all connections at once until the time is over. Every answer must be a 200.
pub fn run(address: &str, tls: Option<&Tls>, request: &str, connections: usize, span: Duration) -> Load {
    let tally = Arc::new(Tally::default());
    let threads = THREADS.min(connections);
    let ready = Arc::new(Barrier::new(threads + 1));
    let mut workers = Vec::new();
    for index in 0..threads {
        let own = connections / threads + usize::from(index < connections % threads);
        let (address, request, tls) = (address.to_owned(), request.to_owned(), tls.cloned());
        let (tally, ready) = (Arc::clone(&tally), Arc::clone(&ready));
        workers.push(std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut asking = tokio::task::JoinSet::new();
                for _ in 0..own {
                    let wire = Wire::connect(&address, tls.as_ref()).await;
                    asking.spawn(ask(wire, request.clone(), Arc::clone(&tally)));
                }
                ready.wait();
                asking.join_all().await;
            });
        }));
    }
    ready.wait();
    let began = Instant::now();
    std::thread::sleep(span);
    let load = Load {
        answers: tally.answers.load(Ordering::Relaxed),
        body_bytes: tally.body_bytes.load(Ordering::Relaxed),
        seconds: began.elapsed().as_secs_f64(),
    };
    tally.stop.store(true, Ordering::Relaxed);
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    load
}

async fn ask(mut wire: Wire, request: String, tally: Arc<Tally>) {
    let mut buffer = vec![0; 1 << 20];
    while !tally.stop.load(Ordering::Relaxed) {
        wire.write(request.as_bytes()).await;
        let (mut have, whole) = read_head(&mut wire, &mut buffer[..64 * 1024]).await;
        tally.body_bytes.fetch_add(have as u64, Ordering::Relaxed);
        while have < whole && !tally.stop.load(Ordering::Relaxed) {
            let most = (whole - have).min(buffer.len());
            let read = wire.discard(&mut buffer[..most]).await;
            tally.body_bytes.fetch_add(read as u64, Ordering::Relaxed);
            have += read;
        }
        tally.answers.fetch_add(1, Ordering::Relaxed);
    }
}

/// How much of the body came with the head, and how long it is in all.
async fn read_head(wire: &mut Wire, buffer: &mut [u8]) -> (usize, usize) {
    let mut filled = 0;
    loop {
        filled += wire.read(&mut buffer[filled..]).await;
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut headers);
        if let httparse::Status::Complete(head) = response.parse(&buffer[..filled]).unwrap() {
            assert_eq!(response.code, Some(200), "{}", String::from_utf8_lossy(&buffer[..filled]));
            let length =
                response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
            let length = std::str::from_utf8(length.unwrap().value).unwrap().parse().unwrap();
            return (filled - head, length);
        }
    }
}

enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Wire {
    async fn connect(address: &str, tls: Option<&Tls>) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        match tls {
            None => Self::Plain(stream),
            Some(tls) => Self::Tls(Box::new(tls.connector.connect(tls.name.clone(), stream).await.unwrap())),
        }
    }

    async fn write(&mut self, bytes: &[u8]) {
        match self {
            Self::Plain(stream) => stream.write_all(bytes).await.unwrap(),
            Self::Tls(stream) => stream.write_all(bytes).await.unwrap(),
        }
    }

    async fn read(&mut self, buffer: &mut [u8]) -> usize {
        let read = match self {
            Self::Plain(stream) => stream.read(buffer).await.unwrap(),
            Self::Tls(stream) => stream.read(buffer).await.unwrap(),
        };
        assert_ne!(read, 0, "the server hung up");
        read
    }

    /// Takes bytes off the socket, without copying them where it can: what is measured is the server.
    async fn discard(&mut self, scratch: &mut [u8]) -> usize {
        let Self::Plain(stream) = self else { return self.read(scratch).await };
        let taken = stream.async_io(Interest::READABLE, || {
            let (_, length) = rustix::net::recv(&*stream, &mut *scratch, RecvFlags::TRUNC)?;
            Ok(length)
        });
        let taken = taken.await.unwrap();
        assert_ne!(taken, 0, "the server hung up");
        taken
    }
}

/// One whole answer.
pub async fn fetch(address: &str, path: &str) -> Response<Bytes> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    let driving = tokio::spawn(connection);
    let request = Request::get(path).header(HOST, address).body(Empty::<Bytes>::new()).unwrap();
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    assert_eq!(head.status, 200, "{path}: {}", String::from_utf8_lossy(&body));
    driving.abort();
    Response::from_parts(head, body)
}
