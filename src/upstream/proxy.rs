//! Owns which proxy stands between us and an upstream.
//! Must not know: how one connects to it.

use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};

/// Proxies by scheme, and the hosts that are reached without.
#[derive(Debug)]
pub struct Proxies(Matcher);

impl Proxies {
    /// `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, in upper or lower case, as curl reads them.
    pub fn from_env() -> Self {
        Self(Matcher::from_env())
    }

    pub fn none() -> Self {
        Self(Matcher::builder().build())
    }

    /// One proxy for all but the hosts in `no_proxy`, which is written as `NO_PROXY` is.
    pub fn all(proxy: &str, no_proxy: &str) -> Self {
        Self(Matcher::builder().all(proxy.to_owned()).no(no_proxy.to_owned()).build())
    }

    pub(super) fn intercept(&self, uri: &Uri) -> Option<Intercept> {
        self.0.intercept(uri)
    }

    /// What the proxy itself wants to hear with a request that it forwards. In a tunnel it has heard it
    /// already, and the upstream must not.
    pub(super) fn authorization(&self, uri: &Uri) -> Option<HeaderValue> {
        if uri.scheme_str() != Some("http") {
            return None;
        }
        self.0.intercept(uri)?.basic_auth().cloned()
    }
}
