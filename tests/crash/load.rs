//! What clients want and do, and what they were promised.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use binaryrepo::names::{Algorithm, Digest};
use bytes::Bytes;
use fastrand::Rng;
use serde_json::json;
use tokio::task::JoinSet;

use super::client::{Ask, Got};
use super::support::fault::Fault;
use super::support::image::{CONFIG, Content, Image, LAYER};
use super::support::upstream::Registry;

/// Where clients push to.
const HOME: &str = "/v2/docker-local/team/app";
const OCTETS: &str = "application/octet-stream";
/// Nothing takes as long, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// The server is gone, most likely.
const PAUSE: Duration = Duration::from_millis(5);
/// Images that are promised from one cleanup to the next.
const KEPT: usize = 20;
/// Seeds of images that nobody asks for before: 77,000 is another's.
const LATE: u64 = 100_000;
const PULLERS: usize = 8;
const PUSHERS: usize = 3;
/// Bytes; from those that are answered whole from memory to those that take a while.
const SIZES: [usize; 6] = [300, 10_000, 80_000, 300_000, 1 << 20, 3 << 20];

/// What is there to be pulled, and what was promised.
pub struct World {
    images: Arc<Vec<Image>>,
    /// Of blobs: everything that an answer 201 was read for.
    pushed: BTreeMap<Digest, Bytes>,
    /// Tags, with the manifest that was acknowledged. Each tag is pushed once.
    tags: BTreeMap<String, Bytes>,
    /// Tags whose push a kill cut off: there whole, with all that the manifest names, or not at all.
    uncertain: Vec<Doubt>,
    /// Uploads that a kill cut off.
    begun: Vec<Begun>,
    pub tally: Tally,
}

#[derive(Clone, Debug, Default)]
pub struct Tally {
    whole: usize,
    broken: usize,
    refused: usize,
    pushes: usize,
    uncertain: usize,
    resumed: usize,
    forgotten: usize,
    damaged: usize,
    collected: u64,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { whole, broken, refused, pushes, uncertain, resumed, forgotten, damaged, collected } = self;
        write!(
            f,
            "pulls: {whole} whole, {broken} broken off by a kill, {refused} refused\n\
             pushes: {pushes} acknowledged, none lost; {uncertain} manifests cut off, none half there\n\
             uploads cut off: {resumed} resumed, {forgotten} forgotten\n\
             {damaged} cached files damaged between two runs, none served\n\
             {collected} bytes of what was deleted collected, and nothing else"
        )
    }
}

/// What one run of clients brought.
#[derive(Default)]
pub struct Brought {
    tally: Tally,
    pushed: Vec<Content>,
    tags: Vec<(String, Bytes)>,
    uncertain: Vec<Doubt>,
    begun: Vec<Begun>,
}

/// A manifest that was sent, and no answer read.
struct Doubt {
    tag: String,
    manifest: Bytes,
    needs: [Content; 2],
}

/// An upload that was begun, with where it goes on.
struct Begun {
    location: String,
    content: Content,
    sent: usize,
}

impl World {
    pub fn new(registry: &Registry, random: &mut Rng) -> Self {
        let image = |number: u64| {
            let layers: Vec<usize> = (0..3).map(|_| SIZES[random.usize(..SIZES.len())]).collect();
            let image = Image::new(number, &layers);
            registry.add_image(&format!("a/n{number}"), "latest", &image);
            image
        };
        let images = (0..24).map(image).collect();
        Self {
            images: Arc::new(images),
            pushed: BTreeMap::new(),
            tags: BTreeMap::new(),
            uncertain: Vec::new(),
            begun: Vec::new(),
            tally: Tally::default(),
        }
    }

    /// The first thing that a new server is asked for is what the one before it promised, and what may be damaged.
    pub async fn first_look(&mut self, server: SocketAddr, random: &mut Rng) {
        let mut asked = JoinSet::new();
        for _ in 0..4 {
            let (target, bytes) = pull(&self.images, random);
            asked.spawn(async move { Ask::get(target).send(server, &bytes).await });
        }
        while let Some(got) = asked.join_next().await {
            let got = got.unwrap();
            assert!(got.is_whole(), "right after the start: {got:?}");
        }
        let promised: Vec<_> = self.pushed.iter().collect();
        for _ in 0..promised.len().min(10) {
            let (digest, bytes) = promised[random.usize(..promised.len())];
            is_there(server, digest, bytes).await;
        }
        let tags: Vec<_> = self.tags.iter().collect();
        for _ in 0..tags.len().min(5) {
            let (tag, bytes) = tags[random.usize(..tags.len())];
            tag_is_there(server, tag, bytes).await;
        }
        for doubt in std::mem::take(&mut self.uncertain) {
            self.tally.uncertain += 1;
            if doubt.is_settled(server).await {
                self.tags.insert(doubt.tag, doubt.manifest);
            }
        }
        for begun in std::mem::take(&mut self.begun) {
            if begun.go_on(server).await {
                self.tally.resumed += 1;
                self.pushed.insert(begun.content.digest, begun.content.bytes);
            } else {
                self.tally.forgotten += 1;
            }
        }
    }

    /// The upstream breaks some bodies off where they are asked for next.
    pub fn break_some(&self, registry: &Registry, random: &mut Rng) {
        for _ in 0..12 {
            let number = random.usize(..self.images.len());
            let layers = &self.images[number].layers;
            let layer = &layers[random.usize(..layers.len())];
            let line = format!("GET /v2/a/n{number}/blobs/{}", layer.digest);
            registry.script(&line, [Fault::CloseAt(random.u64(1..layer.size()))]);
        }
    }

    /// An image that nobody asked for before: its layer breaks off half-way, and goes on. Whether a kill leaves the others
    /// time for that is chance.
    pub async fn breaks_off_and_goes_on(&self, registry: &Registry, server: SocketAddr, round: u64) {
        let (name, image) = (format!("a/late{round}"), Image::new(LATE + round, &[300_000]));
        registry.add_image(&name, "latest", &image);
        let manifest = ("manifests/latest".to_owned(), &image.manifest);
        let layer = (format!("blobs/{}", image.layers[0].digest), &image.layers[0]);
        registry.script(&format!("GET /v2/{name}/{}", layer.0), [Fault::CloseAt(150_000)]);
        for (what, content) in [manifest, layer] {
            let got = Ask::get(format!("/v2/hub/{name}/{what}")).send(server, &content.bytes).await;
            assert!(got.is_whole(), "{got:?}");
        }
    }

    /// Every promise there is, and everything that can be pulled.
    pub async fn all_is_there(&self, server: SocketAddr) {
        for (digest, bytes) in &self.pushed {
            is_there(server, digest, bytes).await;
        }
        for (tag, bytes) in &self.tags {
            tag_is_there(server, tag, bytes).await;
        }
        for (number, image) in self.images.iter().enumerate() {
            for blob in image.blobs() {
                let target = format!("/v2/hub/a/n{number}/blobs/{}", blob.digest);
                let since = Instant::now();
                let got = loop {
                    let got = Ask::get(target.as_str()).send(server, &blob.bytes).await;
                    // What the upstream has just broken off again and again is asked for anew a little later.
                    if got.status != 502 || since.elapsed() > PATIENCE {
                        break got;
                    }
                    tokio::time::sleep(Duration::from_millis(200)).await;
                };
                assert!(got.is_whole(), "{got:?}");
            }
        }
    }

    /// Deletes all images but a few and has the server clean up, so that thousands of rounds fit on a disk. What is left
    /// is promised as before.
    pub async fn forget_most(&mut self, server: SocketAddr) {
        let tags = std::mem::take(&mut self.tags);
        for (number, (tag, manifest)) in tags.into_iter().enumerate() {
            if number < KEPT {
                self.tags.insert(tag, manifest);
                continue;
            }
            let digest = Digest::of(Algorithm::Sha256, &manifest);
            let delete = Ask::new("DELETE", format!("{HOME}/manifests/{digest}"), Bytes::new());
            let got = delete.send(server, &Bytes::new()).await;
            assert_eq!(got.status, 202, "{got:?}");
        }
        let got = Ask::new("POST", "/api/gc", Bytes::new()).send(server, &Bytes::new()).await;
        assert_eq!(got.status, 200, "{got:?}");
        let collected: serde_json::Value = serde_json::from_str(&got.text).unwrap();
        self.tally.collected += collected["bytes"].as_u64().unwrap();
        let kept: Vec<_> =
            self.tags.values().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect();
        self.pushed.retain(|digest, _| kept.iter().any(|manifest| manifest.contains(&digest.to_string())));
    }

    pub fn take_in(&mut self, brought: Brought) {
        let Brought { tally, pushed, tags, uncertain, begun } = brought;
        self.tally.whole += tally.whole;
        self.tally.broken += tally.broken;
        self.tally.refused += tally.refused;
        self.tally.pushes += tally.pushes;
        self.pushed.extend(pushed.into_iter().map(|content| (content.digest, content.bytes)));
        self.tags.extend(tags);
        self.uncertain.extend(uncertain);
        self.begun.extend(begun);
    }

    /// What may be lost with the power, since it was never synced: cut, emptied, or other bytes of the same length.
    /// What was pushed, or may have been, is left alone.
    pub fn damage(&mut self, dir: &Path, random: &mut Rng) {
        let ours: BTreeSet<String> = self
            .images
            .iter()
            .flat_map(|image| image.blobs())
            .map(|blob| blob.digest.hex().to_string())
            .collect();
        for shard in std::fs::read_dir(dir.join("cas/sha256")).unwrap() {
            for file in std::fs::read_dir(shard.unwrap().path()).unwrap() {
                let path = file.unwrap().path();
                let name = path.file_name().unwrap().to_str().unwrap();
                if !ours.contains(name) || random.u8(..) > 20 {
                    continue;
                }
                let mut bytes = std::fs::read(&path).unwrap();
                // Emptied in an earlier round, and not asked for since.
                if bytes.is_empty() {
                    continue;
                }
                match random.u8(..4) {
                    0 => bytes.clear(),
                    1 => bytes.truncate(bytes.len() / 2),
                    2 => bytes.fill(0),
                    _ => {
                        let at = random.usize(..bytes.len());
                        bytes[at] ^= 0x40;
                    }
                }
                std::fs::write(&path, bytes).unwrap();
                self.tally.damaged += 1;
            }
        }
    }

    /// Whether a digest can be fetched again.
    pub fn is_cached(&self, digest: &Digest) -> bool {
        self.images.iter().flat_map(Image::blobs).any(|blob| blob.digest == *digest)
    }

    pub fn promised(&self) -> impl Iterator<Item = (&Digest, &Bytes)> {
        self.pushed.iter()
    }
}

fn pull(images: &[Image], random: &mut Rng) -> (String, Bytes) {
    let number = random.usize(..images.len());
    let image = &images[number];
    let blobs: Vec<_> = image.blobs().collect();
    if random.u8(..) < 60 {
        return (format!("/v2/hub/a/n{number}/manifests/latest"), image.manifest.bytes.clone());
    }
    let blob = blobs[random.usize(..blobs.len())];
    (format!("/v2/hub/a/n{number}/blobs/{}", blob.digest), blob.bytes.clone())
}

async fn is_there(server: SocketAddr, digest: &Digest, bytes: &Bytes) {
    let got = Ask::get(format!("{HOME}/blobs/{digest}")).send(server, bytes).await;
    assert!(got.is_whole(), "an acknowledged push: {got:?}");
}

async fn tag_is_there(server: SocketAddr, tag: &str, bytes: &Bytes) {
    let target = format!("{HOME}/manifests/{tag}");
    let got = Ask::get(target).send(server, bytes).await;
    assert!(got.is_whole(), "an acknowledged tag: {got:?}");
}

/// Clients at work, until they are stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: JoinSet<Brought>,
}

impl Load {
    pub fn start(world: &World, server: SocketAddr, random: &mut Rng) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for _ in 0..PULLERS {
            clients.spawn(pull_on(world.images.clone(), server, random.fork(), stop.clone()));
        }
        for _ in 0..PUSHERS {
            clients.spawn(push_on(server, random.fork(), stop.clone()));
        }
        Self { stop, clients }
    }

    /// A panic of a client ends the test.
    pub async fn stop(mut self) -> Brought {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Brought::default();
        while let Some(brought) = self.clients.join_next().await {
            let Brought { tally, pushed, tags, uncertain, begun } = brought.unwrap();
            all.tally.whole += tally.whole;
            all.tally.broken += tally.broken;
            all.tally.refused += tally.refused;
            all.tally.pushes += tally.pushes;
            all.pushed.extend(pushed);
            all.tags.extend(tags);
            all.uncertain.extend(uncertain);
            all.begun.extend(begun);
        }
        all
    }
}

async fn pull_on(
    images: Arc<Vec<Image>>,
    server: SocketAddr,
    mut random: Rng,
    stop: Arc<AtomicBool>,
) -> Brought {
    let mut brought = Brought::default();
    while !stop.load(Ordering::Relaxed) {
        let (target, bytes) = pull(&images, &mut random);
        let got = Ask::get(target).send(server, &bytes).await;
        assert!(!got.is_poison(), "wrong bytes: {got:?}");
        match () {
            () if got.is_whole() => brought.tally.whole += 1,
            () if got.is_broken() => {
                brought.tally.broken += 1;
                tokio::time::sleep(PAUSE).await;
            }
            () => brought.tally.refused += 1,
        }
    }
    brought
}

impl Doubt {
    /// Answers whether the manifest is there; then all that it names is, too.
    async fn is_settled(&self, server: SocketAddr) -> bool {
        let got = Ask::get(format!("{HOME}/manifests/{}", self.tag)).send(server, &self.manifest).await;
        if got.status == 404 {
            return false;
        }
        assert!(got.is_whole(), "a push that was cut off: {got:?}");
        for content in &self.needs {
            is_there(server, &content.digest, &content.bytes).await;
        }
        true
    }
}

impl Begun {
    /// Takes the upload up where the server says. `false`: it is gone, which only a new start may bring about.
    async fn go_on(&self, server: SocketAddr) -> bool {
        let Content { digest, bytes } = &self.content;
        let got = Ask::get(&self.location).send(server, &Bytes::new()).await;
        if got.status == 404 {
            return false;
        }
        assert_eq!(got.status, 204, "the status of an upload: {got:?}");
        let range = got.header("range").expect("how much lies there");
        let last: usize = range.strip_prefix("0-").unwrap().parse().unwrap();
        let there = if last == 0 { 0 } else { last + 1 };
        assert!(there <= self.sent, "{there} bytes lie there, only {} were sent", self.sent);
        let rest = bytes.slice(there..);
        let target = format!("{}?digest={digest}", self.location);
        let put = Ask::new("PUT", target, rest).with("content-type", OCTETS);
        let got = put.send(server, &Bytes::new()).await;
        assert_eq!(got.status, 201, "an upload taken up at byte {there}: {got:?}");
        is_there(server, digest, bytes).await;
        true
    }
}

/// Blobs in one request or in pieces, and a manifest that names them, under a tag of its own.
async fn push_on(server: SocketAddr, mut random: Rng, stop: Arc<AtomicBool>) -> Brought {
    let mut brought = Brought::default();
    while !stop.load(Ordering::Relaxed) {
        let config = Content::random(random.u64(..), 100 + random.usize(..1_000));
        let layer = Content::random(random.u64(..), SIZES[random.usize(..4)]);
        let there = push_blob(server, &config, &mut brought).await
            && if random.bool() {
                push_blob(server, &layer, &mut brought).await
            } else {
                push_in_pieces(server, &layer, &mut brought).await
            };
        if !there {
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        let tag = format!("t{:x}", random.u64(..));
        let manifest = manifest(&config, &layer);
        let put = Ask::new("PUT", format!("{HOME}/manifests/{tag}"), manifest.clone());
        let got = put.with("content-type", Image::MEDIA_TYPE).send(server, &Bytes::new()).await;
        if acknowledged(&got) {
            brought.tally.pushes += 1;
            brought.tags.push((tag, manifest));
        } else {
            brought.uncertain.push(Doubt { tag, manifest, needs: [config, layer] });
        }
    }
    brought
}

fn manifest(config: &Content, layer: &Content) -> Bytes {
    let named = |content: &Content, media_type: &str| json!({ "mediaType": media_type, "digest": content.digest.to_string(), "size": content.bytes.len() });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": Image::MEDIA_TYPE,
        "config": named(config, CONFIG),
        "layers": [named(layer, LAYER)],
    });
    manifest.to_string().into()
}

async fn push_blob(server: SocketAddr, content: &Content, brought: &mut Brought) -> bool {
    let target = format!("{HOME}/blobs/uploads/?digest={}", content.digest);
    let ask = Ask::new("POST", target, content.bytes.clone());
    let got = ask.with("content-type", OCTETS).send(server, &Bytes::new()).await;
    brought.note(&got, content)
}

/// Three pieces. What a kill cuts off is to be taken up by the next start.
async fn push_in_pieces(server: SocketAddr, content: &Content, brought: &mut Brought) -> bool {
    let got =
        Ask::new("POST", format!("{HOME}/blobs/uploads/"), Bytes::new()).send(server, &Bytes::new()).await;
    let Some(location) = got.header("location").filter(|_| got.status == 202) else { return false };
    let mut begun = Begun { location: location.to_owned(), content: content.clone(), sent: 0 };
    let third = content.bytes.len() / 3;
    for piece in [0..third, third..2 * third] {
        begun.sent = piece.end;
        let ask = Ask::new("PATCH", &begun.location, content.bytes.slice(piece)).with("content-type", OCTETS);
        if ask.send(server, &Bytes::new()).await.status != 202 {
            brought.begun.push(begun);
            return false;
        }
    }
    let target = format!("{}?digest={}", begun.location, content.digest);
    let put = Ask::new("PUT", target, content.bytes.slice(2 * third..)).with("content-type", OCTETS);
    let got = put.send(server, &Bytes::new()).await;
    begun.sent = content.bytes.len();
    if !acknowledged(&got) {
        brought.begun.push(begun);
    }
    brought.note(&got, content)
}

impl Brought {
    fn note(&mut self, got: &Got, content: &Content) -> bool {
        let acknowledged = acknowledged(got);
        if acknowledged {
            self.tally.pushes += 1;
            self.pushed.push(content.clone());
        }
        acknowledged
    }
}

/// Only a head that was read to its end is a promise.
fn acknowledged(got: &Got) -> bool {
    assert!(matches!(got.status, 0 | 201 | 503), "a push got {got:?}");
    got.status == 201
}
