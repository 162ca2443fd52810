//! An engine on a data directory, with two local repositories and the hands of a client.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use binaryrepo::engine::{
    BlobWant, Engine, EngineError, Ground, LocalSpec, ManifestPush, MaxSize, Principal, RepositorySpec,
    Scope, Settings, Want,
};
use binaryrepo::meta::{
    Batch, CopyRow, Durability, HolderRow, LinkRow, Meta as _, MetaExt as _, Options, RedbMeta,
};
use binaryrepo::names::{Algorithm, Digest, RangeRequest};
use binaryrepo::store::FsStore;
use binaryrepo::telemetry::Metrics;
use bytes::Bytes;
use tempfile::TempDir;

use super::support::image::Content;
use super::support::metrics::counted;

pub const REPOSITORIES: [&str; 2] = ["docker-local", "other"];

pub struct Yard {
    pub engine: Engine,
    pub meta: Arc<RedbMeta>,
    pub metrics: Arc<Metrics>,
    pub dir: TempDir,
    settings: Settings,
}

/// What nobody has asked for in the last moment goes.
pub fn without_grace() -> Settings {
    Settings { collect_after: std::time::Duration::ZERO, ..roomy() }
}

pub fn roomy() -> Settings {
    Settings { max_size: MaxSize::Bytes(1 << 40), min_free: Some(0), ..Settings::default() }
}

impl Yard {
    pub async fn new(settings: Settings) -> Self {
        // In memory where there is such a place: thousands of commits are synced.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let yard = Self::open(dir, settings).await;
        for name in REPOSITORIES {
            let spec = RepositorySpec::Local(LocalSpec::default());
            yard.engine.repositories().create(name.parse().unwrap(), spec).await.unwrap();
        }
        yard
    }

    /// From now on a local repository takes manifests that name what their image does not have.
    pub async fn make_sparse(&self, name: &str) {
        let spec = LocalSpec { sparse_manifests: true, ..LocalSpec::default() };
        self.engine.update_repository(&name.parse().unwrap(), RepositorySpec::Local(spec)).await.unwrap();
    }

    async fn open(dir: TempDir, settings: Settings) -> Self {
        let metrics = Metrics::new();
        let store = FsStore::open(dir.path()).unwrap();
        let (meta, opened) = RedbMeta::open(&dir.path().join("meta.redb"), Options::default()).unwrap();
        let meta = Arc::new(meta);
        let ground = Ground { store: Arc::new(store), meta: meta.clone(), opened };
        let engine = Engine::start(ground, settings.clone(), metrics.clone(), Vec::new()).await.unwrap();
        Self { engine, meta, metrics, dir, settings }
    }

    /// An orderly stop and a new start.
    pub async fn restart(self) -> Self {
        let Self { engine, meta, metrics, dir, settings } = self;
        assert!(metrics.encode().contains("binaryrepo_invariant_violations_total 0\n"));
        engine.shutdown().await;
        drop((engine, meta));
        Self::open(dir, settings).await
    }

    /// `repository/image`.
    pub fn scope(&self, place: &str) -> Scope {
        let (repository, image) = place.split_once('/').unwrap();
        let repository = self.engine.repositories().by_name(repository).unwrap();
        Scope { repository, image: image.parse().unwrap() }
    }

    pub async fn push_blob(&self, place: &str, content: &Content) -> Result<u64, EngineError> {
        let scope = self.scope(place);
        let id = self.engine.start_upload(&scope, &Principal::Operator, Algorithm::Sha256).await?;
        let mut upload = self.engine.upload(&scope, &Principal::Operator, &id).await?;
        upload.append(vec![content.bytes.clone()]).await?;
        upload.finish(&content.digest).await
    }

    /// Under a tag, or by its digest alone.
    pub async fn push_manifest(
        &self,
        place: &str,
        tag: Option<&str>,
        content: &Content,
    ) -> Result<Digest, EngineError> {
        let reference = tag.map_or_else(|| content.digest.to_string(), str::to_owned).parse().unwrap();
        let push =
            ManifestPush { reference, media_type: None, bytes: content.bytes.clone(), tags: Vec::new() };
        Ok(self.engine.push_manifest(&self.scope(place), push).await?.digest)
    }

    pub async fn mount(&self, place: &str, digest: &Digest, from: &str) -> Result<bool, EngineError> {
        self.engine.mount(&self.scope(place), digest, &[self.scope(from)]).await
    }

    pub async fn head(&self, place: &str, digest: &Digest) -> Result<u64, EngineError> {
        let want = BlobWant { want: Want::Head, range: RangeRequest::Whole };
        Ok(self.engine.blob(&self.scope(place), digest, want).await?.size)
    }

    pub async fn blob(&self, place: &str, digest: &Digest) -> Result<Vec<u8>, EngineError> {
        let want = BlobWant { want: Want::Body, range: RangeRequest::Whole };
        let mut reader = self.engine.blob(&self.scope(place), digest, want).await?.reader.unwrap();
        let mut bytes = Vec::new();
        while let Some(chunk) = std::future::poll_fn(|cx| reader.poll_chunk(cx, 64 * 1024)).await {
            bytes.extend_from_slice(&chunk.expect("a whole body"));
        }
        Ok(bytes)
    }

    pub async fn manifest(&self, place: &str, reference: &str) -> Result<Bytes, EngineError> {
        let reference = reference.parse().unwrap();
        Ok(self.engine.manifest(&self.scope(place), &reference, Want::Body).await?.bytes)
    }

    pub async fn delete(&self, place: &str, reference: &str) -> Result<(), EngineError> {
        self.engine.delete_manifest(&self.scope(place), &reference.parse().unwrap()).await
    }

    /// As if nobody had pushed, mounted, named or asked for it for years.
    pub async fn age(&self, place: &str, digest: &Digest) {
        let scope = self.scope(place);
        let key = (*digest, scope.repository.id, scope.image);
        assert!(self.meta.get::<HolderRow>(&key).unwrap().is_some(), "{digest} is not held by {place}");
        let mut batch = Batch::new(Durability::Relaxed);
        batch.put(&key, &HolderRow { stamp: 1 });
        self.meta.apply(batch).await.unwrap();
    }

    /// As if a remote had brought it in place of what was pushed and lost.
    pub async fn demote(&self, digest: &Digest) {
        let row = self.meta.get::<CopyRow>(digest).unwrap().expect("it lies here");
        let mut batch = Batch::new(Durability::Relaxed);
        batch.put(digest, &CopyRow { durable: false, ..row });
        self.meta.apply(batch).await.unwrap();
    }

    /// Whether its copy is one that stays.
    pub fn is_ours(&self, digest: &Digest) -> bool {
        self.meta.get::<CopyRow>(digest).unwrap().is_some_and(|row| row.durable)
    }

    /// What an image may show.
    pub fn links(&self, place: &str) -> BTreeSet<Digest> {
        let scope = self.scope(place);
        let rows = self.meta.scan::<LinkRow>(&(scope.repository.id, scope.image), None, 1_000).unwrap();
        rows.into_iter().map(|(key, _)| key.2).collect()
    }

    pub fn file_of(&self, digest: &Digest) -> PathBuf {
        self.dir.path().join("cas/sha256").join(&digest.hex()[..2]).join(digest.hex())
    }

    pub fn metric(&self, name: &str) -> u64 {
        counted(&self.metrics.encode(), name).unwrap_or_else(|| panic!("no metric {name}"))
    }
}
