//! Every answer of a remote says how it came about, in one word: the same in `X-Cache`, in the access log, and in
//! the metrics.

use serde_json::json;
use tempfile::TempDir;

use super::client::{Answer, Ask};
use super::house::{House, blob, manifest, metric, settled};
use super::process::Process;
use super::support::fault::{Fault, Gate};
use super::support::image::Image;
use super::support::patience::found;
use super::support::upstream::Registry;

const WAITERS: &str = "binaryrepo_waiters{repository=\"docker-remote\"}";

/// A server with a log of its own, and what was counted when it was last looked at.
struct Scene {
    server: Process,
    dir: TempDir,
    /// How often each path was asked for: its lines in the log come in that order.
    asked: Vec<String>,
}

impl Scene {
    async fn new(registry: &Registry, fields: serde_json::Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Process::start(&dir, &[]);
        let mut form = fields;
        form["remote_url"] = json!(registry.url().as_str());
        let put = Ask::new("PUT", "/api/repository/docker-remote").json(&form);
        assert_eq!(server.send(put).await.status, 200);
        Self { server, dir, asked: Vec::new() }
    }

    async fn count(&self, kind: &str, word: &str) -> u64 {
        let line = format!(
            r#"binaryrepo_verdicts_total{{repository="docker-remote",kind="{kind}",result="{word}"}}"#
        );
        metric(&self.server.get("/metrics").await, &line)
    }

    /// Asks, and looks for the word in all three places.
    async fn expect(&mut self, method: &str, path: &str, status: u16, word: &str) -> Answer {
        let kind = if path.contains("/blobs/") { "blob" } else { "manifest" };
        settled(self.server.address).await;
        let before = self.count(kind, word).await;
        let answer = self.server.send(Ask::new(method, path)).await;
        let what = format!("{method} {path}: {} bytes", answer.body.len());
        assert_eq!((answer.status, answer.cache()), (status, Some(word)), "{what}");
        let number = self.asked.iter().filter(|asked| *asked == path).count();
        self.asked.push(path.to_owned());
        let line = self.server.access_line(path, number);
        assert_eq!(line["cache"], word, "{line}");
        let action = format!("{kind}.{}", if method == "HEAD" { "head" } else { "get" });
        assert_eq!((&line["action"], &line["status"]), (&json!(action), &json!(status)), "{line}");
        assert_eq!(self.count(kind, word).await, before + 1, "{what}");
        answer
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn miss_hit_and_revalidated() {
    let registry = Registry::open().await;
    let image = Image::new(401, &[100_000]);
    registry.add_image("library/redis", "7", &image);
    let mut scene = Scene::new(&registry, json!({ "tag_ttl": "1h" })).await;
    let tag = manifest("redis", "7");
    let digest = manifest("redis", &image.manifest.digest.to_string());
    let layer = blob("redis", &image.layers[0]);
    scene.expect("HEAD", &tag, 200, "miss").await;
    scene.expect("GET", &digest, 200, "miss").await;
    scene.expect("HEAD", &tag, 200, "hit").await;
    scene.expect("GET", &tag, 200, "hit").await;
    scene.expect("GET", &digest, 200, "hit").await;
    scene.expect("HEAD", &digest, 200, "hit").await;
    scene.expect("HEAD", &layer, 200, "miss").await;
    scene.expect("GET", &layer, 200, "miss").await;
    scene.expect("GET", &layer, 200, "hit").await;
    let head = scene.expect("HEAD", &layer, 200, "hit").await;
    assert_eq!(head.header("content-length"), Some("100000"));

    let ttl = Ask::new("PUT", "/api/repository/docker-remote").json(&json!({ "tag_ttl": "0s" }));
    assert_eq!(scene.server.send(ttl).await.status, 200);
    scene.expect("HEAD", &tag, 200, "revalidated").await;
    scene.expect("GET", &tag, 200, "revalidated").await;
    // The tag moves: what it names now was not here.
    registry.add_image("library/redis", "7", &Image::new(402, &[10]));
    scene.expect("GET", &tag, 200, "miss").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn joined_for_all_but_the_first() {
    let registry = Registry::open().await;
    let image = Image::new(403, &[200_000]);
    registry.add_image("library/redis", "7", &image);
    let mut scene = Scene::new(&registry, json!({})).await;
    let (tag, layer) = (manifest("redis", "7"), blob("redis", &image.layers[0]));
    let gate = Gate::closed();
    registry.script("/manifests/", [Fault::Hold(gate.clone())]);
    let [first, second] = [(); 2].map(|()| tokio::spawn(Ask::get(&tag).send(scene.server.address)));
    let both = async || (metric(&scene.server.get("/metrics").await, WAITERS) == 2).then_some(());
    found("both wait", both).await;
    gate.open();
    let (first, second) = (first.await.unwrap(), second.await.unwrap());
    // Which of them has it fetched once both know the digest, is open.
    let mut words = [first.cache(), second.cache()];
    words.sort_unstable();
    assert_eq!(words, [Some("joined"), Some("miss")]);

    let gate = Gate::closed();
    registry.script("/blobs/", [Fault::HoldAt(150_000, gate.clone())]);
    let mut first = Ask::get(&layer).open(scene.server.address).await;
    first.until(1).await;
    scene.asked.push(layer.clone());
    let mut second = Ask::get(&layer).open(scene.server.address).await;
    second.until(1).await;
    // They end at the same time: both lines follow.
    gate.open();
    let second = second.rest().await;
    assert_eq!((second.status, second.cache()), (200, Some("joined")));
    assert_eq!(second.body, image.layers[0].bytes);
    assert_eq!(first.rest().await.cache(), Some("miss"));
    let mut words: Vec<_> =
        [0, 1].map(|number| scene.server.access_line(&layer, number)["cache"].clone()).into();
    words.sort_by_key(ToString::to_string);
    assert_eq!(words, ["joined", "miss"]);
    assert_eq!((scene.count("blob", "joined").await, scene.count("blob", "miss").await), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_while_the_upstream_fails_and_negative_when_that_is_remembered() {
    let registry = Registry::open().await;
    let image = Image::new(404, &[100_000]);
    registry.add_image("library/redis", "7", &image);
    let mut scene = Scene::new(&registry, json!({ "tag_ttl": "0s", "negative_ttl": "1h" })).await;
    let tag = manifest("redis", "7");
    scene.expect("GET", &tag, 200, "miss").await;
    for content in image.blobs() {
        scene.expect("GET", &blob("redis", content), 200, "miss").await;
    }
    let absent = manifest("redis", "no-such");
    scene.expect("GET", &absent, 404, "miss").await;
    scene.expect("GET", &absent, 404, "negative").await;
    scene.expect("HEAD", &manifest("redis", "nor-this"), 404, "miss").await;
    scene.expect("HEAD", &manifest("redis", "nor-this"), 404, "negative").await;
    let nothing = blob("redis", &Image::new(405, &[7]).layers[0]);
    scene.expect("GET", &nothing, 404, "miss").await;
    scene.expect("GET", &nothing, 404, "negative").await;

    registry.always("/v2/", Fault::status(503));
    let stale = scene.expect("GET", &tag, 200, "stale").await;
    assert_eq!(stale.body, image.manifest.bytes);
    assert!(stale.header("warning").unwrap().starts_with("299 - \"stale"), "{:?}", stale.header("warning"));
    scene.expect("HEAD", &tag, 200, "stale").await;
    scene.expect("GET", &blob("redis", &image.layers[0]), 200, "hit").await;
}

/// A disk that takes no new file: everybody gets it past the cache, every time.
#[tokio::test(flavor = "multi_thread")]
async fn bypass_when_nothing_can_be_kept() {
    let registry = Registry::open().await;
    let image = Image::new(408, &[400_000]);
    registry.add_image("library/redis", "7", &image);
    let mut scene = Scene::new(&registry, json!({})).await;
    scene.expect("GET", &manifest("redis", "7"), 200, "miss").await;
    std::fs::remove_dir(scene.dir.path().join("tmp")).unwrap();
    let layer = blob("redis", &image.layers[0]);
    for _ in 0..2 {
        let answer = scene.expect("GET", &layer, 200, "bypass").await;
        assert!(answer.body == image.layers[0].bytes, "{} bytes", answer.body.len());
    }
    assert_eq!(metric(&scene.server.get("/metrics").await, "binaryrepo_cache_bypass_total"), 2);
}

/// It was called a miss each time, as if the next pull could be a hit.
#[tokio::test(flavor = "multi_thread")]
async fn bypass_for_what_is_larger_than_what_may_be_kept() {
    let registry = Registry::open().await;
    let image = Image::new(409, &[400_000, 40_000]);
    registry.add_image("library/redis", "7", &image);
    let [large, small] = [0, 1].map(|layer| blob("redis", &image.layers[layer]));
    for (settings, fields) in [
        ([("storage.max_size", "100KiB")].as_slice(), json!({})),
        ([].as_slice(), json!({ "max_size": "100KiB" })),
    ] {
        // Limits hold from the next round of housekeeping on; a start begins with one.
        let house = House::beside_with(&registry, settings, fields).await.restart().await;
        house.get(&manifest("redis", "7")).await;
        let asked = async || {
            house.settled().await;
            let answer = house.get(&large).await;
            assert!(answer.body == image.layers[0].bytes, "{} bytes", answer.body.len());
            answer.cache().map(str::to_owned)
        };
        let bypass = async || (asked().await.as_deref() == Some("bypass")).then_some(());
        found("the limit holds", bypass).await;
        assert_eq!(asked().await.as_deref(), Some("bypass"), "{settings:?}");
        assert_eq!(house.get(&small).await.cache(), Some("miss"));
        house.settled().await;
        assert_eq!(house.get(&small).await.cache(), Some("hit"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_are_counted_once_from_upstream_and_each_time_to_clients() {
    let registry = Registry::open().await;
    let image = Image::new(406, &[100_000]);
    registry.add_image("library/redis", "7", &image);
    let mut scene = Scene::new(&registry, json!({})).await;
    let layer = blob("redis", &image.layers[0]);
    scene.expect("GET", &manifest("redis", "7"), 200, "miss").await;
    scene.expect("GET", &layer, 200, "miss").await;
    let counter = async |name: &str| {
        let line = format!("binaryrepo_{name}_total{{repository=\"docker-remote\"}}");
        metric(&scene.server.get("/metrics").await, &line)
    };
    let size = 100_000 + image.manifest.size();
    assert_eq!((counter("bytes_from_upstream").await, counter("bytes_to_clients").await), (size, size));
    assert_eq!(counter("bytes_saved").await, 0);
    for _ in 0..3 {
        scene.server.get(&layer).await;
    }
    let part = Ask::get(&layer).header("Range", "bytes=0-999");
    assert_eq!(scene.server.send(part).await.status, 206);
    scene.server.access_line(&layer, 4);
    assert_eq!(counter("bytes_from_upstream").await, size);
    assert_eq!(counter("bytes_to_clients").await, size + 301_000);
    assert_eq!(counter("bytes_saved").await, 301_000);
    let requests = "binaryrepo_requests_total{repository=\"docker-remote\",action=\"blob.get\",code=\"200\"}";
    assert_eq!(metric(&scene.server.get("/metrics").await, requests), 4);
    // A HEAD saves nothing: it has no bytes.
    scene.server.send(Ask::head(&layer)).await;
    scene.server.access_line(&layer, 5);
    assert_eq!(counter("bytes_saved").await, 301_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn fills_and_waiters_are_shown_while_they_last() {
    let registry = Registry::open().await;
    let image = Image::new(407, &[400_000]);
    registry.add_image("library/redis", "7", &image);
    let gate = Gate::closed();
    registry.script("/blobs/", [Fault::HoldAt(200_000, gate.clone())]);
    let scene = Scene::new(&registry, json!({})).await;
    scene.server.get(&manifest("redis", "7")).await;
    let mut open = Ask::get(&blob("redis", &image.layers[0])).open(scene.server.address).await;
    open.until(1).await;
    let shown = async || {
        let scrape = scene.server.get("/metrics").await;
        let names = ["binaryrepo_fills_in_flight{repository=\"docker-remote\"}", "binaryrepo_open_bodies"];
        names.iter().all(|name| metric(&scrape, name) == 1).then_some(())
    };
    found("the fill and its reader are shown", shown).await;
    gate.open();
    assert_eq!(open.rest().await.body, image.layers[0].bytes);
}

/// Docker Hub says with each answer how many pulls are left.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_the_upstreams_limit_is_shown() {
    const LEFT: &str = "binaryrepo_ratelimit_remaining{repository=\"docker-remote\"}";
    let registry = Registry::open().await;
    let image = Image::new(409, &[10]);
    registry.add_image("library/redis", "7", &image);
    let scene = Scene::new(&registry, json!({ "tag_ttl": "0s" })).await;
    let left = async || metric(&scene.server.get("/metrics").await, LEFT);
    assert_eq!(left().await, 0, "not said yet");
    for remaining in ["76;w=21600", "75;w=21600"] {
        registry.behave();
        let told = [("ratelimit-limit", "100;w=21600"), ("ratelimit-remaining", remaining)];
        registry.always("/manifests/", Fault::headers(&told));
        assert_eq!(scene.server.get(&manifest("redis", "7")).await.status, 200);
        assert_eq!(format!("{};w=21600", left().await), remaining);
    }
}
