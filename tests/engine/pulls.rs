//! Cold and warm pulls, fan-out, ranges, permission.

use binaryrepo::engine::{BlobWant, ErrorKind, Verdict, Want};
use binaryrepo::names::RangeRequest;

use super::house::{House, drain};
use super::support::fault::{Fault, Gate};
use super::support::image::{Content, Image, Index};
use super::support::upstream::{Access, Options, Registry};

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_fetched_once_and_then_served_from_here() {
    let registry = Registry::start(Options { access: Access::anonymous_token(), ..Options::default() }).await;
    let image = Image::new(1, &[1_000, 300_000, 70_000]);
    registry.add_image("library/redis", "7", &image);
    let house = House::new(&registry).await;
    for round in 0..2 {
        let manifest = house.manifest("library/redis", "7", Want::Body).await.unwrap();
        assert_eq!(manifest.bytes, image.manifest.bytes);
        assert_eq!(manifest.verdict, if round == 0 { Verdict::Miss } else { Verdict::Hit });
        for blob in image.blobs() {
            let answer = house.blob("library/redis", &blob.digest, "").await.unwrap();
            assert_eq!(answer.verdict, if round == 0 { Verdict::Miss } else { Verdict::Hit });
            assert_eq!(drain(answer.reader.unwrap()).await.whole(), blob.bytes);
        }
        house.rest().await;
    }
    let answered = |text: &str| registry.asked(text).iter().filter(|seen| seen.authorized()).count();
    assert_eq!(answered("GET /v2/library/redis/manifests/"), 1);
    for blob in image.blobs() {
        assert_eq!(answered(&blob.digest.to_string()), 1);
    }
    assert_eq!(registry.asked("GET /token").len(), 1);
}

/// On a busy machine all of it may have come before who waited for it is given its turn.
#[tokio::test]
async fn who_waited_for_a_fetch_joined_it_however_late_its_turn_comes() {
    let registry = Registry::open().await;
    let (house, layer) = House::cold(&registry, 300_000).await;
    let gate = Gate::closed();
    registry.script(&layer.digest.to_string(), [Fault::Hold(gate.clone())]);
    let pull = || Box::pin(house.blob("a/b", &layer.digest, ""));
    let (mut first, mut late) = (pull(), pull());
    for (waiting, one) in [(1, &mut first), (2, &mut late)] {
        tokio::select! {
            _ = one => panic!("the upstream holds"),
            () = house.until_waiting(waiting) => {}
        }
    }
    gate.open();
    let first = first.await.unwrap();
    assert_eq!(drain(first.reader.unwrap()).await.whole(), layer.bytes);
    house.rest().await;
    let late = late.await.unwrap();
    assert_eq!((first.verdict, late.verdict), (Verdict::Miss, Verdict::Joined));
    assert_eq!(drain(late.reader.unwrap()).await.whole(), layer.bytes);
    assert_eq!(house.pulled("a/b", &layer).await, Verdict::Hit);
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_clients_cost_one_fetch() {
    let registry = Registry::start(Options { connection_rate: Some(4 << 20), ..Options::default() }).await;
    let image = Image::new(2, &[2 << 20]);
    registry.add_image("a/b", "latest", &image);
    let house = std::sync::Arc::new(House::new(&registry).await);
    let layer = image.layers[0].clone();
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..500 {
        let (house, layer) = (house.clone(), layer.clone());
        clients.spawn(async move {
            // They come over the whole time of the download.
            tokio::time::sleep(std::time::Duration::from_millis(number)).await;
            house.manifest("a/b", "latest", Want::Body).await.unwrap();
            let bytes = house.pull("a/b", &layer.digest).await.unwrap().whole();
            assert_eq!(bytes, layer.bytes);
        });
    }
    while let Some(done) = clients.join_next().await {
        done.unwrap();
    }
    assert_eq!(registry.asked(&layer.digest.to_string()).len(), 1);
    assert_eq!(registry.asked("GET /v2/a/b/manifests/").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_of_a_blob_under_way_come_from_its_draft() {
    let registry = Registry::start(Options { connection_rate: Some(1 << 20), ..Options::default() }).await;
    let image = Image::new(3, &[1 << 20]);
    registry.add_image("a/b", "latest", &image);
    let house = House::new(&registry).await;
    house.manifest("a/b", "latest", Want::Body).await.unwrap();
    let layer = &image.layers[0];
    let first = house.blob("a/b", &layer.digest, "").await.unwrap();
    for (range, expected) in [
        ("bytes=100-199", &layer.bytes[100..200]),
        ("bytes=900000-900009", &layer.bytes[900_000..900_010]),
        ("bytes=-10", &layer.bytes[(1 << 20) - 10..]),
        ("bytes=1048000-", &layer.bytes[1_048_000..]),
    ] {
        let answer = house.blob("a/b", &layer.digest, range).await.unwrap();
        assert!(answer.range.is_some(), "{range}");
        assert_eq!(drain(answer.reader.unwrap()).await.whole(), expected, "{range}");
    }
    assert_eq!(drain(first.reader.unwrap()).await.whole(), layer.bytes);
    let past = house.blob("a/b", &layer.digest, "bytes=1048576-").await.unwrap_err();
    assert_eq!(past.kind, ErrorKind::Unsatisfiable { size: 1 << 20 });
    assert_eq!(registry.asked(&layer.digest.to_string()).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobodys_leaving_ends_a_fetch() {
    let registry = Registry::start(Options { connection_rate: Some(1 << 20), ..Options::default() }).await;
    let image = Image::new(4, &[500_000]);
    registry.add_image("a/b", "latest", &image);
    let house = House::new(&registry).await;
    house.manifest("a/b", "latest", Want::Body).await.unwrap();
    let layer = &image.layers[0];
    let leader = house.blob("a/b", &layer.digest, "").await.unwrap();
    drop(leader);
    let follower = house.blob("a/b", &layer.digest, "").await.unwrap();
    assert_eq!(follower.verdict, Verdict::Joined);
    assert_eq!(drain(follower.reader.unwrap()).await.whole(), layer.bytes);
    assert_eq!(registry.asked(&layer.digest.to_string()).len(), 1);
}

/// Presence is not permission: an image that the upstream does not let read the blob is told that there is none,
/// although the bytes lie here, or are on their way for somebody else.
#[tokio::test(flavor = "multi_thread")]
async fn bytes_are_shown_only_through_an_image_that_has_them() {
    let registry = Registry::start(Options { connection_rate: Some(1 << 20), ..Options::default() }).await;
    let secret = Image::new(5, &[500_000]);
    registry.add_image("team/secret", "1", &secret);
    registry.add_image("team/public", "1", &Image::new(6, &[10]));
    let layer = &secret.layers[0];
    let house = House::new(&registry).await;
    house.manifest("team/secret", "1", Want::Body).await.unwrap();
    let under_way = house.blob("team/secret", &layer.digest, "").await.unwrap();
    let denied = house.blob("team/public", &layer.digest, "").await.unwrap_err();
    assert_eq!(denied.kind, ErrorKind::BlobUnknown);
    drain(under_way.reader.unwrap()).await.whole();
    let denied = house.blob("team/public", &layer.digest, "").await.unwrap_err();
    assert_eq!(denied.kind, ErrorKind::BlobUnknown);

    // With a proof of its own it is served, and no byte is fetched again.
    registry.shelf().add_blob("team/other", layer);
    let proven = house.blob("team/other", &layer.digest, "").await.unwrap();
    assert_eq!(drain(proven.reader.unwrap()).await.whole(), layer.bytes);
    let fetched: u64 = registry.asked(&layer.digest.to_string()).iter().map(|seen| seen.bytes_sent).sum();
    assert!(fetched < 500_000 + 70_000, "{fetched} bytes were fetched");
}

/// A manifest may name layers that live elsewhere, and registries do not check that they have those: naming a secret
/// one was enough to be shown it.
#[tokio::test(flavor = "multi_thread")]
async fn naming_a_layer_that_lives_elsewhere_shows_nothing() {
    let registry = Registry::open().await;
    let secret = Image::new(5, &[500_000]);
    registry.add_image("team/secret", "1", &secret);
    let layer = &secret.layers[0];
    let media_type = "application/vnd.oci.image.layer.nondistributable.v1.tar";
    let manifest = Content::new(
        String::from_utf8_lossy(&secret.manifest.bytes)
            .replace("application/vnd.oci.image.layer.v1.tar", media_type),
    );
    assert_ne!(manifest.bytes, secret.manifest.bytes);
    registry.shelf().add_blob("team/public", &secret.config);
    registry.shelf().add_manifest("team/public", Image::MEDIA_TYPE, &manifest);
    registry.shelf().tag("team/public", "1", manifest.digest);
    let house = House::new(&registry).await;
    house.manifest("team/secret", "1", Want::Body).await.unwrap();
    assert_eq!(house.pulled("team/secret", layer).await, Verdict::Miss);
    house.manifest("team/public", "1", Want::Body).await.unwrap();
    assert_eq!(house.pulled("team/public", &secret.config).await, Verdict::Miss);
    let denied = house.blob("team/public", &layer.digest, "").await.unwrap_err();
    assert_eq!(denied.kind, ErrorKind::BlobUnknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_starts_no_download() {
    let registry = Registry::open().await;
    let image = Image::new(7, &[100_000]);
    registry.add_image("a/b", "latest", &image);
    let house = House::new(&registry).await;
    house.manifest("a/b", "latest", Want::Body).await.unwrap();
    let want = BlobWant { want: Want::Head, range: RangeRequest::Whole };
    let layer = &image.layers[0];
    let head = house.engine.blob(&house.scope("a/b"), &layer.digest, want).await.unwrap();
    assert_eq!((head.size, head.verdict), (100_000, Verdict::Miss));
    assert!(registry.asked(&layer.digest.to_string()).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_multi_arch_pull_fetches_only_what_is_asked() {
    let registry = Registry::open().await;
    let index = Index::new(8, &["amd64", "arm64"], &[50_000]);
    registry.add_index("a/b", "latest", &index);
    let house = House::new(&registry).await;
    house.manifest("a/b", "latest", Want::Body).await.unwrap();
    let child = &index.images[0];
    house.manifest("a/b", &child.manifest.digest.to_string(), Want::Body).await.unwrap();
    for blob in child.blobs() {
        house.pull("a/b", &blob.digest).await.unwrap().whole();
    }
    let other = &index.images[1];
    assert!(registry.asked(&other.manifest.digest.to_string()).is_empty());
    assert!(registry.asked(&other.layers[0].digest.to_string()).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_without_a_length_is_served_after_the_proof() {
    let registry = Registry::open().await;
    let blob: Content = registry.add_blob("a/b", 9, 200_000);
    registry.script("/blobs/", [Fault::NoLength]);
    let house = House::new(&registry).await;
    let answer = house.blob("a/b", &blob.digest, "").await.unwrap();
    assert_eq!(answer.size, 200_000);
    assert_eq!(drain(answer.reader.unwrap()).await.whole(), blob.bytes);
}
