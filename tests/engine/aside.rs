//! What becomes of damaged files that were set aside, and of pushed ones that cannot be.

use std::path::PathBuf;
use std::time::Duration;

use binaryrepo::engine::{BlobAnswer, BlobWant, EngineError, ErrorKind, Settings, Verdict, Want};
use binaryrepo::meta::{CopyRow, MetaExt as _};
use binaryrepo::names::{Algorithm, Digest, RangeRequest};
use binaryrepo::store::Call;
use rustix::io::Errno;

use super::house::{House, drain, pass, roomy, scope};
use super::rig::{Disk, Gate};
use super::support::image::Content;
use super::support::upstream::Registry;

const MIB: u64 = 1 << 20;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A house with a local repository, whose blobs nobody collects however old they are.
async fn house() -> House {
    let settings = Settings { collect_after: 1_000 * DAY, ..roomy() };
    let house = House::open(tempfile::tempdir().unwrap(), settings, Disk::default()).await;
    house.add_local().await;
    house
}

async fn blob(house: &House, digest: &Digest) -> Result<BlobAnswer, EngineError> {
    let want = BlobWant { want: Want::Body, range: RangeRequest::Whole };
    house.engine.blob(&scope(&house.engine, "own", "a/b"), digest, want).await
}

fn aside(house: &House, digest: &Digest) -> PathBuf {
    house.dir.path().join("quarantine").join(digest.to_string().replace(':', "-"))
}

/// Sets a file of so many bytes aside, which nobody pushed.
fn plant(house: &House, name: &str, size: u64) -> PathBuf {
    let path = aside(house, &Digest::of(Algorithm::Sha256, name.as_bytes()));
    // The kernel's clock for files goes in steps.
    let step = || std::thread::sleep(Duration::from_millis(50));
    step();
    std::fs::File::create(&path).unwrap().set_len(size).unwrap();
    step();
    path
}

/// The newest counts, so the older go; one that does not fit took the room of all older ones with it before.
#[tokio::test]
async fn one_large_file_stays_and_takes_only_its_own_room() {
    let house = house().await;
    let small = plant(&house, "small", MIB);
    let large = plant(&house, "large", 2_000 * MIB);
    let new = plant(&house, "new", MIB);
    pass(Duration::from_secs(120)).await;
    house.eventually("what does not fit is gone", |_| !large.exists()).await;
    assert!(small.exists() && new.exists());

    let large = plant(&house, "large", 2_000 * MIB);
    pass(Duration::from_secs(120)).await;
    house.eventually("the older are gone", |_| !small.exists() && !new.exists()).await;
    assert!(large.exists());
}

/// A controller that fails for a while has intact files set aside. Where they were pushed, these are all there is.
#[tokio::test]
async fn the_last_copy_of_what_was_pushed_stays_until_it_is_pushed_again() {
    let house = house().await;
    let pushed = Content::random(7, 2_000);
    house.push(&pushed).await.unwrap();
    // The oldest is looked at last.
    let oldest = plant(&house, "cached", MIB);
    house.disk.fail_times(1, Call::Read, Errno::IO);
    let error = blob(&house, &pushed.digest).await.expect_err("it cannot be read");
    assert_eq!(error.kind, ErrorKind::Overloaded, "{error}");
    let last = aside(&house, &pushed.digest);
    plant(&house, "large", 2_000 * MIB);
    pass(Duration::from_secs(120)).await;
    house.eventually("there is no room", |_| !oldest.exists()).await;
    assert!(std::fs::read(&last).unwrap() == pushed.bytes);

    // The start finds its file missing.
    let house = house.restart().await;
    let oldest = plant(&house, "cached", MIB);
    let moved = last.with_extension("moved");
    std::fs::rename(&last, &moved).unwrap();
    std::fs::rename(&moved, &last).unwrap();
    pass(31 * DAY).await;
    house.eventually("it is too old", |_| !oldest.exists()).await;
    assert!(std::fs::read(&last).unwrap() == pushed.bytes);

    house.push(&pushed).await.unwrap();
    pass(Duration::from_secs(120)).await;
    house.eventually("it is not needed any more", |_| !last.exists()).await;
    let answer = blob(&house, &pushed.digest).await.unwrap();
    assert!(drain(answer.reader.unwrap()).await.whole() == pushed.bytes);
}

/// A layer of this registry's, which somebody has pushed here as well.
async fn pushed_beside(registry: &Registry) -> (House, Content) {
    let (house, layer) = House::cold(registry, 200_000).await;
    house.add_local().await;
    house.push(&layer).await.unwrap();
    (house, layer)
}

/// It was acknowledged once: a power cut must not take it, whoever brought the bytes that lie here now.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_remote_brings_in_place_of_what_was_pushed_is_synced() {
    let registry = Registry::open().await;
    let (house, layer) = pushed_beside(&registry).await;
    std::fs::remove_file(house.file_of(&layer.digest)).unwrap();
    // The start finds its file missing.
    let house = house.restart().await;
    let gate = Gate::default();
    gate.open();
    house.disk.hold_after(0, Call::Sync, &gate);
    assert_eq!(house.pulled("a/b", &layer).await, Verdict::Miss);
    house.rest().await;
    assert!(gate.is_reached(), "the file");
    let row = house.ledger.get::<CopyRow>(&layer.digest).unwrap().expect("it lies here");
    assert!(row.durable);
    let answer = blob(&house, &layer.digest).await.unwrap();
    assert!(drain(answer.reader.unwrap()).await.whole() == layer.bytes);
}

/// While the server runs, the cache counts on what was pushed. Nobody is served less for that: a client of the remote has
/// the upstream's bytes, past the cache, and who asks where it was pushed is told to push it again.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_pushed_and_is_lost_while_serving_is_fetched_past_the_cache_until_it_is_here_again() {
    let registry = Registry::open().await;
    let (house, layer) = pushed_beside(&registry).await;
    assert_eq!(house.pulled("a/b", &layer).await, Verdict::Hit);
    std::fs::remove_file(house.file_of(&layer.digest)).unwrap();
    for _ in 0..2 {
        assert_eq!(house.pulled("a/b", &layer).await, Verdict::Bypass);
        let error = blob(&house, &layer.digest).await.expect_err("its file is lost");
        assert!(error.kind == ErrorKind::Overloaded && error.message.contains("push it again"), "{error:?}");
    }
    house.rest().await;
    assert!(house.files().is_empty() && house.drafts() == 0);
    house.push(&layer).await.unwrap();
    assert_eq!(house.pulled("a/b", &layer).await, Verdict::Hit);
    let answer = blob(&house, &layer.digest).await.unwrap();
    assert!(drain(answer.reader.unwrap()).await.whole() == layer.bytes);
    assert_eq!(registry.asked(&layer.digest.to_string()).len(), 2);
    assert_eq!(house.metric("binaryrepo_invariant_violations_total"), 0);
}

/// It used to be called changed all the time, and the client was told to try again at once.
#[tokio::test]
async fn a_pushed_blob_that_can_be_neither_read_nor_set_aside_is_to_be_pushed_again() {
    let house = house().await;
    let pushed = Content::random(7, 2_000);
    house.push(&pushed).await.unwrap();
    house.disk.fail(Call::Read, Errno::IO);
    house.disk.fail(Call::SetAside, Errno::ROFS);
    let error = blob(&house, &pushed.digest).await.expect_err("it cannot be read");
    assert!(error.kind == ErrorKind::Overloaded && error.message.contains("push it again"), "{error:?}");
    assert_eq!(error.retry_after, Some(Duration::from_secs(60)));
    house.disk.heal();
    let answer = blob(&house, &pushed.digest).await.unwrap();
    assert!(drain(answer.reader.unwrap()).await.whole() == pushed.bytes);
}
