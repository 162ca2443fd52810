//! One cell's world: an upstream, a server in front of a data directory that may fail, and its clients.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use binaryrepo::clock::Clock;
use binaryrepo::engine::{
    Engine, Ground, LocalSpec, MaxSize, RemoteSpec, RepositorySpec, Settings, Timeouts,
};
use binaryrepo::http::{Limits, Listener, Service, Threads, serve};
use binaryrepo::meta::{CopyRow, MetaError, MetaExt as _, Opened, Options as MetaOptions, RedbMeta};
use binaryrepo::names::{Algorithm, Digest};
use binaryrepo::store::FsStore;
use binaryrepo::telemetry::Metrics;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::client::{Ask, Client, Got};
use super::rig::{Disk, Ledger};
use super::signs;
use super::support::image::{Content, Image};
use super::support::metrics::counted;
use super::support::patience::within;
use super::support::upstream::{Options, Registry};

/// Larger than what is held back whole, and small enough for six hundred worlds.
pub const SIZE: usize = 256 * 1024;
/// More than the buffers of two sockets hold, one of which is small.
pub const LARGE: usize = 2 << 20;
/// Long, for cells in which nothing should time out.
pub const PATIENT: Timeouts = Timeouts {
    connect: Duration::from_secs(10),
    head: Duration::from_secs(20),
    idle: Duration::from_secs(20),
};
/// Short, for cells in which something should.
pub const HASTY: Timeouts = Timeouts {
    connect: Duration::from_secs(1),
    head: Duration::from_millis(700),
    idle: Duration::from_millis(700),
};

pub type Change = Box<dyn FnOnce(&mut RemoteSpec) + Send>;

pub struct Setup {
    pub size: usize,
    pub upstream: Options,
    pub timeouts: Timeouts,
    /// The repository has a second origin with the same content.
    pub mirror: bool,
    pub change: Change,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            size: SIZE,
            upstream: Options::default(),
            timeouts: PATIENT,
            mirror: false,
            change: Box::new(|_| {}),
        }
    }
}

pub struct World {
    pub registry: Registry,
    /// Serves as long as it lives.
    _mirror: Option<Registry>,
    pub image: Image,
    pub layer: Content,
    pub dir: TempDir,
    pub disk: Disk,
    pub ledger: Arc<Ledger>,
    pub engine: Engine,
    pub metrics: Arc<Metrics>,
    pub address: SocketAddr,
    settings: Settings,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl World {
    pub async fn new(setup: Setup) -> Self {
        let Setup { size, upstream, timeouts, mirror, change } = setup;
        let registry = Registry::start(upstream).await;
        let image = Image::new(1, &[size]);
        let mirror = if mirror { Some(Registry::open().await) } else { None };
        for server in std::iter::once(&registry).chain(&mirror) {
            for name in ["a/b", "a/c"] {
                server.add_image(name, "latest", &image);
            }
        }
        let settings = Settings {
            max_size: MaxSize::Bytes(1 << 40),
            min_free: Some(0),
            timeouts,
            ..Settings::default()
        };
        let disk = Disk::default();
        let dir = fast_dir();
        let (engine, ledger, metrics) = open(dir.path(), &settings, &disk).await;
        let mut spec = RemoteSpec::new(registry.url());
        spec.mirrors = mirror.iter().map(Registry::url).collect();
        change(&mut spec);
        let hub = RepositorySpec::Remote(Box::new(spec));
        engine.repositories().create("hub".parse().unwrap(), hub).await.unwrap();
        let own = RepositorySpec::Local(LocalSpec::default());
        engine.repositories().create("own".parse().unwrap(), own).await.unwrap();
        let (address, stop, serving) = listen(&engine);
        let layer = image.layers[0].clone();
        let world = Self {
            registry,
            _mirror: mirror,
            image,
            layer,
            dir,
            disk,
            ledger,
            engine,
            metrics,
            address,
            settings,
            stop,
            serving,
        };
        // So that the layer is linked, and its size known.
        for name in ["a/b", "a/c"] {
            let got = world.ask(Ask::get(format!("/v2/hub/{name}/manifests/latest"))).got().await;
            assert_eq!(got.status, 200, "{got:?}");
        }
        world.registry.forget();
        world
    }

    pub fn ask(&self, ask: Ask) -> Client {
        // Manifests are not compared: their digest was checked by the server.
        ask.send(self.address, &self.layer.bytes)
    }

    pub fn target(&self, image: &str) -> String {
        format!("/v2/hub/{image}/blobs/{}", self.layer.digest)
    }

    pub fn pull(&self, image: &str) -> Client {
        self.ask(Ask::get(self.target(image)))
    }

    pub fn pulls(&self, clients: usize) -> Vec<Client> {
        (0..clients).map(|_| self.pull("a/b")).collect()
    }

    /// Fetches the blob, so that it lies here.
    pub async fn cache_it(&self) -> Result<(), String> {
        let got = self.pull("a/b").got().await;
        if !got.is_whole() {
            return Err(format!("the blob could not be cached: {got:?}"));
        }
        self.rest().await?;
        self.registry.forget();
        Ok(())
    }

    /// What the upstream is asked for this blob through `a/b`, as scripts and logs name it.
    pub fn line(&self) -> String {
        format!("GET /v2/a/b/blobs/{}", self.layer.digest)
    }

    /// How often the upstream was asked for it.
    pub fn gets(&self) -> usize {
        self.registry.asked(&self.line()).len()
    }

    pub async fn until(&self, what: &str, mut done: impl AsyncFnMut() -> bool) -> Result<(), String> {
        // Less where it is known that it will not come.
        let seconds = std::env::var("FAULTS_PATIENCE_S").map_or(30, |seconds| seconds.parse().unwrap());
        let came = within(Duration::from_secs(seconds), async || done().await.then_some(())).await;
        came.ok_or_else(|| format!("not within {seconds} seconds: {what}"))
    }

    /// Waits until so many wait for the head of the fetch.
    pub async fn until_waiting(&self, clients: usize) -> Result<(), String> {
        let enough = async || self.engine.status().await.counts.waiters == clients;
        self.until("everybody waits for the head", enough).await
    }

    /// Waits until the fetch itself has come to the upstream.
    pub async fn until_asked(&self) -> Result<(), String> {
        let asked = async || !self.registry.asked(&self.line()).is_empty();
        self.until("the upstream is asked", asked).await
    }

    /// Waits until each has the head and so many bytes.
    pub async fn until_at(&self, clients: &[Client], at: u64) -> Result<(), String> {
        let there = async || clients.iter().all(|client| client.has_head() && client.bytes() >= at);
        self.until("everybody has come so far", there).await
    }

    /// Waits until nothing is under way.
    pub async fn rest(&self) -> Result<(), String> {
        let quiet = async || {
            let counts = self.engine.status().await.counts;
            counts.flights + counts.queued + counts.waiters == 0
                && counts.reserved_bytes + counts.evicting_bytes == 0
                && self.metrics.open_bodies() == 0
        };
        let resting = self.until("nothing is under way", quiet).await;
        resting.map_err(|what| format!("{what}; {}", self.gauges()))
    }

    pub fn gauges(&self) -> String {
        let text = self.metrics.encode();
        let lines = text.lines().filter(|line| {
            ["fills_in_flight", "waiters", "open_bodies"].iter().any(|name| line.contains(name))
                && !line.starts_with('#')
        });
        lines.collect::<Vec<_>>().join(", ")
    }

    pub fn drafts(&self) -> Vec<PathBuf> {
        std::fs::read_dir(self.dir.path().join("tmp")).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    pub fn file_of(&self, digest: &Digest) -> PathBuf {
        self.dir.path().join("cas/sha256").join(&digest.hex()[..2]).join(digest.hex())
    }

    pub fn blob_file(&self) -> PathBuf {
        self.file_of(&self.layer.digest)
    }

    /// Whether the blob lies in its place. Other bytes there are an error, whoever would look at them.
    pub fn lies_here(&self) -> Result<bool, String> {
        match std::fs::read(self.blob_file()) {
            Ok(bytes) if bytes == self.layer.bytes => Ok(true),
            Ok(bytes) => Err(format!("{} bytes lie under the digest that are not the blob's", bytes.len())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(format!("the blob's file: {error}")),
        }
    }

    /// Every row has its file and every file its row, with the right size and the right bytes.
    fn agree(&self) -> Result<(), String> {
        let rows = self.ledger.scan::<CopyRow>(&(), None, 100).map_err(|error| error.to_string())?;
        let shards = std::fs::read_dir(self.dir.path().join("cas/sha256")).unwrap();
        let files = shards.flat_map(|shard| std::fs::read_dir(shard.unwrap().path()).unwrap());
        let mut found = Vec::new();
        for file in files.map(|file| file.unwrap()) {
            let bytes = std::fs::read(file.path()).map_err(|error| error.to_string())?;
            let digest = Digest::of(Algorithm::Sha256, &bytes);
            if digest.hex() != file.file_name().to_string_lossy() {
                return Err(format!("{:?} holds other bytes", file.file_name()));
            }
            found.push((digest, bytes.len() as u64));
        }
        let mut said: Vec<_> = rows.into_iter().map(|(digest, row)| (digest, row.size)).collect();
        found.sort();
        said.sort();
        if found == said { Ok(()) } else { Err(format!("rows say {said:?}, on the disk lies {found:?}")) }
    }

    /// A data directory as a kill would leave it now.
    pub async fn crash_image(&self) -> TempDir {
        let image = fast_dir();
        self.ledger.crash_image(self.dir.path(), image.path()).await;
        image
    }

    /// Stops the engine in order while the server still listens, as a signal does once the grace is over.
    pub async fn shutdown(&self) {
        self.engine.shutdown().await;
    }

    /// A new server on `dir`, or on this one's own directory; the old one is stopped.
    pub async fn revive(self, dir: Option<TempDir>) -> Self {
        self.stop.cancel();
        let _ = self.serving.await;
        self.engine.shutdown().await;
        drop((self.engine, self.ledger));
        self.disk.heal();
        let dir = dir.unwrap_or(self.dir);
        let (engine, ledger, metrics) = open(dir.path(), &self.settings, &self.disk).await;
        let (address, stop, serving) = listen(&engine);
        Self { dir, ledger, engine, metrics, address, stop, serving, ..self }
    }

    /// Everything is as it should be when nothing is under way; then the server stops.
    pub async fn finish(self) -> Result<(), String> {
        self.rest().await?;
        let gone = async || self.drafts().is_empty();
        self.until("no draft is left", gone).await.map_err(|what| format!("{what}: {:?}", self.drafts()))?;
        // Where the upstream was never asked no repository has the first two.
        let text = self.metrics.encode();
        let asked = counted(&text, "binaryrepo_upstream_requests_total").is_some();
        for (gauge, is_there) in [
            ("fills_in_flight", asked),
            ("waiters", asked),
            ("open_bodies", true),
            ("invariant_violations_total", true),
        ] {
            let shown = counted(&text, &format!("binaryrepo_{gauge}"));
            if shown.or((!is_there).then_some(0)) != Some(0) {
                return Err(format!("at rest {gauge} is {shown:?}"));
            }
        }
        self.agree()?;
        self.stop.cancel();
        let _ = self.serving.await;
        self.engine.shutdown().await;
        Ok(())
    }
}

async fn open(dir: &Path, settings: &Settings, disk: &Disk) -> (Engine, Arc<Ledger>, Arc<Metrics>) {
    let store = FsStore::open_with(dir, disk.faults()).unwrap();
    let (meta, opened) = metadata(dir).await;
    let ledger = Arc::new(Ledger::over(Arc::new(meta)));
    let ground = Ground { store: Arc::new(store), meta: ledger.clone(), opened };
    let metrics = Metrics::new();
    signs::watch(&metrics);
    let engine = Engine::start(ground, settings.clone(), metrics.clone(), Vec::new()).await.unwrap();
    (engine, ledger, metrics)
}

/// The last tasks of a server before this one may still hold the file.
async fn metadata(dir: &Path) -> (RedbMeta, Opened) {
    for _ in 0..1_000 {
        match RedbMeta::open(&dir.join("meta.redb"), MetaOptions::default()) {
            Err(MetaError::InUse(_)) => tokio::time::sleep(Duration::from_millis(10)).await,
            opened => return opened.unwrap(),
        }
    }
    panic!("the metadata stays in use");
}

fn listen(engine: &Engine) -> (SocketAddr, CancellationToken, JoinHandle<()>) {
    let listener = Listener::tcp(([127, 0, 0, 1], 0).into()).unwrap();
    let address = listener.local_address().unwrap();
    let settings = binaryrepo::http::Settings { strangers: true, ..Default::default() };
    let service = Service::new(engine.clone(), settings, Clock::new());
    let stop = CancellationToken::new();
    let threads = Arc::new(Threads::start(2, &signs::cell()).unwrap());
    let grace = Duration::from_secs(1);
    let serving = serve(vec![listener], service, Limits::default(), threads, stop.clone(), grace);
    let serving = tokio::spawn(async move {
        serving.await;
    });
    (address, stop, serving)
}

/// In memory where the machine has that: what a sync costs is of no interest here.
fn fast_dir() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Whether anybody was handed a wrong body as a whole one.
pub fn judge(got: &[Got]) -> Result<(), String> {
    match got.iter().find(|got| got.is_poison()) {
        Some(poison) => Err(format!("a complete body with wrong bytes: {poison:?}")),
        None => Ok(()),
    }
}
