//! The start: what earlier runs left is told to the cache while clients come already, and nothing of it gets lost.

use std::time::Duration;

use binaryrepo::engine::{MaxSize, Settings, Verdict, Want};
use binaryrepo::meta::{CopyRow, DraftRow, LinkRow, MetaExt as _, RepositoryRow, TagRow};
use binaryrepo::store::Call;

use super::house::{House, drain, roomy};
use super::rig::{self, Disk};
use super::support::fault::{Fault, Gate};
use super::support::image::Image;
use super::support::patience::found;
use super::support::upstream::{Options, Registry};

const SIZE: usize = 1 << 20;

fn slow() -> Options {
    Options { connection_rate: Some(2 << 20), ..Options::default() }
}

/// A file that the index finds, while a fill of the same digest is under way: its row was lost with the power, say.
/// Who reads the fill must not be disturbed, and who comes next must not be sent to bytes that nobody has checked.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_turns_up_during_its_fill_is_harmless() {
    for right in [true, false] {
        let registry = Registry::open().await;
        let half = Gate::closed();
        registry.script("/blobs/", [Fault::HoldAt(SIZE as u64 / 2, half.clone())]);
        let image = Image::new(71, &[SIZE]);
        registry.add_image("a/b", "latest", &image);
        let layer = &image.layers[0];
        let (disk, listing) = (Disk::default(), rig::Gate::default());
        disk.hold_after(1, Call::List, &listing);
        let house = House::open(tempfile::tempdir().unwrap(), roomy(), disk).await;
        house.add("hub", binaryrepo::engine::RemoteSpec::new(registry.url())).await;
        house.manifest("a/b", "latest", Want::Body).await.unwrap();
        let first = house.blob("a/b", &layer.digest, "").await.unwrap();
        let mut planted = layer.bytes.to_vec();
        if !right {
            planted[7] ^= 1;
        }
        std::fs::write(house.file_of(&layer.digest), planted).unwrap();
        listing.open();
        let loaded = async || house.engine.status().await.counts.loaded.then_some(());
        found("it is known what lies here", loaded).await;
        half.open();
        for _ in 0..5 {
            house.pulled("a/b", layer).await;
        }
        assert_eq!(drain(first.reader.unwrap()).await.whole(), layer.bytes);
        house.rest().await;
        assert_eq!(house.pulled("a/b", layer).await, Verdict::Hit, "{right}");
        assert_eq!(std::fs::read(house.file_of(&layer.digest)).unwrap(), layer.bytes, "{right}");
        house.eventually("no draft is left", |house| house.drafts() == 0).await;
    }
}

/// A fill that ran long enough to write down its progress, and then failed, left a row for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_fill_leaves_no_row() {
    let registry = Registry::start(slow()).await;
    let image = Image::new(72, &[4 << 20]);
    registry.add_image("a/b", "latest", &image);
    let layer = &image.layers[0];
    let house = House::new(&registry).await;
    house.manifest("a/b", "latest", Want::Body).await.unwrap();
    registry.script(&layer.digest.to_string(), [Fault::CloseAt(3 << 20), Fault::status(404)]);
    let drafts = |house: &House| house.ledger.scan::<DraftRow>(&(), None, 10).unwrap().len();
    let pull = house.pull("a/b", &layer.digest);
    let watch = house.eventually("its progress is noted", |house| drafts(house) == 1);
    let (got, ()) = tokio::join!(pull, watch);
    got.unwrap().broken();
    house.eventually("the row is gone", |house| drafts(house) == 0 && house.drafts() == 0).await;
}

/// What was used last goes last, also after a restart; a blob that is evicted at the very moment of the note used to
/// take the notes of all others with it.
#[tokio::test(flavor = "multi_thread")]
async fn the_order_of_eviction_survives_a_restart() {
    let registry = Registry::open().await;
    let images: Vec<Image> = (81..86).map(|seed| Image::new(seed, &[300_000])).collect();
    for (number, image) in images.iter().enumerate() {
        registry.add_image(&format!("a/n{number}"), "latest", image);
    }
    let settings = Settings { max_size: MaxSize::Bytes(1_300_000), ..roomy() };
    let mut house = House::build(&registry, settings, |_| {}).await;
    for (number, image) in images.iter().enumerate().take(4) {
        let name = format!("a/n{number}");
        house.manifest(&name, "latest", Want::Body).await.unwrap();
        assert_eq!(house.pulled(&name, &image.layers[0]).await, Verdict::Miss);
        // Last uses are kept in milliseconds.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // 0 is used again, so 1 is the oldest; then 2.
    assert_eq!(house.pulled("a/n0", &images[0].layers[0]).await, Verdict::Hit);
    // 3 is not there any more when its use is noted.
    assert_eq!(house.pulled("a/n3", &images[3].layers[0]).await, Verdict::Hit);
    std::fs::remove_file(house.file_of(&images[3].layers[0].digest)).unwrap();
    house = house.restart().await;
    for (number, image) in images.iter().enumerate().skip(3) {
        let name = format!("a/n{number}");
        house.manifest(&name, "latest", Want::Body).await.unwrap();
        house.pulled(&name, &image.layers[0]).await;
        house.rest().await;
    }
    let here = |number: usize| house.file_of(&images[number].layers[0].digest).exists();
    house.eventually("1 is evicted", |_| !here(1)).await;
    assert_eq!([here(0), here(3), here(4)], [true; 3]);
}

/// Nothing of a removed repository is kept, not even by a fill that ends after it was removed.
#[tokio::test(flavor = "multi_thread")]
async fn a_removed_repository_leaves_no_rows() {
    let registry = Registry::start(slow()).await;
    let image = Image::new(73, &[SIZE]);
    registry.add_image("a/b", "latest", &image);
    let mut house = House::new(&registry).await;
    house.manifest("a/b", "latest", Want::Body).await.unwrap();
    let answer = house.blob("a/b", &image.layers[0].digest, "").await.unwrap();
    house.engine.delete_repository(&"hub".parse().unwrap(), false).await.unwrap();
    // It was let in before, so it is served to the end.
    assert_eq!(drain(answer.reader.unwrap()).await.whole(), image.layers[0].bytes);
    house.rest().await;
    // The rows go at once at a start.
    house = house.restart().await;
    house
        .eventually("no row is left", |house| {
            let ledger = &house.ledger;
            let repositories = ledger.scan::<RepositoryRow>(&(), None, 10).unwrap().len();
            let links = ledger.scan::<LinkRow>(&(), None, 10).unwrap().len();
            repositories + links + ledger.scan::<TagRow>(&(), None, 10).unwrap().len() == 0
        })
        .await;
    // Under the old name, but another repository: nothing of the former one is shown.
    house.add("hub", binaryrepo::engine::RemoteSpec::new(registry.url())).await;
    registry.shelf().untag("a/b", "latest");
    house.manifest("a/b", "latest", Want::Body).await.unwrap_err();
}

/// Its row used to go although its file had come: it was taken for the one that was seen without a file.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_pushed_and_is_fetched_again_while_files_are_looked_for_keeps_its_row() {
    let registry = Registry::open().await;
    let (house, layer) = House::cold(&registry, SIZE).await;
    house.add_local().await;
    house.push(&layer).await.unwrap();
    std::fs::remove_file(house.file_of(&layer.digest)).unwrap();
    // All directories of its algorithm have been listed, and some of the other one's.
    let listing = rig::Gate::default();
    house.disk.hold_after(400, Call::List, &listing);
    let house = house.restart().await;
    house.eventually("its place has been looked at", |_| listing.is_reached()).await;
    assert_eq!(house.pulled("a/b", &layer).await, Verdict::Miss);
    house.rest().await;
    listing.open();
    let loaded = async || house.engine.status().await.counts.loaded.then_some(());
    found("it is known what lies here", loaded).await;
    let row = house.ledger.get::<CopyRow>(&layer.digest).unwrap().expect("it lies here");
    assert!(row.durable, "it was acknowledged once");
    assert_eq!(house.pulled("a/b", &layer).await, Verdict::Hit);
}
