//! Owns the TLS front before the upstream registry: tokens, the weather, and what is written down of requests.
//! Must not know: who asks.

use crate::line::{Broken, Content, Line, Throttled};
use crate::log::{Log, Seen};
use crate::trouble::{Context, Outcome, Trouble};
use crate::wire::Authority;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HOST, LOCATION, RANGE, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Request, Response, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, JoinSet};
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

struct Token {
    image: String,
}

struct State {
    weather: Weather,
    log: Vec<Seen>,
    tokens: HashMap<String, Token>,
}

struct Shared {
    state: Mutex<State>,
    registry: SocketAddr,
    client: Client<HttpConnector, Incoming>,
    line: Arc<Line>,
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
        let state = State { weather: Weather::Fair, log: Vec::new(), tokens: HashMap::new() };
        let shared =
            Arc::new(Shared { state: Mutex::new(state), registry, client, line: Arc::new(Line::new()) });
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
    let whole = {
        let seen = &mut shared.state().log[place];
        seen.status = Some(response.status().as_u16());
        seen.range.is_none()
    };
    Ok(response.map(|body| match weather {
        Weather::Slow(rate) => Throttled::new(body, rate, shared.line.clone()).boxed_unsync(),
        Weather::Breaking(after) if whole => Broken { body, left: after }.boxed_unsync(),
        _ => body,
    }))
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
