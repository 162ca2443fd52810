//! What survives a stop, orderly or not.

use std::io::Write;
use std::sync::{Arc, Mutex};

use binaryrepo::engine::{Engine, LocalSpec, MaxSize, RepositorySpec, Settings, Verdict, Want};
use binaryrepo::meta::{
    Batch, ContentRow, CopyRow, DraftRow, Durability, HolderRow, Meta as _, MetaExt as _, Options as Meta,
    RedbMeta, RepositoryRow,
};
use binaryrepo::names::{Digest, RepositoryId};
use binaryrepo::telemetry::Metrics;

use super::house::{House, drain, roomy};
use super::rig::Disk;
use super::support::fault::Fault;
use super::support::image::Image;
use super::support::patience::found;
use super::support::upstream::Registry;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cached_survives_a_restart() {
    let registry = Registry::open().await;
    let image = Image::new(31, &[100, 200_000]);
    registry.add_image("a/b", "latest", &image);
    let house = House::new(&registry).await;
    house.manifest("a/b", "latest", Want::Body).await.unwrap();
    for blob in image.blobs() {
        house.pull("a/b", &blob.digest).await.unwrap().whole();
    }
    let house = house.restart().await;
    assert_eq!(house.manifest("a/b", "latest", Want::Body).await.unwrap().verdict, Verdict::Hit);
    for blob in image.blobs() {
        let answer = house.blob("a/b", &blob.digest, "").await.unwrap();
        assert_eq!(answer.verdict, Verdict::Hit);
        assert_eq!(drain(answer.reader.unwrap()).await.whole(), blob.bytes);
    }
    assert_eq!(registry.asked("/blobs/").len(), 3);
}

/// Killed just after the metadata file was made, a new directory used to be taken for one that somebody had emptied.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_repositories_come_also_after_a_first_start_that_was_killed() {
    let dir = tempfile::tempdir().unwrap();
    drop(RedbMeta::open(&dir.path().join("meta.redb"), Meta::default()).unwrap());
    let start = async || {
        let first =
            ["one", "two"].map(|name| (name.parse().unwrap(), RepositorySpec::Local(LocalSpec::default())));
        Engine::open(dir.path(), roomy(), Metrics::new(), first.to_vec()).await.unwrap()
    };
    let names = |engine: &Engine| -> Vec<_> {
        engine.repositories().list().iter().map(|repository| repository.name.to_string()).collect()
    };
    let engine = start().await;
    assert_eq!(names(&engine), ["one", "two"]);
    // What an administrator removes stays removed.
    for name in ["one", "two"] {
        engine.delete_repository(&name.parse().unwrap(), false).await.unwrap();
    }
    engine.shutdown().await;
    drop(engine);
    assert_eq!(names(&start().await), [""; 0]);
}

/// Those with the highest numbers were not there any more after a restart.
#[tokio::test(flavor = "multi_thread")]
async fn all_repositories_are_there_after_a_restart_however_many() {
    const MANY: u64 = 10_010;
    let house = House::open(tempfile::tempdir().unwrap(), roomy(), Disk::default()).await;
    house
        .engine
        .repositories()
        .create("r0".parse().unwrap(), RepositorySpec::Local(LocalSpec::default()))
        .await
        .unwrap();
    let made = house.ledger.scan::<RepositoryRow>(&(), None, 1).unwrap().remove(0);
    let mut batch = Batch::new(Durability::Durable);
    for number in 1..MANY {
        let row = RepositoryRow { name: format!("r{number}").parse().unwrap(), ..made.1.clone() };
        batch.put(&RepositoryId(made.0.0 + number), &row);
    }
    house.ledger.apply(batch).await.unwrap();
    let house = house.restart().await;
    assert_eq!(house.engine.repositories().list().len() as u64, MANY);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_goes_on_after_a_restart_where_it_was() {
    let registry = Registry::open().await;
    let image = Image::new(32, &[3 << 20]);
    registry.add_image("a/b", "latest", &image);
    registry.script("/blobs/", [Fault::StallAt(1 << 20)]);
    let house = House::new(&registry).await;
    house.manifest("a/b", "latest", Want::Body).await.unwrap();
    let layer = &image.layers[0];
    let client = house.blob("a/b", &layer.digest, "").await.unwrap();
    house.eventually("some of it is written", |house| house.draft_bytes() >= 1 << 19).await;
    drop(client);
    let house = house.restart().await;
    assert_eq!(house.drafts(), 1);
    let answer = house.blob("a/b", &layer.digest, "").await.unwrap();
    assert_eq!(drain(answer.reader.unwrap()).await.whole(), layer.bytes);
    let seen = registry.asked(&layer.digest.to_string());
    assert_eq!(seen.len(), 2);
    assert!(seen[1].range().is_some_and(|range| range != "bytes=0-"), "{:?}", seen[1].range());
    house.eventually("no draft is left", |house| house.drafts() == 0).await;
}

/// It used to lie there for a day: nobody fetches what is here.
#[tokio::test(flavor = "multi_thread")]
async fn a_draft_of_what_lies_here_whole_is_removed_at_the_start() {
    let registry = Registry::open().await;
    let (house, layer) = House::cold(&registry, 3 << 20).await;
    registry.script("/blobs/", [Fault::StallAt(1 << 20)]);
    let client = house.blob("a/b", &layer.digest, "").await.unwrap();
    house.eventually("some of it is written", |house| house.draft_bytes() >= 1 << 19).await;
    drop(client);
    let file = house.file_of(&layer.digest);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, &layer.bytes).unwrap();
    let house = house.restart().await;
    house.eventually("the draft has gone", |house| house.drafts() == 0).await;
    let noted = async || house.ledger.scan::<DraftRow>(&(), None, 1).unwrap().is_empty().then_some(());
    found("its row has gone", noted).await;
    assert_eq!(house.pulled("a/b", &layer).await, Verdict::Hit);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_least_recently_used_go_first_and_readers_finish() {
    let registry = Registry::open().await;
    let settings = Settings { max_size: MaxSize::Bytes(1_000_000), min_free: Some(0), ..Settings::default() };
    let images: Vec<Image> = (41..45).map(|seed| Image::new(seed, &[300_000])).collect();
    for (number, image) in images.iter().enumerate() {
        registry.add_image(&format!("a/n{number}"), "latest", image);
    }
    let house = House::build(&registry, settings, |_| {}).await;
    for (number, image) in images.iter().enumerate().take(3) {
        let name = format!("a/n{number}");
        house.manifest(&name, "latest", Want::Body).await.unwrap();
        house.pull(&name, &image.layers[0].digest).await.unwrap().whole();
    }
    // Used again in this order: the second is the oldest now. A fetch is over only when it is a hit.
    for number in [1, 2, 0] {
        let (name, digest) = (format!("a/n{number}"), images[number].layers[0].digest);
        let again = async || house.blob(&name, &digest, "").await.ok();
        let hit = async || again().await.filter(|answer| answer.verdict == Verdict::Hit);
        drop(found("it is a hit", hit).await);
    }
    let reading = house.blob("a/n1", &images[1].layers[0].digest, "").await.unwrap();
    house.manifest("a/n3", "latest", Want::Body).await.unwrap();
    house.pull("a/n3", &images[3].layers[0].digest).await.unwrap().whole();
    let cached = |house: &House| house.files().iter().filter(|(_, size)| *size == 300_000).count();
    house.eventually("one has gone", |house| cached(house) <= 3).await;
    assert_eq!(drain(reading.reader.unwrap()).await.whole(), images[1].layers[0].bytes);
    let first = house.blob("a/n0", &images[0].layers[0].digest, "").await.unwrap();
    assert_eq!(first.verdict, Verdict::Hit, "what was used last stays");
}

/// A pushed blob's file disappears while the server is down. The start must say so loudly and keep the promise; a
/// remote that has the same digest brings it back, and from then on eviction must leave it alone, though nobody told
/// the coordinator that it was pushed: it chose the blob, was refused, and chose it again, for ever.
#[tokio::test]
async fn a_lost_pushed_blob_is_announced_kept_in_mind_and_never_evicted_again() {
    let registry = Registry::open().await;
    let settings = Settings { max_size: MaxSize::Bytes(500_000), min_free: Some(0), ..Settings::default() };
    let images = [51, 52].map(|seed| Image::new(seed, &[300_000]));
    let house = House::build(&registry, settings, |_| {}).await;
    for (image, name) in images.iter().zip(["a/pushed", "a/cached"]) {
        registry.add_image(name, "latest", image);
        house.manifest(name, "latest", Want::Body).await.unwrap();
    }
    let [pushed, cached] = images.each_ref().map(|image| image.layers[0].digest);
    house.pull("a/pushed", &pushed).await.unwrap().whole();
    let House { engine, dir, settings, ledger, .. } = house;
    engine.shutdown().await;
    drop((engine, ledger));
    let rows = |path: &std::path::Path| RedbMeta::open(&path.join("meta.redb"), Meta::default()).unwrap().0;
    let meta = rows(dir.path());
    let mut batch = Batch::new(Durability::Durable);
    batch.put(&pushed, &ContentRow { size: 300_000, pushed: true });
    let held = (pushed, RepositoryId(99), "team/app".parse().unwrap());
    batch.put(&held, &HolderRow { stamp: 1 });
    meta.apply(batch).await.unwrap();
    meta.close().await.unwrap();
    drop(meta);
    std::fs::remove_file(file(&dir, &pushed)).unwrap();

    let log = Log::default();
    let listening = log.listen();
    let house = House::open(dir, settings, Disk::default()).await;
    house.eventually("the start says what is missing", |_| log.says(&pushed)).await;
    drop(listening);
    assert!(log.text().contains("ERROR"), "{}", log.text());
    for (digest, name) in [(&pushed, "a/pushed"), (&cached, "a/cached")] {
        let answer = house.blob(name, digest, "").await.unwrap();
        assert_eq!(answer.verdict, Verdict::Miss);
        drain(answer.reader.unwrap()).await.whole();
    }
    // The second was one too many, and the first is the older one. What is pinned does not count.
    let pinned = async || Some(house.engine.status().await.counts.pinned_bytes).filter(|bytes| *bytes > 0);
    assert_eq!(found("the pushed one is pinned", pinned).await, 300_000);
    assert!(file(&house.dir, &pushed).exists() && file(&house.dir, &cached).exists());
    house.engine.shutdown().await;
    let House { dir, engine, ledger, .. } = house;
    drop((engine, ledger));
    let meta = rows(dir.path());
    assert!(meta.get::<ContentRow>(&pushed).unwrap().unwrap().pushed);
    assert!(meta.get::<CopyRow>(&pushed).unwrap().is_some());
}

fn file(dir: &tempfile::TempDir, digest: &Digest) -> std::path::PathBuf {
    let (algorithm, hex) =
        digest.to_string().split_once(':').map(|(a, h)| (a.to_owned(), h.to_owned())).unwrap();
    dir.path().join("cas").join(algorithm).join(&hex[..2]).join(hex)
}

/// What this thread logs while it listens.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub fn listen(&self) -> tracing::subscriber::DefaultGuard {
        let lines = self.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || lines.clone()).finish();
        tracing::subscriber::set_default(subscriber)
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    fn says(&self, digest: &Digest) -> bool {
        let text = self.text();
        text.lines().any(|line| line.contains("must be pushed again") && line.contains(&digest.to_string()))
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
