//! A data directory with an engine and a remote that points at a scripted upstream.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use binaryrepo::engine::{
    BlobAnswer, BlobWant, Engine, EngineError, Manifest, MaxSize, Reader, RemoteSpec, Repository,
    RepositorySpec, Scope, Settings, Want,
};
use binaryrepo::names::{Digest, RangeRequest};
use binaryrepo::telemetry::Metrics;
use tempfile::TempDir;

use crate::support::upstream::Registry;

pub struct House {
    pub engine: Engine,
    pub dir: TempDir,
    pub settings: Settings,
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
        let settings =
            Settings { max_size: MaxSize::Bytes(1 << 40), min_free: Some(0), ..Settings::default() };
        Self::build(registry, settings, change).await
    }

    pub async fn build(
        registry: &Registry,
        settings: Settings,
        change: impl FnOnce(&mut RemoteSpec),
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let engine = open(&dir, &settings).await;
        let mut spec = RemoteSpec::new(registry.url());
        change(&mut spec);
        let spec = RepositorySpec::Remote(Box::new(spec));
        engine.repositories().create("hub".parse().unwrap(), spec).await.unwrap();
        Self { engine, dir, settings }
    }

    /// An orderly stop and a new start.
    pub async fn restart(self) -> Self {
        self.engine.shutdown().await;
        let Self { dir, settings, engine } = self;
        let metrics = engine.metrics().encode();
        assert!(metrics.contains("binaryrepo_invariant_violations_total 0\n"), "{metrics}");
        drop(engine);
        let engine = open(&dir, &settings).await;
        Self { engine, dir, settings }
    }

    pub fn scope(&self, image: &str) -> Scope {
        scope(&self.engine, "hub", image)
    }

    pub async fn manifest(&self, image: &str, reference: &str, want: Want) -> Result<Manifest, EngineError> {
        self.engine.manifest(&self.scope(image), &reference.parse().unwrap(), want).await
    }

    pub async fn blob(&self, image: &str, digest: &Digest, range: &str) -> Result<BlobAnswer, EngineError> {
        let range = if range.is_empty() { RangeRequest::Whole } else { RangeRequest::parse(range) };
        let want = BlobWant { want: Want::Body, range };
        self.engine.blob(&self.scope(image), digest, want).await
    }

    /// The whole blob, or how it broke.
    pub async fn pull(&self, image: &str, digest: &Digest) -> Result<Got, EngineError> {
        Ok(drain(self.blob(image, digest, "").await?.reader.unwrap()).await)
    }

    /// How many drafts lie in the data directory.
    pub fn drafts(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("tmp")).unwrap().count()
    }

    /// Waits until no fetch is under way: the last byte goes out before a blob lies in its place.
    pub async fn rest(&self) {
        for _ in 0..500 {
            if self.engine.status().await.counts.flights == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("fetches do not end within ten seconds");
    }

    /// Waits until `done`, in real time, or fails.
    pub async fn eventually(&self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        for _ in 0..500 {
            if done(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("not within ten seconds: {what}");
    }
}

pub async fn open(dir: &TempDir, settings: &Settings) -> Engine {
    Engine::open(dir.path(), settings.clone(), Metrics::new(), Vec::new()).await.unwrap()
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
