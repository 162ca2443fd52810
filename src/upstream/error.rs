//! Owns what can go wrong with an upstream: whose fault it is, and whether trying again may help.
//! Must not know: how a client is told.
//!
//! A message names hosts, never a query (signed addresses), a token or a password.

use std::fmt;
use std::time::Duration;

/// What kind of trouble it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// No connection: refused, unknown name, unreachable, a handshake that broke.
    Connect,
    /// The other side's certificate is not to be trusted, or it speaks no TLS that we do.
    Tls,
    /// Silence: no connection, no head, or no byte for as long as we wait.
    Timeout,
    /// The connection ended in the middle of something.
    Broken,
    Status5xx,
    RateLimited,
    NotFound,
    /// 401 or 403 although a token had just been granted: it means what was asked for.
    Denied,
    /// 403 or 451, and nothing had just been granted: a firewall, a ban or a limit says that of anything.
    Forbidden,
    /// The upstream refuses our user name and password, or wants some and there are none.
    OwnCredentials,
    /// A redirect that must not be followed.
    Redirect,
    /// A token server that must not see our credentials, or that lies at a forbidden address.
    Realm,
    /// An answer that makes no sense.
    BadResponse,
    /// The upstream cannot go on at the byte we asked for: a wrong 206, or 416.
    BadResume,
    /// HEAD of a manifest is not supported; GET may be.
    HeadUnsupported,
    TooLarge,
    /// Bytes come, but far too slowly.
    Slow,
}

impl Kind {
    /// One word for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Broken => "broken",
            Self::Status5xx => "status_5xx",
            Self::RateLimited => "rate_limited",
            Self::NotFound => "not_found",
            Self::Denied => "denied",
            Self::Forbidden => "forbidden",
            Self::OwnCredentials => "own_credentials",
            Self::Redirect => "redirect",
            Self::Realm => "realm",
            Self::BadResponse => "bad_response",
            Self::BadResume => "bad_resume",
            Self::HeadUnsupported => "head_unsupported",
            Self::TooLarge => "too_large",
            Self::Slow => "slow",
        }
    }
}

/// Why an upstream did not give what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamError {
    pub kind: Kind,
    /// The status of the answer, where there was one.
    pub status: Option<u16>,
    /// How long the upstream asks to be left alone.
    pub retry_after: Option<Duration>,
    /// For people.
    pub message: String,
}

impl UpstreamError {
    pub(super) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, status: None, retry_after: None, message: message.into() }
    }

    /// An answer that makes no sense, as those who read the body judge.
    pub fn bad_response(message: impl Into<String>) -> Self {
        Self::new(Kind::BadResponse, message)
    }

    /// The connection ended in the middle of something.
    pub fn broken(message: impl Into<String>) -> Self {
        Self::new(Kind::Broken, message)
    }

    /// Whether the same request may soon succeed. Not said of a rate limit: it asks for patience,
    /// and how much is in `retry_after`.
    pub fn retryable(&self) -> bool {
        match self.kind {
            Kind::Connect | Kind::Timeout | Kind::Broken | Kind::Status5xx | Kind::BadResume | Kind::Slow => {
                true
            }
            Kind::Tls
            | Kind::RateLimited
            | Kind::NotFound
            | Kind::Denied
            | Kind::Forbidden
            | Kind::OwnCredentials
            | Kind::Redirect
            | Kind::Realm
            | Kind::BadResponse
            | Kind::HeadUnsupported
            | Kind::TooLarge => false,
        }
    }
}

impl fmt::Display for UpstreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for UpstreamError {}
