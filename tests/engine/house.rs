//! A data directory with an engine and a remote that points at a scripted upstream.

use std::path::PathBuf;
use std::sync::Arc;
use std::task::Poll;

use binaryrepo::engine::{
    BlobAnswer, BlobWant, Engine, EngineError, Ground, LocalSpec, Manifest, MaxSize, Principal, Reader,
    RemoteSpec, Repository, RepositorySpec, Scope, Settings, Verdict, Want,
};
use binaryrepo::meta::{Options, RedbMeta};
use binaryrepo::names::{Algorithm, Digest, RangeRequest};
use binaryrepo::store::FsStore;
use binaryrepo::telemetry::Metrics;
use tempfile::TempDir;

use crate::rig::{Disk, Ledger};
use crate::support::image::{Content, Image};
use crate::support::metrics::counted;
use crate::support::patience::found;
pub use crate::support::patience::pass;
use crate::support::upstream::Registry;

pub struct House {
    pub engine: Engine,
    pub dir: TempDir,
    pub settings: Settings,
    pub disk: Disk,
    pub ledger: Arc<Ledger>,
    pub metrics: Arc<Metrics>,
}

/// How a body went.
#[derive(Debug)]
pub enum Got {
    Whole(Vec<u8>),
    /// Broken after these bytes.
    Broken(Vec<u8>),
}

impl House {
    pub async fn new(registry: &Registry) -> Self {
        Self::with(registry, |_| {}).await
    }

    pub async fn with(registry: &Registry, change: impl FnOnce(&mut RemoteSpec)) -> Self {
        Self::build(registry, roomy(), change).await
    }

    pub async fn build(
        registry: &Registry,
        settings: Settings,
        change: impl FnOnce(&mut RemoteSpec),
    ) -> Self {
        let house = Self::open(tempfile::tempdir().unwrap(), settings, Disk::default()).await;
        let mut spec = RemoteSpec::new(registry.url());
        change(&mut spec);
        house.add("hub", spec).await;
        house
    }

    /// One that knows of the image `a/b` and its layer, and has not fetched that.
    pub async fn cold(registry: &Registry, size: usize) -> (Self, Content) {
        let image = Image::new(51, &[size]);
        registry.add_image("a/b", "latest", &image);
        let house = Self::new(registry).await;
        house.manifest("a/b", "latest", Want::Body).await.unwrap();
        (house, image.layers[0].clone())
    }

    /// On a data directory that may be there already, and a disk that may fail from the start.
    pub async fn open(dir: TempDir, settings: Settings, disk: Disk) -> Self {
        let metrics = Metrics::new();
        let store = FsStore::open_with(dir.path(), disk.faults()).unwrap();
        let (meta, opened) = RedbMeta::open(&dir.path().join("meta.redb"), Options::default()).unwrap();
        let ledger = Arc::new(Ledger::beside(Arc::new(meta), &disk));
        let ground = Ground { store: Arc::new(store), meta: ledger.clone(), opened };
        let engine = Engine::start(ground, settings.clone(), metrics.clone(), Vec::new()).await.unwrap();
        Self { engine, dir, settings, disk, ledger, metrics }
    }

    pub async fn add(&self, name: &str, spec: RemoteSpec) {
        let spec = RepositorySpec::Remote(Box::new(spec));
        self.engine.repositories().create(name.parse().unwrap(), spec).await.unwrap();
    }

    /// The local repository `own`.
    pub async fn add_local(&self) {
        let spec = RepositorySpec::Local(LocalSpec::default());
        self.engine.repositories().create("own".parse().unwrap(), spec).await.unwrap();
    }

    /// Into the image `a/b` of `own`.
    pub async fn push(&self, blob: &Content) -> Result<u64, EngineError> {
        let place = scope(&self.engine, "own", "a/b");
        let id = self.engine.start_upload(&place, &Principal::Operator, Algorithm::Sha256).await?;
        let mut upload = self.engine.upload(&place, &Principal::Operator, &id).await?;
        upload.append(vec![blob.bytes.clone()]).await?;
        upload.finish(&blob.digest).await
    }

    /// An orderly stop and a new start.
    pub async fn restart(self) -> Self {
        self.engine.shutdown().await;
        assert_eq!(self.metric("binaryrepo_invariant_violations_total"), 0);
        let Self { dir, settings, engine, disk, ledger, .. } = self;
        drop((engine, ledger));
        Self::open(dir, settings, disk).await
    }

    /// A data directory as a kill would have left it a second from now, for another house. This one goes on.
    pub async fn crash_image(&self) -> TempDir {
        let image = tempfile::tempdir().unwrap();
        self.ledger.crash_image(self.dir.path(), image.path()).await;
        image
    }

    /// What `/metrics` shows under this name.
    pub fn metric(&self, name: &str) -> u64 {
        counted(&self.metrics.encode(), name).unwrap_or_else(|| panic!("no metric {name}"))
    }

    /// The published blobs and their sizes.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let shards = std::fs::read_dir(self.dir.path().join("cas/sha256")).unwrap();
        let files = shards.flat_map(|shard| std::fs::read_dir(shard.unwrap().path()).unwrap());
        let sized = files.map(|file| file.unwrap()).map(|file| (file.path(), file.metadata().unwrap().len()));
        sized.collect()
    }

    pub fn file_of(&self, digest: &Digest) -> PathBuf {
        self.dir.path().join("cas/sha256").join(&digest.hex()[..2]).join(digest.hex())
    }

    /// How many files were set aside.
    pub fn set_aside(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("quarantine")).unwrap().count()
    }

    pub fn scope(&self, image: &str) -> Scope {
        scope(&self.engine, "hub", image)
    }

    pub async fn manifest(&self, image: &str, reference: &str, want: Want) -> Result<Manifest, EngineError> {
        self.engine.manifest(&self.scope(image), &reference.parse().unwrap(), want).await
    }

    pub async fn blob(&self, image: &str, digest: &Digest, range: &str) -> Result<BlobAnswer, EngineError> {
        let range = if range.is_empty() { RangeRequest::Whole } else { RangeRequest::parse(range) };
        let want = BlobWant { range, ..whole() };
        self.engine.blob(&self.scope(image), digest, want).await
    }

    /// The whole blob, or how it broke.
    pub async fn pull(&self, image: &str, digest: &Digest) -> Result<Got, EngineError> {
        Ok(drain(self.blob(image, digest, "").await?.reader.unwrap()).await)
    }

    /// Pulls all of a blob, and answers how it was come by.
    pub async fn pulled(&self, image: &str, blob: &Content) -> Verdict {
        let answer = self.blob(image, &blob.digest, "").await.unwrap();
        let verdict = answer.verdict;
        assert!(drain(answer.reader.unwrap()).await.whole() == blob.bytes, "{} has other bytes", blob.digest);
        verdict
    }

    /// Waits until nothing is under way: the last byte goes out before a blob lies in its place.
    pub async fn rest(&self) {
        let rested = async || {
            let counts = self.engine.status().await.counts;
            let rests = counts.flights + counts.queued + counts.waiters == 0 && counts.evicting_bytes == 0;
            rests.then_some(())
        };
        found("nothing is under way", rested).await;
    }

    /// How many drafts lie in the data directory.
    pub fn drafts(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("tmp")).unwrap().count()
    }

    /// How many bytes they hold.
    pub fn draft_bytes(&self) -> u64 {
        let drafts = std::fs::read_dir(self.dir.path().join("tmp")).unwrap();
        drafts.map(|draft| draft.unwrap().metadata().map_or(0, |file| file.len())).sum()
    }

    /// Waits until so many wait for an answer of the upstream.
    pub async fn until_waiting(&self, clients: usize) {
        let enough = async || (self.engine.status().await.counts.waiters == clients).then_some(());
        found("all of them wait", enough).await;
    }

    /// Waits until `done`, in real time, or fails.
    pub async fn eventually(&self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        found(what, async || done(self).then_some(())).await;
    }
}

/// No limit but the disk itself.
pub fn roomy() -> Settings {
    Settings { max_size: MaxSize::Bytes(1 << 40), min_free: Some(0), ..Settings::default() }
}

pub fn whole() -> BlobWant {
    BlobWant { want: Want::Body, range: RangeRequest::Whole }
}

pub fn scope(engine: &Engine, repository: &str, image: &str) -> Scope {
    let repository: Arc<Repository> = engine.repositories().by_name(repository).unwrap();
    Scope { repository, image: image.parse().unwrap() }
}

pub async fn drain(mut reader: Reader) -> Got {
    let mut bytes = Vec::new();
    loop {
        let chunk = std::future::poll_fn(|cx| match reader.poll_chunk(cx, 64 * 1024) {
            Poll::Ready(chunk) => Poll::Ready(chunk),
            Poll::Pending => Poll::Pending,
        });
        match chunk.await {
            Some(Ok(chunk)) => bytes.extend_from_slice(&chunk),
            Some(Err(_)) => return Got::Broken(bytes),
            None => return Got::Whole(bytes),
        }
    }
}

impl Got {
    pub fn whole(self) -> Vec<u8> {
        match self {
            Self::Whole(bytes) => bytes,
            Self::Broken(bytes) => panic!("broken after {} bytes", bytes.len()),
        }
    }

    pub fn broken(self) -> Vec<u8> {
        match self {
            Self::Broken(bytes) => bytes,
            Self::Whole(bytes) => panic!("whole, with {} bytes", bytes.len()),
        }
    }
}
