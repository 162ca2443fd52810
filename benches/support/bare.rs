//! The least that hyper can do: answers fixed bytes from memory. A bench runs it as a process of its own, by
//! starting itself anew with `BARE_SERVER` set to how it serves.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;

const VARIABLE: &str = "BARE_SERVER";

/// What is answered under one path.
#[derive(Clone)]
pub struct Page {
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
}

/// Where its connections run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Where {
    /// On the workers of one runtime, as tokio's users usually do.
    Workers,
    /// On as many threads, each connection on one, as ours do.
    Threads,
}

impl Where {
    fn word(self) -> &'static str {
        match self {
            Self::Workers => "workers",
            Self::Threads => "threads",
        }
    }
}

/// Ends when dropped.
pub struct Bare {
    pub address: String,
    child: Child,
}

impl Bare {
    pub fn start(pages: &[Page], place: Where) -> Self {
        let own = std::env::current_exe().unwrap();
        let mut child = Command::new(own)
            .env(VARIABLE, place.word())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        for page in pages {
            let headers: Vec<String> =
                page.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
            writeln!(stdin, "{}\t{}\t{}", page.path, headers.join("\t"), page.body.len()).unwrap();
            stdin.write_all(&page.body).unwrap();
        }
        drop(stdin);
        let mut address = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Self { address: address.trim().to_owned(), child }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // Both fail where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// To be called first in `main`: does not return in the process that is the server.
pub fn serve_if_asked() {
    let Some(word) = std::env::var_os(VARIABLE) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let workers = runtime.metrics().num_workers();
    let threads =
        if word == Where::Threads.word() { (0..workers).map(|_| thread()).collect() } else { vec![] };
    runtime.block_on(serve(read_pages(), threads))
}

/// A thread with a runtime of its own.
fn thread() -> Handle {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let handle = runtime.handle().clone();
    std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
    handle
}

fn read_pages() -> HashMap<String, Response<Bytes>> {
    let mut input = BufReader::new(std::io::stdin());
    let mut pages = HashMap::new();
    let mut line = String::new();
    while input.read_line(&mut line).unwrap() > 0 {
        let fields: Vec<&str> = line.trim_end().split('\t').collect();
        let [path, headers @ .., length] = fields.as_slice() else { panic!("{line}") };
        let mut body = vec![0; length.parse().unwrap()];
        std::io::Read::read_exact(&mut input, &mut body).unwrap();
        let mut response = Response::new(Bytes::from(body));
        for header in headers {
            let (name, value) = header.split_once(": ").unwrap();
            let name: HeaderName = name.parse().unwrap();
            response.headers_mut().insert(name, HeaderValue::from_str(value).unwrap());
        }
        pages.insert((*path).to_owned(), response);
        line.clear();
    }
    pages
}

async fn serve(pages: HashMap<String, Response<Bytes>>, threads: Vec<Handle>) {
    let pages = Arc::new(pages);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    let places = if threads.is_empty() { vec![Handle::current()] } else { threads };
    for place in places.iter().cycle() {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let stream = stream.into_std().unwrap();
        let _inside = place.enter();
        tokio::spawn(connection(TcpStream::from_std(stream).unwrap(), Arc::clone(&pages)));
    }
}

async fn connection(stream: TcpStream, pages: Arc<HashMap<String, Response<Bytes>>>) {
    let service = service_fn(|request| {
        let response = answer(&pages, &request);
        async { Ok::<_, Infallible>(response) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    // How a connection ends is of no interest here.
    let _ = http.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
}

fn answer(pages: &HashMap<String, Response<Bytes>>, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    match pages.get(request.uri().path()) {
        Some(page) => page.clone().map(Full::new),
        None => {
            let mut missing = Response::new(Full::new(Bytes::new()));
            *missing.status_mut() = StatusCode::NOT_FOUND;
            missing
        }
    }
}

/// Fetches a page as a server gives it, to be given by others.
pub fn copy_of(address: &str, path: &str) -> Page {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let response = runtime.block_on(super::load::fetch(address, path));
    let hop = |name: &str| ["connection", "date"].contains(&name);
    let headers = response.headers().iter().filter(|(name, _)| !hop(name.as_str()));
    let headers =
        headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
    let page = Page { path: path.to_owned(), headers, body: response.into_body() };
    assert!(page.headers.iter().any(|(name, _)| name == CONTENT_LENGTH.as_str()));
    assert!(page.headers.iter().any(|(name, _)| name == CONTENT_TYPE.as_str()));
    page
}
