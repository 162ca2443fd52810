//! Owns the TLS front before the upstream registry: tokens, the weather, and the log of what was asked.
//! Must not know: who asks.

use crate::trouble::{Context, Outcome, Trouble};
use crate::wire::Authority;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{AUTHORIZATION, HOST, LOCATION, RANGE, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context as Task, Poll};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_rustls::TlsAcceptor;

pub const REGISTRY: &str = "registry.upstream.test";
pub const TOKEN_SERVER: &str = "auth.upstream.test";
pub const CDN: &str = "cdn.upstream.test";
pub const PORT: u16 = 8443;
/// Images under this name want this user; all others may be pulled by anybody.
pub const PRIVATE: &str = "private/";
pub const USER: &str = "robot";
pub const PASSWORD: &str = "correct horse";
/// Blobs of images under this name lie on another host, which refuses to see a token.
pub const ON_CDN: &str = "cdn/";

type Content = UnsyncBoxBody<Bytes, Trouble>;
type Answer = Response<Content>;

/// What the upstream is like at the moment.
#[derive(Clone, Copy, PartialEq)]
pub enum Weather {
    Fair,
    /// Every request is answered 503.
    Unavailable,
    /// Every request is answered 429 with Retry-After.
    TooMany,
    /// Requests are taken and never answered.
    Silent,
    /// All answers share a line of this many bytes a second.
    Slow(u64),
    /// An answer breaks off after this many bytes, unless the request asked for a range.
    Breaking(u64),
}

/// One request as the upstream saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: Method,
    pub host: String,
    pub path: String,
    pub range: Option<String>,
    pub status: Option<u16>,
}

impl Seen {
    fn part(&self, kind: &str) -> Option<&str> {
        self.path.split_once(kind).map(|(_, rest)| rest).filter(|_| self.path.starts_with("/v2/"))
    }
}

/// What was seen between two moments.
pub struct Log(pub Vec<Seen>);

impl Log {
    /// How many GETs each blob's digest got; proofs of one byte are not downloads, nor are requests that were
    /// only sent to the token server or on to the CDN.
    pub fn blob_gets(&self) -> BTreeMap<String, usize> {
        self.gets("/blobs/", |seen| seen.range.as_deref() != Some("bytes=0-0"))
    }

    /// How many GETs each manifest got, by tag or digest.
    pub fn manifest_gets(&self) -> BTreeMap<String, usize> {
        self.gets("/manifests/", |_| true)
    }

    fn gets(&self, kind: &str, counts: impl Fn(&Seen) -> bool) -> BTreeMap<String, usize> {
        let mut all = BTreeMap::new();
        for seen in self.0.iter().filter(|seen| seen.method == Method::GET && seen.host.starts_with(REGISTRY))
        {
            let answered = matches!(seen.status, Some(200 | 206 | 307));
            if let Some(what) = seen.part(kind).filter(|_| answered && counts(seen)) {
                *all.entry(what.to_owned()).or_default() += 1;
            }
        }
        all
    }

    /// Where GETs of this blob began that went on with what somebody had already.
    pub fn resumed_at(&self, digest: &str) -> Vec<u64> {
        let start =
            |seen: &Seen| seen.range.as_deref()?.strip_prefix("bytes=")?.split('-').next()?.parse().ok();
        let asked =
            self.0.iter().filter(|seen| seen.part("/blobs/") == Some(digest) && seen.status == Some(206));
        asked.filter_map(start).filter(|at| *at > 0).collect()
    }

    pub fn count(&self, wanted: impl Fn(&Seen) -> bool) -> usize {
        self.0.iter().filter(|seen| wanted(seen)).count()
    }

    pub fn lines(&self) -> String {
        let line = |seen: &Seen| {
            let status = seen.status.map_or("no answer".to_owned(), |status| status.to_string());
            format!(
                "    {} {}{} {} {status}\n",
                seen.method,
                seen.host,
                seen.path,
                seen.range.as_deref().unwrap_or("")
            )
        };
        self.0.iter().map(line).collect()
    }
}

struct Token {
    image: String,
}

struct State {
    weather: Weather,
    log: Vec<Seen>,
    tokens: HashMap<String, Token>,
    /// When the shared slow line is free again.
    line_free: Instant,
}

struct Shared {
    state: Mutex<State>,
    registry: SocketAddr,
    client: Client<HttpConnector, Incoming>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding the front's state")
    }
}

pub struct Front {
    shared: Arc<Shared>,
    address: SocketAddr,
    tls: TlsAcceptor,
    runtime: Handle,
    serving: Option<JoinHandle<()>>,
}

impl Front {
    pub fn start(
        runtime: &Handle,
        address: SocketAddr,
        authority: &Authority,
        registry: SocketAddr,
    ) -> Outcome<Front> {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let state = State {
            weather: Weather::Fair,
            log: Vec::new(),
            tokens: HashMap::new(),
            line_free: Instant::now(),
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), registry, client });
        let tls = TlsAcceptor::from(authority.server()?);
        let mut front = Front { shared, address, tls, runtime: runtime.clone(), serving: None };
        front.resume()?;
        Ok(front)
    }

    /// Refuses connections, and cuts those there are, until `resume`.
    pub fn cease(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
            // The listener closes when the task is really gone.
            let _ = self.runtime.block_on(serving);
        }
    }

    pub fn resume(&mut self) -> Outcome {
        let listener = self.runtime.block_on(TcpListener::bind(self.address)).context(self.address)?;
        self.serving = Some(self.runtime.spawn(accept(listener, self.tls.clone(), self.shared.clone())));
        Ok(())
    }

    pub fn serving(&self) -> bool {
        self.serving.is_some()
    }

    pub fn set(&self, weather: Weather) {
        self.shared.state().weather = weather;
    }

    /// A moment, for `since`.
    pub fn mark(&self) -> usize {
        self.shared.state().log.len()
    }

    pub fn since(&self, mark: usize) -> Log {
        Log(self.shared.state().log[mark..].to_vec())
    }
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, shared: Arc<Shared>) {
    // Dropped with this task, it ends every connection.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                connections.spawn(serve(stream, tls.clone(), shared.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: tokio::net::TcpStream, tls: TlsAcceptor, shared: Arc<Shared>) {
    let Ok(stream) = tls.accept(stream).await else { return };
    let service = hyper::service::service_fn(move |request| answer(shared.clone(), request));
    // A client that goes away is no business of ours.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Answer, hyper::Error> {
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let host = header(HOST).unwrap_or_default();
    let (place, weather) = {
        let mut state = shared.state();
        state.log.push(Seen {
            method: request.method().clone(),
            host: host.clone(),
            path: request.uri().path().to_owned(),
            range: header(RANGE),
            status: None,
        });
        (state.log.len() - 1, state.weather)
    };
    let response = match weather {
        Weather::Unavailable => plain(StatusCode::SERVICE_UNAVAILABLE, "under repair"),
        Weather::TooMany => {
            let mut response =
                plain(StatusCode::TOO_MANY_REQUESTS, "toomanyrequests: you have reached your limit");
            response.headers_mut().insert(RETRY_AFTER, 30.into());
            response
        }
        Weather::Silent => std::future::pending().await,
        Weather::Fair | Weather::Slow(_) | Weather::Breaking(_) => match host.split(':').next() {
            Some(TOKEN_SERVER) => grant(&shared, &request),
            Some(CDN) => deliver(&shared, request).await,
            _ => registry(&shared, request).await,
        },
    };
    shared.state().log[place].status = Some(response.status().as_u16());
    Ok(match weather {
        Weather::Slow(rate) => {
            response.map(|body| Throttled { body, rate, shared, waiting: None }.boxed_unsync())
        }
        _ => response,
    })
}

fn plain(status: StatusCode, text: &str) -> Answer {
    let body = Full::new(Bytes::from(text.to_owned())).map_err(|never| match never {});
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = status;
    response
}

/// The token server: anybody gets a token for a public image, the one user for every image.
fn grant(shared: &Shared, request: &Request<Incoming>) -> Answer {
    let query: HashMap<String, String> =
        url::form_urlencoded::parse(request.uri().query().unwrap_or("").as_bytes()).into_owned().collect();
    let known = request.headers().get(AUTHORIZATION).map(|value| value.as_bytes() == basic().as_bytes());
    let scope = query.get("scope").map(String::as_str).unwrap_or_default();
    let image = scope.strip_prefix("repository:").and_then(|scope| scope.strip_suffix(":pull"));
    let right_service = query.get("service").is_some_and(|service| service == REGISTRY);
    let (Some(image), true) = (image, right_service && request.uri().path() == "/token") else {
        return plain(
            StatusCode::BAD_REQUEST,
            "wanted: /token?service=registry.upstream.test&scope=repository:...:pull",
        );
    };
    match known {
        Some(false) => return plain(StatusCode::UNAUTHORIZED, "incorrect username or password"),
        None if image.starts_with(PRIVATE) => {
            return plain(StatusCode::UNAUTHORIZED, "this image wants a user");
        }
        None | Some(true) => {}
    }
    let token = format!("{:032x}", fastrand::u128(..));
    shared.state().tokens.insert(token.clone(), Token { image: image.to_owned() });
    let answer = serde_json::json!({ "token": token, "expires_in": 300 });
    plain(StatusCode::OK, &answer.to_string())
}

fn basic() -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{USER}:{PASSWORD}")))
}

/// The registry: a token for this very image first.
async fn registry(shared: &Shared, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    let image = image_of(&path).unwrap_or_default().to_owned();
    let token =
        request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let granted = token.is_some_and(|token| {
        shared.state().tokens.get(token).is_some_and(|token| path == "/v2/" || token.image == image)
    });
    if !granted {
        let mut response = plain(StatusCode::UNAUTHORIZED, r#"{"errors":[{"code":"UNAUTHORIZED"}]}"#);
        let scope =
            if image.is_empty() { String::new() } else { format!(",scope=\"repository:{image}:pull\"") };
        let challenge =
            format!("Bearer realm=\"https://{TOKEN_SERVER}:{PORT}/token\",service=\"{REGISTRY}\"{scope}");
        response
            .headers_mut()
            .insert(WWW_AUTHENTICATE, challenge.parse().expect("a challenge is a header value"));
        return response;
    }
    if image.starts_with(ON_CDN) && path.contains("/blobs/") {
        let mut response = plain(StatusCode::TEMPORARY_REDIRECT, "");
        let location = format!("https://{CDN}:{PORT}{path}?signature=secret");
        response.headers_mut().insert(LOCATION, location.parse().expect("a path is a header value"));
        return response;
    }
    forward(shared, request).await
}

/// `/v2/<image>/manifests|blobs|tags|referrers/...`
fn image_of(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("/v2/")?;
    let kinds = ["/manifests/", "/blobs/", "/tags/", "/referrers/"];
    kinds.iter().find_map(|kind| rest.rsplit_once(kind)).map(|(image, _)| image)
}

/// The CDN: a signed address, and no token, as S3 has it.
async fn deliver(shared: &Shared, request: Request<Incoming>) -> Answer {
    if request.headers().contains_key(AUTHORIZATION) {
        return plain(StatusCode::BAD_REQUEST, "only one auth mechanism allowed");
    }
    if request.uri().query() != Some("signature=secret") {
        return plain(StatusCode::FORBIDDEN, "the signature is wrong");
    }
    forward(shared, request).await
}

async fn forward(shared: &Shared, mut request: Request<Incoming>) -> Answer {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let target = format!("http://{}{path}", shared.registry);
    *request.uri_mut() = target.parse().expect("a path of a request is a path");
    request.headers_mut().remove(AUTHORIZATION);
    request.headers_mut().remove(HOST);
    match shared.client.request(request).await {
        Ok(response) => response.map(|body| body.map_err(Trouble::from).boxed_unsync()),
        Err(error) => plain(StatusCode::BAD_GATEWAY, &error.to_string()),
    }
}

/// A body that shares one line with all the others.
struct Throttled {
    body: Content,
    rate: u64,
    shared: Arc<Shared>,
    /// A frame on its way, and when it arrives.
    waiting: Option<(Pin<Box<Sleep>>, Frame<Bytes>)>,
}

impl Throttled {
    fn send(&mut self, frame: Frame<Bytes>) {
        let length = frame.data_ref().map_or(0, Bytes::len);
        let mut state = self.shared.state();
        let busy = Duration::from_secs_f64(length as f64 / self.rate as f64);
        state.line_free = state.line_free.max(Instant::now()) + busy;
        self.waiting = Some((Box::pin(sleep_until(state.line_free)), frame));
    }
}

impl Body for Throttled {
    type Data = Bytes;
    type Error = Trouble;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Trouble>>> {
        loop {
            if let Some((arrival, _)) = &mut self.waiting {
                std::task::ready!(arrival.as_mut().poll(task));
                return Poll::Ready(self.waiting.take().map(|(_, frame)| Ok(frame)));
            }
            match std::task::ready!(Pin::new(&mut self.body).poll_frame(task)) {
                Some(Ok(frame)) => self.send(frame),
                end => return Poll::Ready(end),
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body that ends in the middle, as a broken connection.
struct Broken {
    body: Content,
    left: u64,
}

impl Body for Broken {
    type Data = Bytes;
    type Error = Trouble;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Trouble>>> {
        if self.left == 0 {
            return Poll::Ready(Some(Err("the connection breaks".into())));
        }
        let mut frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(task));
        if let Some(Ok(frame)) = &mut frame
            && let Some(data) = frame.data_mut()
        {
            data.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
            self.left -= data.len() as u64;
        }
        Poll::Ready(frame)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
