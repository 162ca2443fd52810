//! What is on the disk before anything is acknowledged: in which order, and what becomes of it where that fails.

use binaryrepo::engine::{EngineError, ManifestPush, Verdict};
use binaryrepo::meta::{Batch, CopyRow, Durability, Meta as _, MetaExt as _};
use binaryrepo::store::Call;
use rustix::io::Errno;

use super::house::{House, scope};
use super::rig::Step;
use super::support::image::{Content, Image};
use super::support::upstream::Registry;

/// A house with a local repository, and a layer that a pull has left here: renamed, never synced.
async fn house(registry: &Registry) -> (House, Content) {
    let (house, layer) = House::cold(registry, 200_000).await;
    house.add_local().await;
    assert_eq!(house.pulled("a/b", &layer).await, Verdict::Miss);
    house.rest().await;
    (house, layer)
}

async fn mount(house: &House, blob: &Content) -> Result<bool, EngineError> {
    let [to, from] = ["own", "hub"].map(|repository| scope(&house.engine, repository, "a/b"));
    house.engine.mount(&to, &blob.digest, &[from]).await
}

async fn tag(house: &House, image: &Image) -> Result<(), EngineError> {
    let push = ManifestPush {
        reference: "v1".parse().unwrap(),
        media_type: None,
        bytes: image.manifest.bytes.clone(),
        tags: Vec::new(),
    };
    house.engine.push_manifest(&scope(&house.engine, "own", "a/b"), push).await.map(drop)
}

/// Those that the promise rests on.
fn promises(house: &House) -> Vec<Step> {
    let mut steps = house.disk.trail.so_far();
    steps.retain(|step| {
        let calls = [Call::Write, Call::Sync, Call::Rename, Call::SyncDirectory].map(Step::Call);
        calls.contains(step) || *step == Step::Commit
    });
    steps.dedup();
    steps
}

/// Any other order loses an acknowledged blob to a power cut: its bytes, its name, or its row.
#[tokio::test(flavor = "multi_thread")]
async fn bytes_then_name_then_rows() {
    let registry = Registry::open().await;
    let (house, layer) = house(&registry).await;
    house.disk.trail.begin();
    house.push(&Content::random(1, 300_000)).await.unwrap();
    let pushed = [
        Step::Call(Call::Write),
        Step::Call(Call::Sync),
        Step::Call(Call::Rename),
        Step::Call(Call::SyncDirectory),
        Step::Commit,
    ];
    assert_eq!(promises(&house), pushed);
    // It has its name already.
    house.disk.trail.begin();
    assert!(mount(&house, &layer).await.unwrap());
    assert_eq!(promises(&house), [Step::Call(Call::Sync), Step::Call(Call::SyncDirectory), Step::Commit]);
}

/// It was synced once more at the next attempt, and that was believed. The kernel tells of a lost write once.
#[tokio::test(flavor = "multi_thread")]
async fn a_cached_layer_that_cannot_be_synced_is_mounted_by_nobody() {
    // Memory is what a device may have been short of when it lost the write.
    for (call, errno) in
        [(Call::Sync, Errno::IO), (Call::Sync, Errno::NOMEM), (Call::SyncDirectory, Errno::IO)]
    {
        let registry = Registry::open().await;
        let (house, layer) = house(&registry).await;
        house.disk.fail(call, errno);
        let error = mount(&house, &layer).await.expect_err("it is not on the disk");
        assert!(error.message.contains("push it again"), "{error}");
        house.disk.heal();
        assert!(!mount(&house, &layer).await.unwrap(), "{call:?}: nobody knows what the disk has of it");
        // Fetched anew it can be.
        assert_eq!(house.pulled("a/b", &layer).await, Verdict::Miss, "{call:?}");
        house.rest().await;
        assert!(mount(&house, &layer).await.unwrap(), "{call:?}");
    }
}

/// Its bytes are synced by then, and its directory is opened anew. The layer was set aside, and fetched again.
#[tokio::test(flavor = "multi_thread")]
async fn a_shortage_takes_no_layer_away() {
    let registry = Registry::open().await;
    let (house, layer) = house(&registry).await;
    for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM] {
        house.disk.fail(Call::SyncDirectory, errno);
        mount(&house, &layer).await.expect_err("its name is not on the disk");
        house.disk.heal();
        assert_eq!(house.set_aside(), 0, "{errno}");
        assert_eq!(house.pulled("a/b", &layer).await, Verdict::Hit, "{errno}");
    }
    assert!(mount(&house, &layer).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_waits_until_what_it_names_is_on_the_disk() {
    let registry = Registry::open().await;
    let image = Image::new(52, &[100_000]);
    for call in [Call::Sync, Call::SyncDirectory] {
        let (house, _) = house(&registry).await;
        for blob in image.blobs() {
            house.push(blob).await.unwrap();
        }
        // As a file is that a start found without its row.
        let layer = &image.layers[0];
        let row = house.ledger.get::<CopyRow>(&layer.digest).unwrap().expect("it lies here");
        let mut batch = Batch::new(Durability::Durable);
        batch.put(&layer.digest, &CopyRow { durable: false, ..row });
        house.ledger.apply(batch).await.unwrap();

        house.disk.fail(call, Errno::IO);
        tag(&house, &image).await.expect_err("its layer is not on the disk");
        house.disk.heal();
        tag(&house, &image).await.expect_err("nobody knows what the disk has of it");
        house.push(layer).await.unwrap();
        tag(&house, &image).await.unwrap();
    }
}
