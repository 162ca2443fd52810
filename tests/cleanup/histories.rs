//! Random histories of push, mount, delete, cleanup, eviction and restart, held against the model: after each cleanup
//! every image shows exactly what it should, every reference leads somewhere, and nothing is left over.
//!
//! `HISTORIES=1000000` sets how many (10,000), `HISTORY_SEED=7` replays one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use binaryrepo::engine::{EngineError, ErrorKind, MaxSize, RemoteSpec, RepositorySpec, Settings};
use binaryrepo::names::Digest;
use fastrand::Rng;
use tokio::task::JoinSet;

use super::model::{Image, Thing};
use super::support::image::Content;
use super::support::upstream::Registry;
use super::yard::{Yard, without_grace};

const WORKERS: u64 = 4;
/// After so many histories they begin with a new data directory.
const RENEW: u64 = 500;
const TAGS: [&str; 3] = ["1", "2", "latest"];
/// Takes manifests that name what their image does not have; the other repository does not.
const SPARSE: &str = "other";
/// Room for a few cached blobs only.
const CACHE: u64 = 4_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn histories_leave_no_reference_without_what_it_names() {
    let replayed = number("HISTORY_SEED");
    let histories = number("HISTORIES").unwrap_or(10_000);
    let base = replayed.unwrap_or_else(|| fastrand::u64(..1 << 40));
    let histories = if replayed.is_some() { 1 } else { histories };
    println!("HISTORY_SEED={base}, and the {histories} that follow");
    let started = Instant::now();
    let tally = Arc::new(Tally::default());
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        let tally = tally.clone();
        workers.spawn(async move {
            let registry = Registry::open().await;
            // A replay must know from the seed alone whether untagged manifests go.
            let untagged = base.wrapping_add(worker).is_multiple_of(2);
            let mut yard = new_yard(&registry, untagged).await;
            for number in (worker..histories).step_by(WORKERS as usize) {
                if number % RENEW < WORKERS {
                    yard = new_yard(&registry, untagged).await;
                }
                let seed = base.wrapping_add(number);
                let say = Say(seed);
                yard = World::new(yard, &registry, seed, untagged, tally.clone()).live().await;
                std::mem::forget(say);
            }
        });
    }
    while let Some(ended) = workers.join_next().await {
        ended.unwrap();
    }
    println!("{histories} histories in {:?}; {tally:?}", started.elapsed());
    let [collected, sparse] = [&tally.collected, &tally.sparse].map(|tally| tally.load(Ordering::Relaxed));
    assert!(replayed.is_some() || (collected > 0 && sparse > 0));
}

fn is_sparse(place: &str) -> bool {
    place.split_once('/').is_some_and(|(repository, _)| repository == SPARSE)
}

/// Says which history it was, if it ends badly.
struct Say(u64);

impl Drop for Say {
    fn drop(&mut self) {
        println!("this one alone: HISTORY_SEED={}", self.0);
    }
}

#[derive(Debug, Default)]
struct Tally {
    steps: AtomicU64,
    pushed: AtomicU64,
    /// Of these, the ones whose image lacked something.
    sparse: AtomicU64,
    collected: AtomicU64,
    /// Steps beside a cleanup that were refused.
    refused: AtomicU64,
    restarts: AtomicU64,
    checked: AtomicU64,
}

async fn new_yard(registry: &Registry, untagged: bool) -> Yard {
    let settings =
        Settings { max_size: MaxSize::Bytes(CACHE), collect_untagged: untagged, ..without_grace() };
    let yard = Yard::new(settings).await;
    let spec = RepositorySpec::Remote(Box::new(RemoteSpec::new(registry.url())));
    yard.engine.repositories().create("hub".parse().unwrap(), spec).await.unwrap();
    yard.make_sparse(SPARSE).await;
    yard
}

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {value:?}")))
}

/// One history: its images, its things, and the model of them.
struct World<'a> {
    yard: Option<Yard>,
    registry: &'a Registry,
    random: Rng,
    seed: u64,
    untagged: bool,
    things: BTreeMap<Digest, Thing>,
    blobs: Vec<Digest>,
    manifests: Vec<Digest>,
    images: BTreeMap<String, Image>,
    tally: Arc<Tally>,
}

/// What is done to the images.
#[derive(Clone, Debug)]
enum Step {
    Blob(String, Digest),
    Manifest(String, Digest, Option<&'static str>),
    Mount(String, Digest, String),
    DeleteTag(String, &'static str),
    DeleteManifest(String, Digest),
    DeleteBlob(String, Digest),
}

impl<'a> World<'a> {
    fn new(yard: Yard, registry: &'a Registry, seed: u64, untagged: bool, tally: Arc<Tally>) -> Self {
        let mut random = Rng::with_seed(seed);
        let places = ["docker-local/a", "docker-local/b", "other/a"];
        let images = places.map(|place| (format!("{place}{seed:x}"), Image::default()));
        let mut all = Vec::new();
        for number in 0..6 {
            let size = 1 + random.usize(..2_000);
            all.push(Thing::blob(Content::random(seed.wrapping_mul(64).wrapping_add(number), size)));
        }
        let pick = |random: &mut Rng, all: &[Thing], range: std::ops::Range<usize>| {
            all[random.usize(range)].content.clone()
        };
        for number in 0..4 {
            let config = pick(&mut random, &all, 0..6);
            let layers = [pick(&mut random, &all, 0..6), pick(&mut random, &all, 0..6)];
            let subject = (number > 1 && random.bool()).then(|| pick(&mut random, &all, 6..6 + number));
            let layers: Vec<&Content> = layers.iter().collect();
            all.push(Thing::manifest(&config, &layers, subject.as_ref()));
        }
        for _ in 0..2 {
            let [first, second] = [(), ()].map(|()| pick(&mut random, &all, 6..all.len()));
            all.push(Thing::index(&[&first, &second]));
        }
        let of = |blobs: bool| {
            let chosen = all.iter().filter(move |thing| thing.names.is_none() == blobs);
            chosen.map(Thing::digest).collect::<Vec<_>>()
        };
        let (blobs, manifests) = (of(true), of(false));
        let things = all.into_iter().map(|thing| (thing.digest(), thing)).collect();
        let images = BTreeMap::from(images);
        Self { yard: Some(yard), registry, random, seed, untagged, things, blobs, manifests, images, tally }
    }

    fn yard(&self) -> &Yard {
        self.yard.as_ref().expect("there is one between two steps")
    }

    async fn live(mut self) -> Yard {
        for _ in 0..self.random.usize(4..20) {
            self.tally.steps.fetch_add(1, Ordering::Relaxed);
            match self.random.u8(..100) {
                0..60 => {
                    let step = self.step();
                    self.prepare(&step).await;
                    let done = self.perform(&step).await;
                    self.settle(&step, done.unwrap_or_else(|error| panic!("{step:?}: {error:?}")));
                }
                60..75 => self.collect().await,
                75..88 => self.beside_cleanup().await,
                88..98 => self.pull().await,
                _ => {
                    let yard = self.yard.take().unwrap();
                    self.yard = Some(yard.restart().await);
                    self.tally.restarts.fetch_add(1, Ordering::Relaxed);
                    self.check().await;
                }
            }
        }
        self.collect().await;
        self.end().await
    }

    fn step(&mut self) -> Step {
        let places: Vec<String> = self.images.keys().cloned().collect();
        let place = self.random.choice(&places).unwrap().clone();
        let blob = *self.random.choice(&self.blobs).unwrap();
        let manifest = *self.random.choice(&self.manifests).unwrap();
        let tag = *self.random.choice(TAGS).as_ref().unwrap();
        match self.random.u8(..20) {
            0..7 => Step::Blob(place, blob),
            7..13 => Step::Manifest(place, manifest, self.random.bool().then_some(tag)),
            13..15 => Step::Mount(place, blob, self.random.choice(&places).unwrap().clone()),
            15..17 => Step::DeleteTag(place, tag),
            17..19 => Step::DeleteManifest(place, manifest),
            _ => Step::DeleteBlob(place, blob),
        }
    }

    /// Most clients push what a manifest names before they push the manifest, and half of those who need not.
    async fn prepare(&mut self, step: &Step) {
        let Step::Manifest(place, manifest, _) = step else { return };
        if self.random.u8(..10) < if is_sparse(place) { 5 } else { 1 } {
            return;
        }
        let mut before = Vec::new();
        let mut missing = vec![*manifest];
        while let Some(next) = missing.pop() {
            for name in self.things[&next].names.iter().flatten() {
                if !self.images[place].links.contains(name) {
                    before.push(match self.things[name].names {
                        None => Step::Blob(place.clone(), *name),
                        Some(_) => Step::Manifest(place.clone(), *name, None),
                    });
                    missing.push(*name);
                }
            }
        }
        // What is named before what names it.
        for step in before.iter().rev() {
            let done = self.perform(step).await.unwrap_or_else(|error| panic!("{step:?}: {error:?}"));
            self.settle(step, done);
        }
    }

    /// Answers whether it took place.
    async fn perform(&self, step: &Step) -> Result<bool, EngineError> {
        let yard = self.yard();
        let content = |digest: &Digest| &self.things[digest].content;
        let done = match step {
            Step::Blob(place, blob) => yard.push_blob(place, content(blob)).await.map(drop),
            Step::Manifest(place, manifest, tag) => {
                yard.push_manifest(place, *tag, content(manifest)).await.map(drop)
            }
            Step::Mount(place, blob, from) => return yard.mount(place, blob, from).await,
            Step::DeleteTag(place, tag) => yard.delete(place, tag).await,
            Step::DeleteManifest(place, manifest) => yard.delete(place, &manifest.to_string()).await,
            Step::DeleteBlob(place, blob) => yard.engine.delete_blob(&yard.scope(place), blob).await,
        };
        match done.map_err(|error| (error.kind.clone(), error)) {
            Ok(()) => Ok(true),
            Err((
                ErrorKind::ReferencesUnknown(_) | ErrorKind::ManifestUnknown | ErrorKind::BlobUnknown,
                _,
            )) => Ok(false),
            Err((_, error)) => Err(error),
        }
    }

    /// Whether the model says that it takes place.
    fn expected(&self, step: &Step) -> bool {
        match step {
            Step::Blob(..) => true,
            Step::Manifest(place, manifest, _) => {
                let names = self.things[manifest].names.as_ref().unwrap();
                is_sparse(place) || names.iter().all(|name| self.images[place].links.contains(name))
            }
            Step::Mount(place, blob, from) => {
                [place, from].iter().any(|one| self.images[*one].links.contains(blob))
            }
            Step::DeleteTag(place, tag) => self.images[place].tags.contains_key(*tag),
            Step::DeleteManifest(place, digest) | Step::DeleteBlob(place, digest) => {
                self.images[place].links.contains(digest)
            }
        }
    }

    fn settle(&mut self, step: &Step, done: bool) {
        assert_eq!(done, self.expected(step), "{step:?} on {:#?}", self.images);
        if done {
            self.note(step);
        }
    }

    fn note(&mut self, step: &Step) {
        let (Step::Blob(place, _)
        | Step::Manifest(place, ..)
        | Step::Mount(place, ..)
        | Step::DeleteTag(place, _)
        | Step::DeleteManifest(place, _)
        | Step::DeleteBlob(place, _)) = step;
        let image = self.images.get_mut(place).unwrap();
        match step {
            Step::Blob(_, digest) | Step::Mount(_, digest, _) => _ = image.links.insert(*digest),
            Step::Manifest(_, manifest, tag) => {
                image.links.insert(*manifest);
                if let Some(tag) = tag {
                    image.tags.insert((*tag).to_owned(), *manifest);
                }
                self.tally.pushed.fetch_add(1, Ordering::Relaxed);
                let names = self.things[manifest].names.as_ref().unwrap();
                let lacks = names.iter().any(|name| !image.links.contains(name));
                self.tally.sparse.fetch_add(u64::from(lacks), Ordering::Relaxed);
            }
            Step::DeleteTag(_, tag) => _ = image.tags.remove(*tag),
            Step::DeleteManifest(_, digest) | Step::DeleteBlob(_, digest) => image.remove(digest),
        }
    }

    async fn collect(&mut self) {
        let removed = self.yard().engine.collect(false).await.unwrap();
        self.tally.collected.fetch_add(removed.links, Ordering::Relaxed);
        self.clean_model();
        self.check().await;
    }

    /// Something at the same moment as a cleanup, which goes layer by layer: before it, after it, or between two layers.
    async fn beside_cleanup(&mut self) {
        let step = self.step();
        self.prepare(&step).await;
        let before = self.images.clone();
        let (cleaned, done) = tokio::join!(self.yard().engine.collect(false), self.perform(&step));
        cleaned.unwrap();
        let done = done.unwrap_or_else(|error| panic!("{step:?}: {error:?}"));
        self.yard().engine.collect(false).await.unwrap();
        let places = before.keys();
        let found: BTreeMap<_, _> = places.map(|place| (place.clone(), self.yard().links(place))).collect();
        let mut allowed = Vec::new();
        let mut left = before.clone();
        loop {
            self.images = left.clone();
            // A mount whose first source goes is refused though there may be another: its client uploads.
            let may_be_refused = matches!(step, Step::Mount(..)) && !done;
            if self.expected(&step) == done || may_be_refused {
                if done {
                    self.note(&step);
                }
                self.clean_model();
                allowed.push(self.images.clone());
            }
            let layer = |image: &mut Image| image.collect_layer(&self.things, self.untagged);
            if left.values_mut().map(layer).filter(|went| *went).count() == 0 {
                break;
            }
        }
        self.tally.refused.fetch_add(u64::from(!done), Ordering::Relaxed);
        let shows = |images: &BTreeMap<String, Image>| {
            images.iter().all(|(place, image)| image.links == found[place])
        };
        self.images = allowed.iter().find(|images| shows(images)).cloned().unwrap_or_else(|| {
            panic!("{step:?} ({done}) on {before:#?} may become {allowed:#?}, but is {found:#?}")
        });
        self.check().await;
    }

    fn clean_model(&mut self) {
        for image in self.images.values_mut() {
            image.collect(&self.things, self.untagged);
        }
    }

    /// The same bytes through a remote: cached, evicted, and nobody's but the remote's.
    async fn pull(&mut self) {
        let number = self.random.usize(..self.blobs.len());
        let blob = self.things[&self.blobs[number]].content.clone();
        let image = format!("lib/{:x}", self.seed);
        self.registry.add_blob(
            &image,
            self.seed.wrapping_mul(64).wrapping_add(number as u64),
            blob.bytes.len(),
        );
        let got = self.yard().blob(&format!("hub/{image}"), &blob.digest).await.unwrap();
        assert_eq!(got, blob.bytes);
    }

    /// Every image shows what it should, whole, and nothing else.
    async fn check(&self) {
        self.tally.checked.fetch_add(1, Ordering::Relaxed);
        let yard = self.yard();
        for (place, image) in &self.images {
            assert_eq!(yard.links(place), image.links, "the links of {place}");
            for digest in &image.links {
                let thing = &self.things[digest];
                let got = match thing.names {
                    None => yard.blob(place, digest).await.map(bytes::Bytes::from),
                    Some(_) => yard.manifest(place, &digest.to_string()).await,
                };
                let got = got.unwrap_or_else(|error| panic!("{place} lacks {thing:?}: {error:?}"));
                assert_eq!(got, thing.content.bytes, "{place} shows {thing:?}");
            }
            for tag in TAGS {
                let got = yard.manifest(place, tag).await.ok();
                let tagged = image.tags.get(tag).map(|digest| self.things[digest].content.bytes.clone());
                assert_eq!(got, tagged, "{place}:{tag}");
            }
        }
    }

    /// Everything is deleted; then nothing may be left.
    async fn end(mut self) -> Yard {
        for (place, image) in self.images.clone() {
            for digest in image.links.iter().filter(|digest| self.things[*digest].names.is_some()) {
                self.yard().delete(&place, &digest.to_string()).await.unwrap();
                self.images.get_mut(&place).unwrap().remove(digest);
            }
        }
        self.collect().await;
        assert!(self.images.values().all(|image| *image == Image::default()));
        let counts = self.yard().engine.status().await.counts;
        assert_eq!(counts.pinned_bytes, 0, "{counts:?}");
        self.yard.take().unwrap()
    }
}
