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
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::TcpStream;

/// Enough to keep a server of four cores busy, few enough to leave it some.
const THREADS: usize = 2;

/// Bytes that asks for `path`, on a connection that is kept.
pub fn get(address: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n")
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

/// Asks on all connections at once until the time is over. Every answer must be a 200 as long as the first.
pub fn run(address: &str, request: &str, connections: usize, span: Duration) -> Load {
    let stop = Arc::new(AtomicBool::new(false));
    let (answers, body_bytes) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let threads = THREADS.min(connections);
    let ready = Arc::new(Barrier::new(threads + 1));
    let workers: Vec<_> = (0..threads)
        .map(|index| {
            let own = connections / threads + usize::from(index < connections % threads);
            let (address, request) = (address.to_owned(), request.to_owned());
            let (stop, ready) = (Arc::clone(&stop), Arc::clone(&ready));
            let (answers, body_bytes) = (Arc::clone(&answers), Arc::clone(&body_bytes));
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let mut asking = tokio::task::JoinSet::new();
                    for _ in 0..own {
                        let stream = TcpStream::connect(&address).await.unwrap();
                        stream.set_nodelay(true).unwrap();
                        let (stop, answers, bytes) = (stop.clone(), answers.clone(), body_bytes.clone());
                        asking.spawn(ask(stream, request.clone(), stop, answers, bytes));
                    }
                    ready.wait();
                    asking.join_all().await;
                });
            })
        })
        .collect();
    ready.wait();
    let began = Instant::now();
    std::thread::sleep(span);
    stop.store(true, Ordering::Relaxed);
    let seconds = began.elapsed().as_secs_f64();
    let load = Load {
        answers: answers.load(Ordering::Relaxed),
        body_bytes: body_bytes.load(Ordering::Relaxed),
        seconds,
    };
    for worker in workers {
        worker.join().unwrap();
    }
    load
}

async fn ask(
    mut stream: TcpStream,
    request: String,
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    body_bytes: Arc<AtomicU64>,
) {
    let mut buffer = vec![0; 1 << 20];
    while !stop.load(Ordering::Relaxed) {
        stream.write_all(request.as_bytes()).await.unwrap();
        let (have, whole) = read_head(&stream, &mut buffer[..64 * 1024]).await;
        body_bytes.fetch_add(have as u64, Ordering::Relaxed);
        let mut left = whole - have;
        while left > 0 {
            let most = left.min(buffer.len());
            let read = discard(&stream, &mut buffer[..most]).await;
            body_bytes.fetch_add(read as u64, Ordering::Relaxed);
            left -= read;
            if stop.load(Ordering::Relaxed) {
                return;
            }
        }
        answers.fetch_add(1, Ordering::Relaxed);
    }
}

/// How much of the body came with the head, and how long it is in all.
async fn read_head(stream: &TcpStream, buffer: &mut [u8]) -> (usize, usize) {
    let mut filled = 0;
    loop {
        stream.readable().await.unwrap();
        match stream.try_read(&mut buffer[filled..]) {
            Ok(0) => panic!("the server hung up"),
            Ok(read) => filled += read,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(error) => panic!("{error}"),
        }
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

/// Takes bytes off the socket without copying them: what is measured is the server.
async fn discard(stream: &TcpStream, untouched: &mut [u8]) -> usize {
    loop {
        stream.readable().await.unwrap();
        let taken = stream.try_io(Interest::READABLE, || {
            let (_, length) = rustix::net::recv(stream, &mut *untouched, RecvFlags::TRUNC)?;
            Ok(length)
        });
        match taken {
            Ok(0) => panic!("the server hung up"),
            Ok(read) => return read,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => panic!("{error}"),
        }
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
