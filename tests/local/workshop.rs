//! A server whose disk and metadata are a test's to spoil and to look at.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use binaryrepo::clock::Clock;
use binaryrepo::engine::{Engine, Ground, LocalSpec, RepositorySpec, Settings};
use binaryrepo::http::{self, Limits, Listener, Service, Stopped, Threads};
use binaryrepo::meta::{Meta, Options, RedbMeta};
use binaryrepo::store::FsStore;
use binaryrepo::telemetry::Metrics;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::rig::Disk;
use super::support::patience::found;

pub struct Workshop {
    pub address: SocketAddr,
    pub dir: TempDir,
    pub disk: Disk,
    engine: Engine,
    shutdown: CancellationToken,
    serving: JoinHandle<Stopped>,
}

impl Workshop {
    /// Waits until the start has listed the files, which it does in its own time.
    pub async fn knows_what_is_here(&self) {
        let loaded = async || self.engine.status().await.counts.loaded.then_some(());
        found("it is known what lies here", loaded).await;
    }

    /// On a data directory that may be there already. `meta` goes between the engine and its metadata.
    pub async fn open<M: Meta + 'static>(
        dir: TempDir,
        disk: Disk,
        meta: impl FnOnce(Arc<dyn Meta>) -> Arc<M>,
    ) -> (Self, Arc<M>) {
        let store = FsStore::open_with(dir.path(), disk.faults()).unwrap();
        let (redb, opened) = RedbMeta::open(&dir.path().join("meta.redb"), Options::default()).unwrap();
        let meta = meta(Arc::new(redb));
        let ground = Ground { store: Arc::new(store), meta: meta.clone(), opened };
        let first = vec![("docker-local".parse().unwrap(), RepositorySpec::Local(LocalSpec::default()))];
        let engine = Engine::start(ground, Settings::default(), Metrics::new(), first).await.unwrap();
        let settings = http::Settings { strangers: true, ..http::Settings::default() };
        let service = Service::new(engine.clone(), settings, Clock::new());
        let listener = Listener::tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_address().unwrap();
        let shutdown = CancellationToken::new();
        let limits = Limits::default();
        let grace = Duration::from_secs(1);
        let threads = Arc::new(Threads::start(2, "connections").unwrap());
        let serving = http::serve(vec![listener], service, limits, threads, shutdown.clone(), grace);
        let serving = tokio::spawn(serving);
        (Self { address, dir, disk, engine, shutdown, serving }, meta)
    }

    /// Ends in order. What is left is the data.
    pub async fn stop(self) -> TempDir {
        self.shutdown.cancel();
        self.serving.await.unwrap();
        self.engine.shutdown().await;
        self.dir
    }

    pub fn drafts(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("tmp")).unwrap().count()
    }

    pub async fn no_draft_is_left(&self) {
        found("no draft is left", async || (self.drafts() == 0).then_some(())).await;
    }
}
