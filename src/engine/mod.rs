//! Owns the `Engine` handle: the one place where cache, store, metadata and upstreams meet.
//! Must not know: HTTP, status codes, OCI error codes.

mod model;
mod repository;

pub use crate::store::Reader;
pub use model::{
    BlobAnswer, BlobWant, CachedImage, CachedTag, Check, EngineError, ErrorKind, Manifest, PageQuery, Purge,
    Purged, ReferrersPage, Scope, Status, TagsPage, Verdict, Want,
};
pub use repository::{Remote, RemoteSpec, Repository, RepositoryKind, RepositorySpec, Secret};

use std::sync::Arc;

use crate::names::{Digest, Reference, RepositoryName};
use crate::telemetry::Metrics;

/// The handle that requests are answered through. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    metrics: Arc<Metrics>,
    repositories: Arc<Repositories>,
}

/// The repositories by name.
pub struct Repositories {}

fn later<T>() -> Result<T, EngineError> {
    Err(EngineError::new(ErrorKind::Internal, "not built yet"))
}

impl Engine {
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    pub fn repositories(&self) -> &Repositories {
        &self.repositories
    }

    pub async fn manifest(&self, _: &Scope, _: &Reference, _: Want) -> Result<Manifest, EngineError> {
        later()
    }

    pub async fn blob(&self, _: &Scope, _: &Digest, _: BlobWant) -> Result<BlobAnswer, EngineError> {
        later()
    }

    pub async fn tags(&self, _: &Scope, _: PageQuery) -> Result<TagsPage, EngineError> {
        later()
    }

    pub async fn referrers(
        &self,
        _: &Scope,
        _: &Digest,
        _artifact_type: Option<&str>,
        _query: &str,
    ) -> Result<ReferrersPage, EngineError> {
        later()
    }

    pub async fn cached(&self, _: Option<&RepositoryName>) -> Result<Vec<CachedImage>, EngineError> {
        later()
    }

    pub async fn purge(&self, _: &RepositoryName, _: Purge) -> Result<Purged, EngineError> {
        later()
    }

    pub async fn status(&self) -> Status {
        Status {
            ready: false,
            checks: Vec::new(),
            counts: crate::cache::Counts::default(),
            free_bytes: 0,
            total_bytes: 0,
        }
    }

    pub async fn shutdown(&self) {}
}

impl Repositories {
    pub fn by_name(&self, _: &str) -> Option<Arc<Repository>> {
        None
    }

    pub fn by_namespace(&self, _: &str) -> Option<Arc<Repository>> {
        None
    }

    pub fn default_mirror(&self) -> Option<Arc<Repository>> {
        None
    }

    pub fn list(&self) -> Vec<Arc<Repository>> {
        Vec::new()
    }

    pub async fn create(&self, _: RepositoryName, _: RepositorySpec) -> Result<Arc<Repository>, EngineError> {
        later()
    }

    pub async fn update(
        &self,
        _: &RepositoryName,
        _: RepositorySpec,
    ) -> Result<Arc<Repository>, EngineError> {
        later()
    }

    pub async fn delete(&self, _: &RepositoryName, _purge: bool) -> Result<(), EngineError> {
        later()
    }
}
