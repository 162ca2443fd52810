//! Scrubs: what they find, what becomes of it, and who is told.

use std::time::Duration;

use binaryrepo::engine::{ErrorKind, Remedy, RemoteSpec, RepositorySpec, ScrubReport};
use binaryrepo::meta::{Batch, DocumentRow, Durability, Meta as _, MetaExt as _};
use bytes::Bytes;

use super::model::Thing;
use super::support::image::Content;
use super::support::patience::found;
use super::support::upstream::Registry;
use super::yard::{Yard, roomy};

const APP: &str = "docker-local/team/app";
/// More than any disk reads.
const UNBOUND: u64 = 1 << 50;

async fn yard(registry: &Registry) -> Yard {
    let yard = Yard::new(roomy()).await;
    let spec = RepositorySpec::Remote(Box::new(RemoteSpec::new(registry.url())));
    yard.engine.repositories().create("hub".parse().unwrap(), spec).await.unwrap();
    yard
}

async fn ended(yard: &Yard) -> ScrubReport {
    let ended = async || Some(yard.engine.scrub_report()).filter(|report| !report.running);
    found("the scrub ends", ended).await
}

pub async fn scrubbed(yard: &Yard) -> ScrubReport {
    yard.engine.start_scrub(UNBOUND).unwrap();
    let report = ended(yard).await;
    assert!(report.finished, "{report:?}");
    report
}

async fn cached(yard: &Yard, registry: &Registry, seed: u64, size: usize) -> Content {
    let blob = registry.add_blob("lib/a", seed, size);
    assert_eq!(yard.blob("hub/lib/a", &blob.digest).await.unwrap(), blob.bytes);
    let rests = async || (yard.engine.status().await.counts.flights == 0).then_some(());
    found("the fetch ends", rests).await;
    blob
}

/// One bit, as a disk that forgets does it.
fn damage(yard: &Yard, content: &Content) {
    let mut bytes = content.bytes.to_vec();
    bytes[content.bytes.len() / 2] ^= 0x10;
    std::fs::write(yard.file_of(&content.digest), bytes).unwrap();
}

fn set_aside(yard: &Yard) -> usize {
    std::fs::read_dir(yard.dir.path().join("quarantine")).unwrap().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_whole_is_left_alone_and_counted() {
    let registry = Registry::open().await;
    let yard = yard(&registry).await;
    cached(&yard, &registry, 1, 100_000).await;
    let config = Content::random(2, 500);
    let image = Thing::manifest(&config, &[], None);
    yard.push_blob(APP, &config).await.unwrap();
    yard.push_manifest(APP, Some("1"), &image.content).await.unwrap();
    let report = scrubbed(&yard).await;
    let bytes = 100_500 + image.content.size();
    assert_eq!((report.blobs, report.manifests, report.bytes, report.total_bytes), (2, 1, bytes, bytes));
    assert!(report.damaged.is_empty() && set_aside(&yard) == 0);
    assert_eq!(yard.metric("binaryrepo_scrubbed_bytes_total"), bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_cached_blob_is_set_aside_and_fetched_again() {
    let registry = Registry::open().await;
    let yard = yard(&registry).await;
    let blob = cached(&yard, &registry, 1, 200_000).await;
    damage(&yard, &blob);
    let report = scrubbed(&yard).await;
    let [found] = &report.damaged[..] else { panic!("{report:?}") };
    assert_eq!((found.digest, found.remedy, report.lost), (blob.digest, Remedy::Fetched, 0));
    assert_eq!(found.images, ["hub/lib/a"]);
    assert_eq!(set_aside(&yard), 1);
    assert_eq!(yard.metric("binaryrepo_damaged_blobs_total"), 1);
    assert_eq!(yard.blob("hub/lib/a", &blob.digest).await.unwrap(), blob.bytes);
    assert_eq!(registry.asked("/blobs/").len(), 2);
    assert!(scrubbed(&yard).await.damaged.is_empty());
    assert_eq!(std::fs::read(yard.file_of(&blob.digest)).unwrap(), blob.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_pushed_blob_is_never_served_and_its_images_are_named() {
    let registry = Registry::open().await;
    let yard = yard(&registry).await;
    let (damaged, cut) = (Content::random(1, 200_000), Content::random(2, 300_000));
    for (blob, place) in [(&damaged, APP), (&damaged, "other/copy"), (&cut, APP)] {
        yard.push_blob(place, blob).await.unwrap();
    }
    damage(&yard, &damaged);
    std::fs::write(yard.file_of(&cut.digest), &cut.bytes[..1_000]).unwrap();
    let report = scrubbed(&yard).await;
    assert_eq!((report.damaged.len(), report.lost, report.damaged_bytes), (2, 2, 500_000));
    let of = |blob: &Content| report.damaged.iter().find(|one| one.digest == blob.digest).unwrap();
    assert_eq!(of(&damaged).images, [APP, "other/copy"]);
    assert_eq!(of(&cut).images, [APP]);
    assert!(report.damaged.iter().all(|one| one.remedy == Remedy::PushAgain));
    for blob in [&damaged, &cut] {
        let error = yard.blob(APP, &blob.digest).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Overloaded, "{error}");
        // The answer to that is a push.
        yard.push_blob(APP, blob).await.unwrap();
        assert_eq!(yard.blob(APP, &blob.digest).await.unwrap(), blob.bytes);
    }
    assert_eq!(yard.blob("other/copy", &damaged.digest).await.unwrap(), damaged.bytes);
    assert!(scrubbed(&yard).await.damaged.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_pushed_blob_that_a_remote_has_too_is_fetched_from_there() {
    let registry = Registry::open().await;
    let yard = yard(&registry).await;
    let blob = cached(&yard, &registry, 1, 200_000).await;
    yard.push_blob(APP, &blob).await.unwrap();
    damage(&yard, &blob);
    let report = scrubbed(&yard).await;
    let [found] = &report.damaged[..] else { panic!("{report:?}") };
    assert_eq!((found.remedy, report.lost), (Remedy::Fetched, 0));
    assert_eq!(yard.blob(APP, &blob.digest).await.unwrap(), blob.bytes);
    assert!(scrubbed(&yard).await.damaged.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_fetched_now_is_left_to_the_next_pull() {
    let registry = Registry::open().await;
    let yard = yard(&registry).await;
    let blob = cached(&yard, &registry, 1, 200_000).await;
    damage(&yard, &blob);
    drop(registry);
    let report = scrubbed(&yard).await;
    assert_eq!((report.damaged[0].remedy, report.lost), (Remedy::NextPull, 0));
    assert!(!yard.file_of(&blob.digest).exists());
}

/// Pushed as tag `1`; then other bytes lie there.
pub async fn damaged_manifest(yard: &Yard, bytes: &'static [u8]) -> Thing {
    let config = Content::random(2, 10);
    let image = Thing::manifest(&config, &[], None);
    yard.push_blob(APP, &config).await.unwrap();
    yard.push_manifest(APP, Some("1"), &image.content).await.unwrap();
    let row = yard.meta.get::<DocumentRow>(&image.digest()).unwrap().unwrap();
    let mut batch = Batch::new(Durability::Relaxed);
    batch.put(&image.digest(), &DocumentRow { bytes: Bytes::from_static(bytes), ..row });
    yard.meta.apply(batch).await.unwrap();
    image
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_manifest_is_shown_to_nobody() {
    let registry = Registry::open().await;
    let yard = yard(&registry).await;
    let image = damaged_manifest(&yard, b"{}").await;
    let report = scrubbed(&yard).await;
    let [found] = &report.damaged[..] else { panic!("{report:?}") };
    assert!(found.manifest && found.remedy == Remedy::PushAgain && found.images == [APP]);
    assert!(yard.manifest(APP, "1").await.is_err());
    yard.push_manifest(APP, Some("1"), &image.content).await.unwrap();
    assert_eq!(yard.manifest(APP, "1").await.unwrap(), image.content.bytes);
}

/// Between the look at a manifest and what becomes of it the pace is kept. Who pushed it again meanwhile was told that
/// it is here, and it was removed all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_pushed_again_since_it_was_looked_at_stays() {
    let registry = Registry::open().await;
    let yard = yard(&registry).await;
    let image = damaged_manifest(&yard, &[b' '; 600]).await;
    // Two seconds for the manifest.
    yard.engine.start_scrub(300).unwrap();
    found("it has come to the manifests", async || (yard.engine.scrub_report().blobs == 1).then_some(()))
        .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    yard.push_manifest(APP, Some("1"), &image.content).await.unwrap();
    assert_eq!(yard.engine.scrub_report().manifests, 0, "the push was too late");
    let report = ended(&yard).await;
    assert!(report.finished && report.manifests == 1 && report.damaged.is_empty(), "{report:?}");
    assert_eq!(yard.manifest(APP, "1").await.unwrap(), image.content.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_its_pace_and_stops_when_told() {
    let registry = Registry::open().await;
    let yard = yard(&registry).await;
    let blobs = [1, 2].map(|seed| Content::random(seed, 1 << 20));
    for blob in &blobs {
        yard.push_blob(APP, blob).await.unwrap();
    }
    let started = tokio::time::Instant::now();
    yard.engine.start_scrub(2 << 20).unwrap();
    let again = yard.engine.start_scrub(UNBOUND).unwrap_err();
    assert_eq!(again.kind, ErrorKind::Conflict);
    assert_eq!(yard.blob(APP, &blobs[0].digest).await.unwrap(), blobs[0].bytes);
    assert!(ended(&yard).await.finished);
    // 2 MiB at 2 MiB a second; clocks may differ by a little.
    assert!(started.elapsed() > Duration::from_millis(900), "{:?}", started.elapsed());
    yard.engine.start_scrub(1).unwrap();
    yard.engine.stop_scrub();
    assert!(!ended(&yard).await.finished);
}
