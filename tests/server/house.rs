//! A server within the test's own process, with an administrator who is on its machine.

use std::net::SocketAddr;

use binaryrepo::StartError;
use binaryrepo::config::{Config, Setting, Sources};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::client::{Answer, Ask};
use super::support::image::{Content, Image};
use super::support::metrics::counted;
use super::support::patience::found;
use super::support::upstream::{Options, Registry};

/// `section.key` and its value, as on the command line.
pub type Settings<'a> = &'a [(&'a str, &'a str)];

pub struct House {
    pub address: SocketAddr,
    pub dir: TempDir,
    settings: Vec<(String, String)>,
    shutdown: CancellationToken,
    serving: JoinHandle<Result<(), StartError>>,
}

impl House {
    /// With a new data directory.
    pub async fn new() -> Self {
        Self::with(&[]).await
    }

    pub async fn with(settings: Settings<'_>) -> Self {
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Self::start(tempfile::tempdir().unwrap(), settings.collect()).await
    }

    /// `docker-remote` is a cache of this registry, and so takes what `?ns=docker.io` and dockerd ask for.
    pub async fn beside(registry: &Registry) -> Self {
        Self::beside_with(registry, &[], json!({})).await
    }

    /// `fields` of `docker-remote` besides its address.
    pub async fn beside_with(registry: &Registry, settings: Settings<'_>, fields: Value) -> Self {
        let house = Self::with(settings).await;
        let mut form = fields;
        form["remote_url"] = json!(registry.url().as_str());
        let answer = house.api("PUT", "/api/repository/docker-remote", &form).await;
        assert_eq!(answer.status, 200, "{}", answer.all());
        house
    }

    async fn start(dir: TempDir, settings: Vec<(String, String)>) -> Self {
        let config = config(&dir, &settings);
        let shutdown = CancellationToken::new();
        let (started, address) = oneshot::channel();
        let serving = tokio::spawn(binaryrepo::serve(config, shutdown.clone(), move |now| {
            started.send(now.address).expect("the test waits");
        }));
        let address = match address.await {
            Ok(address) => address,
            Err(_) => panic!("the server did not start: {:?}", serving.await),
        };
        Self { address, dir, settings, shutdown, serving }
    }

    /// Ends in order. What is left is the data.
    pub async fn stop(self) -> TempDir {
        self.shutdown.cancel();
        self.serving.await.unwrap().unwrap();
        self.dir
    }

    pub async fn restart(self) -> Self {
        let settings = self.settings.clone();
        Self::start(self.stop().await, settings).await
    }

    pub async fn send(&self, ask: Ask) -> Answer {
        ask.send(self.address).await
    }

    pub async fn get(&self, target: &str) -> Answer {
        self.send(Ask::get(target)).await
    }

    pub async fn head(&self, target: &str) -> Answer {
        self.send(Ask::head(target)).await
    }

    pub async fn api(&self, method: &str, path: &str, body: &Value) -> Answer {
        self.send(Ask::new(method, path).json(body)).await
    }

    /// Makes a remote of this registry.
    pub async fn add_remote(&self, name: &str, registry: &Registry, fields: Value) {
        let mut form = fields;
        form["name"] = json!(name);
        form["repo_type"] = json!("remote");
        form["remote_url"] = json!(registry.url().as_str());
        let answer = self.api("POST", "/api/repository", &form).await;
        assert_eq!(answer.status, 201, "{}", answer.all());
    }

    pub async fn settled(&self) {
        settled(self.address).await;
    }

    /// Pulls an image through `docker-remote`, as a client does.
    pub async fn pull(&self, name: &str, tag: &str, image: &Image) {
        let manifest = self.get(&manifest(name, tag)).await;
        assert_eq!(manifest.body, image.manifest.bytes, "{}", manifest.all());
        for content in image.blobs() {
            assert_eq!(self.get(&blob(name, content)).await.body, content.bytes);
        }
    }

    /// Pulls an image, and waits until all of it lies here.
    pub async fn cache(&self, name: &str, tag: &str, image: &Image) {
        self.pull(name, tag, image).await;
        self.settled().await;
    }

    /// The value of a metric; 0 where it has not been counted yet.
    pub async fn metric(&self, line: &str) -> u64 {
        metric(&self.get("/metrics").await, line)
    }

    pub fn token(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("admin.token")).unwrap().trim().to_owned()
    }
}

/// A server beside an upstream that has this image as `library/redis:7`.
pub async fn hub(image: &Image) -> (Registry, House) {
    hub_with(image, Options::default(), &[]).await
}

pub async fn hub_with(image: &Image, upstream: Options, settings: &[(&str, &str)]) -> (Registry, House) {
    let registry = Registry::start(upstream).await;
    registry.add_image("library/redis", "7", image);
    let house = House::beside_with(&registry, settings, json!({})).await;
    (registry, house)
}

/// Waits until what was fetched lies under its digest. A client has its last byte a moment before.
pub async fn settled(address: SocketAddr) {
    let status = async || Ask::get("/api/status").send(address).await.json();
    let rests = async || (status().await["cache"]["fills_in_flight"] == 0).then_some(());
    found("no fetch is under way", rests).await;
}

/// Of a scrape, the value behind `name{labels}`.
pub fn metric(scrape: &Answer, line: &str) -> u64 {
    assert_eq!(scrape.status, 200);
    let text = String::from_utf8(scrape.body.clone()).unwrap();
    counted(&text, line).unwrap_or(0)
}

/// On every port, in `dir`, and of its own space alone.
pub fn config(dir: &TempDir, settings: &[(String, String)]) -> Config {
    let path = dir.path().display().to_string();
    let usual = [
        ("server.listen", "127.0.0.1:0"),
        ("storage.path", &path),
        ("storage.max_size", "1GiB"),
        ("storage.min_free", "0"),
    ];
    let given = settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let flags = usual.into_iter().chain(given).map(|(name, value)| {
        let (section, key) = name.split_once('.').unwrap();
        Setting::new("the test", section, key, value)
    });
    Config::load(&Sources { flags: flags.collect(), ..Sources::default() }).unwrap()
}

/// Paths of `docker-remote` by image name.
pub fn manifest(name: &str, reference: &str) -> String {
    format!("/v2/docker-remote/{name}/manifests/{reference}")
}

pub fn blob(name: &str, content: &Content) -> String {
    format!("/v2/docker-remote/{name}/blobs/{}", content.digest)
}

/// Pushes an image to a local repository, as a client does: `repository/image`.
pub async fn push(address: SocketAddr, name: &str, tag: &str, image: &Image) {
    for content in image.blobs() {
        let upload = format!("/v2/{name}/blobs/uploads/?digest={}", content.digest);
        let answer = Ask::new("POST", &upload).body(&content.bytes[..]).send(address).await;
        assert_eq!(answer.status, 201, "{}", answer.all());
    }
    put_manifest(address, name, tag, (Image::MEDIA_TYPE, &image.manifest)).await;
}

/// Pushes a manifest of which all is there.
pub async fn put_manifest(address: SocketAddr, name: &str, reference: &str, manifest: (&str, &Content)) {
    let put = Ask::new("PUT", &format!("/v2/{name}/manifests/{reference}"));
    let put = put.header("Content-Type", manifest.0).body(&manifest.1.bytes[..]);
    let answer = put.send(address).await;
    assert_eq!(answer.status, 201, "{}", answer.all());
}
