//! Owns one client of a herd: a connection of its own, and a pull whose every byte is hashed.
//! Must not know: the other clients.

use std::net::SocketAddr;
use std::time::Duration;

use binaryrepo::clock::{Clock, Millis};
use binaryrepo::names::{Digest, Hasher, MediaType, Reference, manifest};
use bytes::Bytes;
use http::header::{ACCEPT, HOST};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service;

use super::target::{Target, What};
use crate::cli::wire::{Broken, CONNECT, causes, within};

/// Silence after which a client gives up: longer than a server waits for a slow upstream.
const PATIENCE: Duration = Duration::from_secs(120);
/// Registries take no larger manifest.
const MAX_MANIFEST: usize = 8 << 20;

type Stream = MaybeHttpsStream<TokioIo<TcpStream>>;

/// How a registry is reached.
#[derive(Clone)]
pub enum Way {
    Plain(SocketAddr),
    Tls(HttpsConnector<HttpConnector>),
}

impl Way {
    pub fn new(target: &Target, address: SocketAddr) -> std::io::Result<Self> {
        if !target.tls {
            return Ok(Self::Plain(address));
        }
        Ok(Self::Tls(HttpsConnectorBuilder::new().with_native_roots()?.https_only().enable_http1().build()))
    }

    pub async fn connect(&self, target: &Target) -> Result<Stream, Broken> {
        let connecting = async {
            match self {
                Self::Plain(address) => {
                    let stream = TcpStream::connect(address).await?;
                    stream.set_nodelay(true)?;
                    Ok(MaybeHttpsStream::Http(TokioIo::new(stream)))
                }
                Self::Tls(connector) => {
                    let url = format!("https://{}", target.authority).parse()?;
                    connector.clone().call(url).await
                }
            }
        };
        within(CONNECT, connecting).await
    }
}

/// How one client fared.
#[derive(Debug, Default)]
pub struct Visit {
    /// Of all bodies.
    pub bytes: u64,
    /// From the client's start to the first byte of the first blob.
    pub first_byte: Option<Duration>,
    /// Why it is not content; `None`: all it asked for came, and is what its digests say.
    pub failure: Option<String>,
    /// There was no connection at all.
    pub unreachable: Option<Broken>,
}

/// Pulls the target on a connection of its own.
pub async fn visit(way: &Way, target: &Target, clock: &Clock) -> Visit {
    let began = clock.now();
    let mut visit = Visit::default();
    let connected = async { Ok::<_, Broken>(http1::handshake(way.connect(target).await?).await?) };
    let (sender, connection) = match connected.await {
        Ok(connected) => connected,
        Err(error) => {
            visit.failure = Some("no connection".to_owned());
            visit.unreachable = Some(error);
            return visit;
        }
    };
    let pull = Pull { sender, target, clock, began, visit: &mut visit }.run();
    // The connection ends with its sender; what it says then is of no interest.
    let (_, outcome) = tokio::join!(connection, pull);
    visit.failure = outcome.err().map(|error| causes(&error));
    visit
}

struct Pull<'a> {
    sender: SendRequest<Empty<Bytes>>,
    target: &'a Target,
    clock: &'a Clock,
    began: Millis,
    visit: &'a mut Visit,
}

impl Pull<'_> {
    async fn run(mut self) -> Result<(), Broken> {
        match &self.target.what {
            What::Blob(digest) => self.blob(digest).await,
            What::Image(reference) => self.image(reference.clone()).await,
        }
    }

    /// What a client that has nothing would ask for. Of an index it takes the first image.
    async fn image(&mut self, reference: Reference) -> Result<(), Broken> {
        let mut view = self.manifest(&reference).await?;
        if view.is_index {
            let child = view.references.first().ok_or("the index is empty")?.digest;
            view = self.manifest(&Reference::Digest(child)).await?;
        }
        // Layers first: it is their first byte that counts.
        view.references.sort_by_key(|named| std::cmp::Reverse(named.role));
        for named in view.references.iter().filter(|named| !named.external) {
            self.blob(&named.digest).await?;
        }
        Ok(())
    }

    async fn manifest(&mut self, reference: &Reference) -> Result<manifest::ManifestView, Broken> {
        let response = self.get(&format!("{}/manifests/{reference}", self.target.image)).await?;
        let said = response.headers().get("docker-content-digest").cloned();
        let body = within(PATIENCE, Limited::new(response.into_body(), MAX_MANIFEST).collect()).await?;
        let bytes = body.to_bytes();
        self.visit.bytes += bytes.len() as u64;
        let digest = match (reference, said) {
            (Reference::Digest(digest), _) => Some(*digest),
            (Reference::Tag(_), Some(said)) => Some(said.to_str()?.parse()?),
            (Reference::Tag(_), None) => None,
        };
        if digest.is_some_and(|digest| Digest::of(digest.algorithm(), &bytes) != digest) {
            return Err("the manifest is not what its digest says".into());
        }
        Ok(manifest::parse(&bytes)?)
    }

    async fn blob(&mut self, digest: &Digest) -> Result<(), Broken> {
        let response = self.get(&format!("{}/blobs/{digest}", self.target.image)).await?;
        let mut body = response.into_body();
        let mut hasher = Hasher::new(digest.algorithm());
        while let Some(frame) = within(PATIENCE, async { Ok(body.frame().await) }).await? {
            let Ok(bytes) = frame?.into_data() else { continue };
            self.visit.first_byte.get_or_insert_with(|| self.clock.now().since(self.began));
            self.visit.bytes += bytes.len() as u64;
            hasher.update(&bytes);
        }
        if hasher.finish() == *digest { Ok(()) } else { Err("a blob is not what its digest says".into()) }
    }

    async fn get(&mut self, path: &str) -> Result<Response<Incoming>, Broken> {
        let request = Request::get(path)
            .header(HOST, &self.target.authority)
            .header(ACCEPT, MediaType::ACCEPT)
            .body(Empty::new())?;
        self.sender.ready().await?;
        let response = within(PATIENCE, async { Ok(self.sender.send_request(request).await?) }).await?;
        match response.status() {
            status if status == http::StatusCode::OK => Ok(response),
            status => Err(format!("answered {status}").into()),
        }
    }
}
