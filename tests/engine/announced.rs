//! Uploads that say how large they are, on a disk that has room for some of them.

use std::time::Duration;

use binaryrepo::engine::{EngineError, ErrorKind, Principal, Upload, Verdict};
use binaryrepo::names::{Algorithm, Digest};
use binaryrepo::store::Call;
use bytes::Bytes;

use super::house::{House, pass, scope};
use super::rig::Gate;
use super::support::image::Content;
use super::support::patience::found;
use super::support::upstream::Registry;

const MIB: u64 = 1 << 20;

/// A disk of so many bytes, on which a layer of 8 MiB is cached.
async fn house(registry: &Registry, bytes: u64) -> (House, Content) {
    let (house, layer) = House::cold(registry, 8 << 20).await;
    house.add_local().await;
    assert_eq!(house.pulled("a/b", &layer).await, Verdict::Miss);
    house.rest().await;
    house.disk.is_small(house.dir.path(), bytes);
    (house, layer)
}

async fn begin(house: &House) -> Upload {
    let place = scope(&house.engine, "own", "a/b");
    let id = house.engine.start_upload(&place, &Principal::Operator, Algorithm::Sha256).await.unwrap();
    house.engine.upload(&place, &Principal::Operator, &id).await.unwrap()
}

fn is_refused(answer: Result<(), EngineError>) {
    let error = answer.expect_err("there is no room");
    assert_eq!(error.kind, ErrorKind::Overloaded);
    assert!(error.message.contains("no space left on the disk"), "{error}");
}

/// Each was compared with the free space alone, and all of them shrank what the cache may keep: a few bytes sent to each
/// of three emptied it.
#[tokio::test]
async fn two_cannot_have_the_same_room() {
    let registry = Registry::open().await;
    let (house, layer) = house(&registry, 1_000 * MIB).await;
    let mut first = begin(&house).await;
    first.expect(800 * MIB).await.unwrap();
    let mut others = [begin(&house).await, begin(&house).await];
    for other in &mut others {
        is_refused(other.expect(800 * MIB).await);
    }
    // The next look at the space takes what was announced into account.
    pass(Duration::from_secs(60)).await;
    let limit = async || house.engine.status().await.counts.limit_bytes;
    found("the limit is set anew", async || (limit().await < 500 * MIB).then_some(())).await;
    house.rest().await;
    assert!(house.file_of(&layer.digest).exists());
    // Who leaves takes nothing along.
    drop(first);
    others[0].expect(800 * MIB).await.unwrap();
}

/// What came is no promise any more: it lies on the disk.
#[tokio::test]
async fn only_what_is_still_to_come_is_kept_free() {
    let registry = Registry::open().await;
    let (house, _) = house(&registry, 208 * MIB).await;
    let mut first = begin(&house).await;
    first.expect(100 * MIB).await.unwrap();
    for _ in 0..60 {
        first.append(vec![Bytes::from(vec![7; 1 << 20])]).await.unwrap();
    }
    // 140 are free, of which 40 are to come, and 64 stay. And 8 are cached.
    let mut second = begin(&house).await;
    is_refused(second.expect(45 * MIB).await);
    assert_eq!(house.files().len(), 1, "nothing goes for what does not fit even so");
    second.expect(36 * MIB).await.unwrap();
    assert_eq!(house.files().len(), 1);
}

#[tokio::test]
async fn cached_content_makes_room_for_what_fits_then() {
    let registry = Registry::open().await;
    let (house, layer) = house(&registry, 100 * MIB).await;
    let mut upload = begin(&house).await;
    is_refused(upload.expect(37 * MIB).await);
    assert!(house.file_of(&layer.digest).exists());
    upload.expect(30 * MIB).await.unwrap();
    assert!(!house.file_of(&layer.digest).exists());
}

/// A client that leaves leaves pieces on their way. Where who asks hears of less than will be there, the next bytes are
/// appended behind what they repeat.
#[tokio::test(flavor = "multi_thread")]
async fn who_asks_how_far_an_upload_is_hears_of_what_is_on_its_way() {
    let registry = Registry::open().await;
    let house = House::new(&registry).await;
    house.add_local().await;
    let place = scope(&house.engine, "own", "a/b");
    let id = house.engine.start_upload(&place, &Principal::Operator, Algorithm::Sha256).await.unwrap();
    let gate = Gate::default();
    house.disk.hold_after(0, Call::Write, &gate);
    let mut upload = house.engine.upload(&place, &Principal::Operator, &id).await.unwrap();
    upload.append_behind(vec![Bytes::from_static(b"on its way")]).await.unwrap();
    drop(upload);
    let engine = house.engine.clone();
    let asked = tokio::spawn({
        let place = place.clone();
        async move { engine.upload_len(&place, &Principal::Operator, &id).await.unwrap() }
    });
    gate.open();
    assert_eq!(asked.await.unwrap(), 10);
    let upload = house.engine.upload(&place, &Principal::Operator, &id).await.unwrap();
    assert_eq!(upload.len(), 10);
    let digest = Digest::of(Algorithm::Sha256, b"on its way");
    assert_eq!(upload.finish(&digest).await.unwrap(), 10);
}
