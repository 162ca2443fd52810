//! A scripted upstream: a real registry on a loopback port that serves pulls, writes down every request,
//! and does wrong what its script says.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderMap};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use url::Url;

use super::body::{Ending, Feed, Line, Plan};
use super::effects::{Cable, Effects, HangUp};
use super::fault::{Fault, Script};
use super::image::{Content, Image, Index};
use super::shelf::{Answer, Shelf, parameter};
use super::tls::Identity;

/// Who may read.
#[derive(Clone, Debug)]
pub enum Access {
    Open,
    /// With a token from `/token` on the same server; `user` is whom it gives one to, `None`: anyone.
    Token {
        user: Option<(String, String)>,
        lifetime_s: Option<u64>,
    },
    Basic {
        user: (String, String),
    },
}

impl Access {
    pub fn anonymous_token() -> Self {
        Self::Token { user: None, lifetime_s: Some(300) }
    }

    pub fn token_for(user: &str, password: &str) -> Self {
        Self::Token { user: Some((user.to_owned(), password.to_owned())), lifetime_s: Some(300) }
    }

    pub fn basic(user: &str, password: &str) -> Self {
        Self::Basic { user: (user.to_owned(), password.to_owned()) }
    }
}

#[derive(Clone)]
pub struct Options {
    pub access: Access,
    pub tls: bool,
    /// The name that `url()` and the token server's realm go by: `127.0.0.1` or `localhost`.
    pub host: &'static str,
    /// Bytes a second for each connection.
    pub connection_rate: Option<u64>,
    /// Bytes a second for all connections together.
    pub line_rate: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        let access = Access::Open;
        Self { access, tls: false, host: "127.0.0.1", connection_rate: None, line_rate: None }
    }
}

/// A request that came in.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub query: String,
    pub headers: HeaderMap,
    /// Of the body, so far: as handed to the connection.
    pub bytes_sent: u64,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub fn range(&self) -> Option<&str> {
        self.header("range")
    }

    pub fn authorized(&self) -> bool {
        self.headers.contains_key(header::AUTHORIZATION)
    }
}

/// The running server. Stops when dropped.
pub struct Registry {
    address: SocketAddr,
    shared: Arc<Shared>,
    serving: Mutex<Option<JoinHandle<()>>>,
    /// Keeps the address while nothing is served.
    resting: Mutex<Option<TcpSocket>>,
}

struct Shared {
    options: Options,
    url: Url,
    identity: Option<Identity>,
    line: Option<Arc<Line>>,
    shelf: Mutex<Shelf>,
    script: Mutex<Script>,
    log: Mutex<Vec<(Seen, Arc<AtomicU64>)>>,
    tokens: Mutex<Tokens>,
    realm: Mutex<Option<String>>,
    connections: AtomicUsize,
}

#[derive(Default)]
struct Tokens {
    given: u64,
    /// Token and scope.
    valid: Vec<(String, String)>,
}

impl Registry {
    /// Open to all, without TLS.
    pub async fn open() -> Self {
        Self::start(Options::default()).await
    }

    pub async fn start(options: Options) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let scheme = if options.tls { "https" } else { "http" };
        let shared = Arc::new(Shared {
            url: Url::parse(&format!("{scheme}://{}:{}", options.host, address.port())).unwrap(),
            identity: options.tls.then(Identity::new),
            line: options.line_rate.map(|rate| Arc::new(Line::new(rate))),
            shelf: Mutex::default(),
            script: Mutex::default(),
            log: Mutex::default(),
            tokens: Mutex::default(),
            realm: Mutex::default(),
            connections: AtomicUsize::new(0),
            options,
        });
        let serving = tokio::spawn(accept(listener, shared.clone()));
        Self { address, shared, serving: Mutex::new(Some(serving)), resting: Mutex::default() }
    }

    pub fn url(&self) -> Url {
        self.shared.url.clone()
    }

    /// The same server by another of its names.
    pub fn url_as(&self, host: &str) -> Url {
        let mut url = self.url();
        url.set_host(Some(host)).unwrap();
        url
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What clients must trust, where this server speaks TLS.
    pub fn ca_pem(&self) -> &str {
        &self.shared.identity.as_ref().expect("a server with TLS").ca_pem
    }

    pub fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shared.shelf.lock().unwrap()
    }

    pub fn add_image(&self, name: &str, tag: &str, image: &Image) {
        let mut shelf = self.shelf();
        shelf.add_image(name, image);
        shelf.tag(name, tag, image.manifest.digest);
    }

    pub fn add_index(&self, name: &str, tag: &str, index: &Index) {
        let mut shelf = self.shelf();
        shelf.add_index(name, index);
        shelf.tag(name, tag, index.manifest.digest);
    }

    /// A blob of `size` bytes in image `name`.
    pub fn add_blob(&self, name: &str, seed: u64, size: usize) -> Content {
        let blob = Content::random(seed, size);
        self.shelf().add_blob(name, &blob);
        blob
    }

    /// The next requests whose `METHOD /path?query` contains `text` suffer these, one each.
    pub fn script(&self, text: &str, faults: impl IntoIterator<Item = Fault>) {
        self.shared.script.lock().unwrap().queue(text, faults);
    }

    /// All requests whose `METHOD /path?query` contains `text` suffer this.
    pub fn always(&self, text: &str, fault: Fault) {
        self.shared.script.lock().unwrap().always(text, fault);
    }

    pub fn behave(&self) {
        self.shared.script.lock().unwrap().clear();
    }

    /// From now on no token given so far is good.
    pub fn revoke_tokens(&self) {
        self.shared.tokens.lock().unwrap().valid.clear();
    }

    /// Names another token server in challenges.
    pub fn set_realm(&self, realm: &str) {
        *self.shared.realm.lock().unwrap() = Some(realm.to_owned());
    }

    /// Everything that was asked, in order.
    pub fn log(&self) -> Vec<Seen> {
        let log = self.shared.log.lock().unwrap();
        log.iter()
            .map(|(seen, sent)| Seen { bytes_sent: sent.load(Ordering::Relaxed), ..seen.clone() })
            .collect()
    }

    /// The requests whose `METHOD /path` contains `text`.
    pub fn asked(&self, text: &str) -> Vec<Seen> {
        let mut log = self.log();
        log.retain(|seen| format!("{} {}", seen.method, seen.path).contains(text));
        log
    }

    pub fn forget(&self) {
        self.shared.log.lock().unwrap().clear();
    }

    /// Accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Ends all connections and refuses new ones.
    pub async fn stop(&self) {
        let serving = self.serving.lock().unwrap().take();
        if let Some(serving) = serving {
            serving.abort();
            let _ = serving.await;
        }
        // Nobody else gets the address meanwhile: who does not listen refuses.
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(self.address).unwrap();
        *self.resting.lock().unwrap() = Some(socket);
    }

    /// After `stop`: serves again, at the same address and with the same content.
    pub async fn resume(&self) {
        let socket = self.resting.lock().unwrap().take().expect("it was stopped");
        let listener = socket.listen(1024).unwrap();
        *self.serving.lock().unwrap() = Some(tokio::spawn(accept(listener, self.shared.clone())));
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if let Some(serving) = self.serving.lock().unwrap().take() {
            serving.abort();
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped with this task, and so are the connections.
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        shared.connections.fetch_add(1, Ordering::Relaxed);
        connections.spawn(serve(stream, shared.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    stream.set_nodelay(true).unwrap();
    let std = stream.into_std().unwrap();
    let cable = Arc::new(Cable::new(std.try_clone().unwrap()));
    let stream = TcpStream::from_std(std).unwrap();
    let identity = shared.identity.clone();
    let line = shared.options.connection_rate.map(|rate| Arc::new(Line::new(rate)));
    let service = service_fn(move |request| {
        let (shared, cable, line) = (shared.clone(), cable.clone(), line.clone());
        async move { shared.handle(request, cable, line).await }
    });
    // A client that goes away, and a scripted break, are both how connections end here.
    let http = hyper::server::conn::http1::Builder::new();
    let _ = match &identity {
        None => http.serve_connection(TokioIo::new(stream), service).await,
        Some(identity) => match identity.acceptor.accept(stream).await {
            Ok(stream) => http.serve_connection(TokioIo::new(stream), service).await,
            Err(_) => return,
        },
    };
}

impl Shared {
    async fn handle(
        &self,
        request: Request<Incoming>,
        cable: Arc<Cable>,
        connection: Option<Arc<Line>>,
    ) -> Result<Response<Feed>, HangUp> {
        let seen = Seen {
            method: request.method().to_string(),
            path: request.uri().path().to_owned(),
            query: request.uri().query().unwrap_or_default().to_owned(),
            headers: request.headers().clone(),
            bytes_sent: 0,
        };
        let counter = Arc::new(AtomicU64::new(0));
        let mut effects = Effects::default();
        let line = format!("{} {}?{}", seen.method, seen.path, seen.query);
        effects.add(self.script.lock().unwrap().take(&line));
        self.log.lock().unwrap().push((seen.clone(), counter.clone()));

        tokio::time::sleep(effects.delay).await;
        if let Some(gate) = &effects.hold {
            gate.passed().await;
        }
        if let Some(bytes) = &effects.raw {
            cable.send(bytes);
            return Err(HangUp);
        }
        if let Some(reset) = effects.hang_up {
            if reset {
                cable.will_reset();
            }
            return Err(HangUp);
        }
        let answer = effects.instead.take().unwrap_or_else(|| self.answer(&seen, effects.ignore_range));
        Ok(self.send(answer, &effects, &seen, cable, connection, counter))
    }

    fn send(
        &self,
        mut answer: Answer,
        effects: &Effects,
        seen: &Seen,
        cable: Arc<Cable>,
        connection: Option<Arc<Line>>,
        counter: Arc<AtomicU64>,
    ) -> Response<Feed> {
        for (name, value) in &effects.headers {
            answer.set(name, value);
        }
        let mut bytes = if effects.wrong_byte.is_some() || effects.longer > 0 {
            effects.spoil(&answer.body)
        } else {
            answer.body.clone()
        };
        if !effects.no_length && !answer.headers.contains_key(header::CONTENT_LENGTH) {
            answer.set("content-length", &bytes.len().to_string());
        }
        let stop = effects.stop.filter(|_| seen.method != "HEAD");
        if let Some(stop) = stop {
            bytes.truncate(usize::try_from(stop.at).unwrap());
        } else if seen.method == "HEAD" {
            bytes.clear();
        }
        let own = effects.rate.map(|rate| Arc::new(Line::new(rate)));
        let reset = stop.is_some_and(|stop| stop.reset);
        let body = Feed::start(Plan {
            bytes,
            lines: own.into_iter().chain(connection).chain(self.line.clone()).collect(),
            hold_at: effects.hold_at.clone(),
            drip_from: effects.drip_from.map(|(at, rate)| (at, Arc::new(Line::new(rate)))),
            ending: stop.map_or(Ending::Complete, |stop| stop.ending),
            on_break: Box::new(move || {
                if reset {
                    cable.will_reset()
                }
            }),
            counter,
        });
        let mut response = Response::new(body);
        *response.status_mut() = answer.status;
        *response.headers_mut() = answer.headers;
        response
    }

    fn answer(&self, seen: &Seen, ignore_range: bool) -> Answer {
        if seen.path == "/token" {
            return self.give_token(seen);
        }
        let Some(path) = seen.path.strip_prefix("/v2/") else {
            return Answer::new(404, "");
        };
        if let Some(challenge) = self.challenge(seen, path) {
            return Answer::new(401, "").with("www-authenticate", &challenge);
        }
        let range = seen.range().filter(|_| !ignore_range);
        self.shelf.lock().unwrap().answer(path, &seen.query, range)
    }

    /// `None`: the request may be answered.
    fn challenge(&self, seen: &Seen, path: &str) -> Option<String> {
        let shown = seen.header("authorization").unwrap_or_default();
        match &self.options.access {
            Access::Open => None,
            Access::Basic { user } => (shown != basic(user)).then(|| "Basic realm=\"scripted\"".to_owned()),
            Access::Token { .. } => {
                let name = ["/manifests/", "/blobs/", "/tags/", "/referrers/"]
                    .iter()
                    .find_map(|word| path.rsplit_once(word))
                    .map(|(name, _)| format!("repository:{name}:pull"));
                let token = shown.strip_prefix("Bearer ").unwrap_or_default();
                let tokens = self.tokens.lock().unwrap();
                let good = |(text, scope): &(String, String)| {
                    text == token && name.as_ref().is_none_or(|name| name == scope)
                };
                if tokens.valid.iter().any(good) {
                    return None;
                }
                let realm = self.realm.lock().unwrap().clone();
                let realm = realm.unwrap_or_else(|| self.url.join("/token").unwrap().to_string());
                // A placeholder, as some registries send: whoever believes it gets a useless token.
                Some(format!(
                    "Bearer realm=\"{realm}\",service=\"scripted\",scope=\"repository:user/image:pull\""
                ))
            }
        }
    }

    fn give_token(&self, seen: &Seen) -> Answer {
        let Access::Token { user, lifetime_s } = &self.options.access else {
            return Answer::new(404, "");
        };
        if user.as_ref().is_some_and(|user| seen.header("authorization") != Some(&basic(user))) {
            return Answer::new(401, "");
        }
        let mut tokens = self.tokens.lock().unwrap();
        tokens.given += 1;
        let token = format!("token-{}", tokens.given);
        tokens.valid.push((token.clone(), parameter(&seen.query, "scope").unwrap_or_default()));
        let answer = json!({ "token": token, "expires_in": lifetime_s });
        Answer::new(200, answer.to_string()).with("content-type", "application/json")
    }
}

fn basic((user, password): &(String, String)) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}
