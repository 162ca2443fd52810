//! Owns connecting: names, proxies, TLS, and the rule of which addresses may be connected to.
//! Must not know: requests, credentials of the registry.

use std::error::Error as StdError;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::Intercept;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tower_service::Service;

use super::address::{Written, is_public};
use super::proxy::Proxies;

type BoxError = Box<dyn StdError + Send + Sync>;
type BoxFuture<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

/// Why there is no connection.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("its address is not a public one, and it is not among the allowed hosts")]
    Forbidden,
    #[error("no connection within {0:?}")]
    Timeout(Duration),
    #[error("TLS: {0}")]
    Tls(String),
    #[error("{0}")]
    Other(String),
}

impl DialError {
    /// Finds our own word or that of TLS among the causes; else the innermost cause says it best.
    fn of(error: BoxError) -> Self {
        let mut innermost: &(dyn StdError + 'static) = error.as_ref();
        loop {
            if let Some(own) = innermost.downcast_ref::<Self>() {
                return own.clone();
            }
            if let Some(tls) = innermost.downcast_ref::<rustls::Error>() {
                return Self::Tls(tls.to_string());
            }
            match cause(innermost) {
                Some(deeper) => innermost = deeper,
                None => return Self::Other(innermost.to_string()),
            }
        }
    }
}

/// What is inside an error. An `io::Error` hides the error it wraps behind that one's own source.
pub(super) fn cause<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(wrapped) => Some(wrapped),
        None => error.source(),
    }
}

/// Makes connections for the client's pool.
#[derive(Clone)]
pub(super) struct Dialer {
    written: Arc<Written>,
    proxies: Arc<Proxies>,
    tls: Arc<ClientConfig>,
    limit: Duration,
}

impl Dialer {
    pub(super) fn new(
        written: Arc<Written>,
        proxies: Arc<Proxies>,
        tls: Arc<ClientConfig>,
        limit: Duration,
    ) -> Self {
        Self { written, proxies, tls, limit }
    }

    fn over_tcp(&self, public_only: bool) -> HttpsConnector<HttpConnector<Resolver>> {
        let mut tcp = HttpConnector::new_with_resolver(Resolver { system: GaiResolver::new(), public_only });
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(Duration::from_secs(30)));
        // Divided among the addresses of a name, so that a dead first one leaves time for the next.
        tcp.set_connect_timeout(Some(self.limit));
        HttpsConnector::from((tcp, self.tls.clone()))
    }

    fn dial(&self, uri: Uri) -> Result<BoxFuture<Stream, BoxError>, DialError> {
        let host = uri.host().unwrap_or_default();
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
        let public_only = !self.written.covers(host, port);
        if public_only && literal(host).is_some_and(|address| !is_public(address)) {
            return Err(DialError::Forbidden);
        }
        match self.proxies.intercept(&uri) {
            None => {
                let connecting = self.over_tcp(public_only).call(uri);
                Ok(Box::pin(async { Ok(MaybeHttpsStream::Http(connecting.await?)) }))
            }
            // The proxy looks the name up, so that its address is not ours to judge; the one name that
            // can mean nothing but the proxy's own machine is.
            Some(_) if public_only && is_localhost(host) => Err(DialError::Forbidden),
            Some(proxy) => self.dial_through(&proxy, uri),
        }
    }

    fn dial_through(&self, proxy: &Intercept, uri: Uri) -> Result<BoxFuture<Stream, BoxError>, DialError> {
        if !matches!(proxy.uri().scheme_str(), Some("http" | "https")) {
            return Err(DialError::Other("the configured proxy is neither http:// nor https://".into()));
        }
        let mut to_proxy = self.over_tcp(false);
        if uri.scheme_str() == Some("http") {
            let connecting = to_proxy.call(proxy.uri().clone());
            return Ok(Box::pin(async { Ok(MaybeHttpsStream::Http(connecting.await?)) }));
        }
        let mut tunnel = Tunnel::new(proxy.uri().clone(), to_proxy);
        if let Some(credentials) = proxy.basic_auth() {
            tunnel = tunnel.with_auth(credentials.clone());
        }
        Ok(HttpsConnector::from((tunnel, self.tls.clone())).call(uri))
    }
}

impl Service<Uri> for Dialer {
    type Response = Socket;
    type Error = DialError;
    type Future = BoxFuture<Socket, DialError>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let forwarded = uri.scheme_str() == Some("http") && self.proxies.intercept(&uri).is_some();
        let dialling = self.dial(uri);
        let limit = self.limit;
        Box::pin(async move {
            let stream = tokio::time::timeout(limit, dialling?)
                .await
                .map_err(|_| DialError::Timeout(limit))?
                .map_err(DialError::of)?;
            Ok(Socket { stream, forwarded, history: History::default() })
        })
    }
}

/// The address in a URI's host, where it is one and not a name.
fn literal(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

fn is_localhost(host: &str) -> bool {
    let host = host.trim_end_matches('.');
    host.eq_ignore_ascii_case("localhost") || host.to_ascii_lowercase().ends_with(".localhost")
}

/// Looks names up, and lets only such addresses through as may be connected to: nobody looks again
/// between this check and the connection.
#[derive(Clone)]
struct Resolver {
    system: GaiResolver,
    public_only: bool,
}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = BoxError;
    type Future = BoxFuture<Self::Response, BoxError>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let looking = self.system.call(name);
        let public_only = self.public_only;
        Box::pin(async move {
            let mut addresses: Vec<SocketAddr> = looking.await?.collect();
            if public_only {
                addresses.retain(|address| is_public(address.ip()));
                if addresses.is_empty() {
                    return Err(DialError::Forbidden.into());
                }
            }
            Ok(addresses.into_iter())
        })
    }
}

/// Plain or TLS, over plain or TLS (a proxy may speak TLS itself).
type Stream = MaybeHttpsStream<MaybeHttpsStream<TokioIo<TcpStream>>>;

/// A connection of the pool.
pub(super) struct Socket {
    stream: Stream,
    /// Requests on it go to a proxy, with the whole address in their first line.
    forwarded: bool,
    history: History,
}

/// Whether a connection has answered before: one that has may have been closed by the other side while
/// it lay in the pool.
#[derive(Clone, Debug, Default)]
pub(super) struct History(Arc<AtomicBool>);

impl History {
    pub(super) fn answered(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(super) fn has_answered(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Connection for Socket {
    fn connected(&self) -> Connected {
        self.stream.connected().proxy(self.forwarded).extra(self.history.clone())
    }
}

impl Read for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl Write for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
