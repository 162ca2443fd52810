//! Owns what is said to an upstream and what comes back, as plain values.
//! Must not know: HTTP clients, tokens.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use secrecy::SecretString;
use url::Url;

use super::body::BlobStream;
use crate::names::{Digest, MediaType};

/// How to reach one registry.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `https://registry.example.com`, with a path where the registry lies below one.
    pub base: Url,
    pub username: Option<String>,
    pub password: Option<SecretString>,
    /// PEM certificates to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// `host` or `host:port` of token servers and CDNs: these may get the credentials where they are
    /// token servers, and may have an address of any range.
    pub allowed_hosts: Vec<String>,
    pub timeouts: Timeouts,
}

impl Settings {
    /// An anonymous client with the usual time-outs.
    pub fn new(base: Url) -> Self {
        Self {
            base,
            username: None,
            password: None,
            ca_file: None,
            allowed_hosts: Vec::new(),
            timeouts: Timeouts::default(),
        }
    }
}

/// How long silence is borne.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Name, connection and TLS handshake together.
    pub connect: Duration,
    /// From the request to the head of the answer, a connection included.
    pub head: Duration,
    /// From one piece of a body to the next; and the span over which a body's pace is judged.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(5), head: Duration::from_secs(15), idle: Duration::from_secs(30) }
    }
}

/// Why a client cannot be made from its settings.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("an upstream's address starts with http:// or https:// and names a host")]
    Address,
    #[error("an upstream's address holds no user name, password, query or fragment")]
    Extras,
    #[error("a user name needs a password, and a password a user name")]
    HalfCredentials,
    #[error("the user name or the password holds characters that cannot be sent")]
    Credentials,
    #[error("allowed host {0:?} is neither a host nor host:port")]
    AllowedHost(String),
    #[error("{}: {reason}", path.display())]
    CaFile { path: PathBuf, reason: String },
    #[error("no TLS client can be made: {0}")]
    Tls(String),
}

/// Where to go on in a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume {
    pub at: u64,
    /// From the answer that is to be continued.
    pub validator: Option<String>,
}

/// A blob that has begun to come.
#[derive(Debug)]
pub struct BlobResponse {
    /// Where the body really starts: 0, or where it was asked to.
    pub offset: u64,
    /// Of the whole blob.
    pub size: Option<u64>,
    /// A strong entity tag.
    pub validator: Option<String>,
    pub body: BlobStream,
}

/// What HEAD tells of a manifest. All of it is hearsay until the bytes are here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestHead {
    pub digest: Option<Digest>,
    pub media_type: Option<MediaType>,
    pub size: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestBody {
    pub media_type: MediaType,
    /// As received, to the byte.
    pub bytes: Bytes,
    /// `Docker-Content-Digest`: hearsay.
    pub claimed: Option<Digest>,
}

/// A list that is passed through page by page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listing {
    Tags,
    Referrers(Digest),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    pub status: u16,
    pub media_type: String,
    pub bytes: Bytes,
    /// The query of the next page's address; nothing else of that address is to be believed.
    pub next_query: Option<String>,
    /// `OCI-Filters-Applied`
    pub filters_applied: Option<String>,
}

/// What the upstream last said of its pull limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    pub limit: u64,
    pub remaining: u64,
    /// The span that the limit is for, in seconds; 0 where it was not said.
    pub window_s: u64,
}
