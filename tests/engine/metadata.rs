//! A metadata store that takes no writes, for a while or for good: pulls go on.

use binaryrepo::engine::{Settings, Verdict, Want};
use binaryrepo::meta::{Batch, Durability, Meta as _, Row, Table};
use binaryrepo::names::{Algorithm, Digest};

use super::house::{House, roomy};
use super::rig::{Disk, Mood};
use super::support::image::Image;
use super::support::upstream::Registry;

/// A row that no version wrote.
#[derive(serde::Serialize, serde::Deserialize)]
struct Garbage;

impl Row for Garbage {
    const TABLE: Table = Table::Copy;
    type Key = Digest;
}

/// A snapshot that failed half way used to leave its copy of the metadata.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_fails_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { copies: Some(dir.path().to_owned()), ..roomy() };
    let house = House::open(dir, settings, Disk::default()).await;
    let left = || {
        let names = std::fs::read_dir(house.dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_str().unwrap().starts_with("backup-")).count()
    };
    let taken = house.engine.snapshot().await.unwrap();
    assert_eq!(left(), 1, "whoever asked takes it away");
    std::fs::remove_file(taken.file).unwrap();
    let mut batch = Batch::new(Durability::Durable);
    batch.put(&Digest::of(Algorithm::Sha256, b"x"), &Garbage);
    house.ledger.apply(batch).await.unwrap();
    house.engine.snapshot().await.expect_err("what a row says is needed");
    assert_eq!(left(), 0);
}

const SIZE: usize = 200_000;

#[tokio::test(flavor = "multi_thread")]
async fn pulls_go_on_while_nothing_can_be_noted() {
    for mood in [Mood::Dead, Mood::Closed] {
        let registry = Registry::open().await;
        let (known, new) = (Image::new(91, &[SIZE, 500]), Image::new(92, &[SIZE, 500]));
        registry.add_image("a/b", "known", &known);
        registry.add_image("a/b", "new", &new);
        let house = House::new(&registry).await;
        house.manifest("a/b", "known", Want::Body).await.unwrap();
        assert_eq!(house.pulled("a/b", &known.layers[0]).await, Verdict::Miss);
        house.rest().await;
        house.ledger.is(mood);

        assert_eq!(house.manifest("a/b", "known", Want::Body).await.unwrap().verdict, Verdict::Hit);
        assert_eq!(house.pulled("a/b", &known.layers[0]).await, Verdict::Hit, "{mood:?}");
        for _ in 0..3 {
            let manifest = house.manifest("a/b", "new", Want::Body).await.unwrap();
            assert_eq!(manifest.bytes, new.manifest.bytes);
            for layer in known.layers.iter().chain(new.blobs()) {
                house.pulled("a/b", layer).await;
                house.rest().await;
            }
        }
        house.rest().await;
        let status = house.engine.status().await;
        // That it takes no writes just now is no reason to send pulls elsewhere.
        assert_eq!(status.ready, mood == Mood::Dead, "{:?}", status.checks);

        house.ledger.is(Mood::Well);
        for _ in 0..2 {
            house.manifest("a/b", "new", Want::Body).await.unwrap();
            for layer in new.blobs() {
                house.pulled("a/b", layer).await;
            }
            house.rest().await;
        }
        for layer in new.blobs() {
            assert_eq!(house.pulled("a/b", layer).await, Verdict::Hit, "{mood:?}");
        }
        assert_eq!(house.metric("binaryrepo_invariant_violations_total"), 0);
        house.eventually("no draft is left", |house| house.drafts() == 0).await;
    }
}
