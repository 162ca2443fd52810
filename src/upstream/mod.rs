//! Owns fetching from a registry: addresses, connections, tokens, redirects, time-outs.
//! Must not know: cache, store, what is done with the bytes.

mod body;
mod error;
mod model;

pub use body::BlobStream;
pub use error::{Kind, UpstreamError};
pub use model::{
    BlobResponse, Listing, ManifestBody, ManifestHead, Page, RateLimit, Resume, Settings, SettingsError,
    Timeouts,
};

use url::Url;

use crate::clock::Clock;
use crate::names::{Digest, ImageName, Reference};

/// The client of one registry. Cheap to clone; clones share connections and tokens.
#[derive(Clone)]
pub struct Upstream {
    base: Url,
}

fn later<T>() -> Result<T, UpstreamError> {
    Err(UpstreamError::new(Kind::Connect, "not built yet"))
}

impl Upstream {
    pub fn new(settings: Settings, _: Clock) -> Result<Self, SettingsError> {
        Ok(Self { base: settings.base })
    }

    pub fn base(&self) -> &Url {
        &self.base
    }

    /// For logs: host and port only.
    pub fn host_label(&self) -> String {
        self.base.host_str().unwrap_or_default().to_owned()
    }

    /// Starts to fetch a blob, from its beginning or from where an earlier answer broke off.
    pub async fn blob(
        &self,
        _: &ImageName,
        _: &Digest,
        _from: Option<Resume>,
    ) -> Result<BlobResponse, UpstreamError> {
        later()
    }

    /// Asks whether the image has this blob, and for its size, without a HEAD, which some refuse.
    pub async fn probe_blob(&self, _: &ImageName, _: &Digest) -> Result<Option<u64>, UpstreamError> {
        later()
    }

    pub async fn head_manifest(&self, _: &ImageName, _: &Reference) -> Result<ManifestHead, UpstreamError> {
        later()
    }

    pub async fn manifest(&self, _: &ImageName, _: &Reference) -> Result<ManifestBody, UpstreamError> {
        later()
    }

    pub async fn listing(&self, _: &ImageName, _: &Listing, _query: &str) -> Result<Page, UpstreamError> {
        later()
    }

    /// Whether the registry answers and takes our credentials.
    pub async fn ping(&self) -> Result<(), UpstreamError> {
        later()
    }

    pub fn rate_limit(&self) -> Option<RateLimit> {
        None
    }
}
