//! Owns one request and the head of its answer: the pool, the time-out, what a failure means.
//! Must not know: tokens, redirects, what is asked for.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, HeaderValue, PROXY_AUTHORIZATION, USER_AGENT};
use http::{Extensions, HeaderMap, Method, Request, Response, Uri};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use url::Url;

use super::dialer::{DialError, Dialer, History, cause};
use super::error::{Kind, UpstreamError};
use super::proxy::Proxies;

const AGENT: HeaderValue = HeaderValue::from_static(concat!("binaryrepo/", env!("CARGO_PKG_VERSION")));
/// Shorter than what registries and the balancers before them keep connections for.
const IDLE_IN_POOL: Duration = Duration::from_secs(50);
/// A pull asks for a handful of things at once.
const MOST_IDLE: usize = 16;

/// Sends requests over pooled connections.
pub(super) struct Wire {
    client: Client<Dialer, Empty<Bytes>>,
    proxies: Arc<Proxies>,
    limit: Duration,
}

impl Wire {
    /// `limit`: from the request to the head of its answer.
    pub(super) fn new(dialer: Dialer, proxies: Arc<Proxies>, limit: Duration) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_IN_POOL)
            .pool_max_idle_per_host(MOST_IDLE)
            .build(dialer);
        Self { client, proxies, limit }
    }

    /// One GET or HEAD. `forbidden` is what it is called when the address is not one to connect to.
    pub(super) async fn exchange(
        &self,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
        forbidden: Kind,
    ) -> Result<Response<Incoming>, UpstreamError> {
        let place = place(url);
        let Ok(uri) = url.as_str().parse::<Uri>() else {
            return Err(UpstreamError::new(
                Kind::BadResponse,
                format!("{place}: the address cannot be sent"),
            ));
        };
        let asking = async {
            match self.once(method, &uri, headers).await {
                // It lay in the pool and was closed just then. Nothing here changes anything at the
                // other side, so asking again is safe.
                Err(error) if was_closed_in_pool(&error) => self.once(method, &uri, headers).await,
                result => result,
            }
        };
        match tokio::time::timeout(self.limit, asking).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(explain(&place, &error, forbidden)),
            Err(_) => {
                let message = format!("{place}: no answer within {:?}", self.limit);
                Err(UpstreamError::new(Kind::Timeout, message))
            }
        }
    }

    async fn once(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<Response<Incoming>, Error> {
        let mut request = Request::new(Empty::new());
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri.clone();
        let sent = request.headers_mut();
        sent.extend(headers.clone());
        sent.insert(USER_AGENT, AGENT);
        sent.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(credentials) = self.proxies.authorization(uri) {
            sent.insert(PROXY_AUTHORIZATION, credentials);
        }
        let response = self.client.request(request).await?;
        if let Some(history) = response.extensions().get::<History>() {
            history.answered();
        }
        Ok(response)
    }
}

/// Host and port: what messages may say of an address.
pub(super) fn place(url: &Url) -> String {
    let host = url.host_str().unwrap_or("upstream");
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn was_closed_in_pool(error: &Error) -> bool {
    if find::<hyper::Error>(error).is_some_and(hyper::Error::is_parse) {
        return false;
    }
    let mut extras = Extensions::new();
    if let Some(connection) = error.connect_info() {
        connection.get_extras(&mut extras);
    }
    extras.get::<History>().is_some_and(History::has_answered)
}

fn explain(place: &str, error: &Error, forbidden: Kind) -> UpstreamError {
    if let Some(dial) = find::<DialError>(error) {
        let kind = match dial {
            DialError::Forbidden => forbidden,
            DialError::Timeout(_) => Kind::Timeout,
            DialError::Tls(_) => Kind::Tls,
            DialError::Other(_) => Kind::Connect,
        };
        return UpstreamError::new(kind, format!("{place}: {dial}"));
    }
    match find::<hyper::Error>(error) {
        Some(hyper) if hyper.is_parse() => {
            UpstreamError::new(Kind::BadResponse, format!("{place}: the answer is not HTTP: {hyper}"))
        }
        _ => UpstreamError::new(Kind::Broken, format!("{place}: the connection ended before an answer")),
    }
}

fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = cause(error);
    }
    None
}
