//! One blob that takes longer than a run: a kill cuts its fetch off, and the next server goes on with what was left.
//! Where that was damaged meanwhile, it begins anew.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::json;
use tokio::task::JoinHandle;

use super::client::{Ask, Got};
use super::support::fault::Fault;
use super::support::image::{Content, Image};
use super::support::metrics::counted;
use super::support::upstream::{Registry, Seen};

const SIZE: usize = 20 << 20;
/// Nothing takes as long, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// Where the upstream falls silent: behind the 16 MiB at which the server notes how far it is.
const SILENT_AT: u64 = 18 << 20;

pub struct Far {
    registry: Registry,
    image: Image,
    /// Who asked for it at the server that is to be killed.
    cut_off: Option<JoinHandle<Got>>,
    damaged: bool,
    pub resumed: usize,
    pub begun_anew: usize,
}

impl Far {
    pub async fn start() -> Self {
        let registry = Registry::open().await;
        let image = Image::new(77_000, &[SIZE]);
        registry.add_image("a/far", "latest", &image);
        Self { registry, image, cut_off: None, damaged: false, resumed: 0, begun_anew: 0 }
    }

    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    fn layer(&self) -> &Content {
        &self.image.layers[0]
    }

    fn pull(&self) -> Ask {
        Ask::get(format!("/v2/far/a/far/blobs/{}", self.layer().digest))
    }

    fn line(&self) -> String {
        format!("GET /v2/a/far/blobs/{}", self.layer().digest)
    }

    /// Has the server fetch most of it. Answers when what is noted of that survives a kill.
    pub async fn begin(&mut self, server: SocketAddr) {
        self.registry.always(&self.line(), Fault::StallAt(SILENT_AT));
        let before = fetched(server).await;
        let (pull, bytes) = (self.pull(), self.layer().bytes.clone());
        let pulling = tokio::spawn(async move { pull.send(server, &bytes).await });
        let since = Instant::now();
        while fetched(server).await < before + SILENT_AT {
            if pulling.is_finished() {
                // The kill before came between a purge's answer and the removal of the file, which is for who has a
                // proof. Another round, then.
                let got = pulling.await.unwrap();
                assert!(got.is_whole(), "what is here already: {got:?}");
                return self.purge(server).await;
            }
            assert!(
                since.elapsed() < PATIENCE,
                "most of a blob should be here, {} bytes are",
                fetched(server).await
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.cut_off = Some(pulling);
        // What was noted is durable with the next commit that has to be.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let content = Content::random(fastrand::u64(..), 100);
        let target = format!("/v2/docker-local/far/side/blobs/uploads/?digest={}", content.digest);
        let push = Ask::new("POST", target, content.bytes).with("content-type", "application/octet-stream");
        let pushed = push.send(server, &Bytes::new()).await;
        assert_eq!(pushed.status, 201, "{pushed:?}");
    }

    /// What a kill has left, as a power cut might leave it: one byte is another one.
    pub fn damage(&mut self, dir: &Path) {
        let Some(draft) = self.draft(dir) else { return };
        let mut bytes = std::fs::read(&draft).unwrap();
        bytes[99] ^= 1;
        std::fs::write(draft, bytes).unwrap();
        self.damaged = true;
    }

    fn draft(&self, dir: &Path) -> Option<PathBuf> {
        self.cut_off.as_ref()?;
        let files = std::fs::read_dir(dir.join("tmp")).unwrap().map(|file| file.unwrap().path());
        let is_ours = |path: &PathBuf| {
            std::fs::read(path)
                .is_ok_and(|bytes| bytes.len() > 1 << 20 && bytes[..64] == self.layer().bytes[..64])
        };
        files.into_iter().find(is_ours)
    }

    /// The next server brings all of it, and nothing of what was damaged; then it is purged, to be fetched again.
    pub async fn go_on(&mut self, server: SocketAddr) {
        let Some(cut_off) = self.cut_off.take() else { return };
        let got = cut_off.await.unwrap();
        assert!(!got.is_poison(), "wrong bytes: {got:?}");
        self.registry.behave();
        self.registry.forget();
        let got = self.pull().send(server, &self.layer().bytes).await;
        assert!(got.is_whole(), "a fetch that a kill cut off: {got:?}");
        let asked = self.registry.asked(&self.line());
        let resumed = asked.iter().any(goes_on);
        assert!(!(resumed && self.damaged), "what was damaged was gone on with: {asked:?}");
        if resumed {
            self.resumed += 1;
        } else {
            self.begun_anew += 1;
        }
        self.damaged = false;
        settled(server).await;
        self.purge(server).await;
    }

    async fn purge(&self, server: SocketAddr) {
        let form = json!({ "repository": "far", "digest": self.layer().digest.to_string() });
        let purge = Ask::new("POST", "/api/purge", form.to_string().into());
        let purged = purge.with("content-type", "application/json").send(server, &Bytes::new()).await;
        assert_eq!(purged.status, 200, "{purged:?}");
    }
}

/// Whether this asked for the rest of a body. A proof asks for the first byte alone.
pub fn goes_on(seen: &Seen) -> bool {
    seen.range().is_some_and(|range| !range.starts_with("bytes=0-"))
}

/// Waits until no fetch is under way: what is being fetched is not purged, and a client has its last byte a moment before
/// its blob is noted.
async fn settled(server: SocketAddr) {
    let since = Instant::now();
    // It has fetched, so it counts that.
    while shown(server, "binaryrepo_fills_in_flight").await != Some(0) {
        assert!(since.elapsed() < PATIENCE, "a fetch does not end");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Bytes that the server has from that upstream.
async fn fetched(server: SocketAddr) -> u64 {
    shown(server, "binaryrepo_bytes_from_upstream_total{repository=\"far\"}").await.unwrap_or(0)
}

/// `None` where nothing was counted yet.
async fn shown(server: SocketAddr, name: &str) -> Option<u64> {
    let got = Ask::get("/metrics").send(server, &Bytes::new()).await;
    counted(&got.text, name)
}
