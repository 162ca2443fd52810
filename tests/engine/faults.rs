//! What clients get when the upstream misbehaves.

use std::time::Duration;

use binaryrepo::engine::{ErrorKind, Verdict, Want};

use super::house::{Got, House, drain};
use super::support::fault::Fault;
use super::support::image::Image;
use super::support::upstream::Registry;

const SIZE: usize = 400_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_connection_is_taken_up_where_it_broke() {
    for fault in
        [Fault::ResetAt(150_000), Fault::CloseAt(150_000), Fault::ResetBeforeHead, Fault::status(503)]
    {
        let registry = Registry::open().await;
        let (house, layer) = House::cold(&registry, SIZE).await;
        registry.script(&layer.digest.to_string(), [fault.clone()]);
        let bytes = house.pull("a/b", &layer.digest).await.unwrap().whole();
        assert_eq!(bytes, layer.bytes, "{fault:?}");
        let seen = registry.asked(&layer.digest.to_string());
        assert_eq!(seen.len(), 2, "{fault:?}");
        if matches!(fault, Fault::ResetAt(_) | Fault::CloseAt(_)) {
            let range = seen[1].range().expect("a resume asks for the rest");
            assert!(range.starts_with("bytes=") && range != "bytes=0-", "{range}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_cannot_resume_is_read_from_its_beginning() {
    let registry = Registry::open().await;
    let (house, layer) = House::cold(&registry, SIZE).await;
    registry.script(&layer.digest.to_string(), [Fault::CloseAt(150_000), Fault::IgnoreRange]);
    assert_eq!(house.pull("a/b", &layer.digest).await.unwrap().whole(), layer.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_receives_a_complete_body_that_does_not_match() {
    let registry = Registry::open().await;
    let (house, layer) = House::cold(&registry, SIZE).await;
    registry.always(&layer.digest.to_string(), Fault::WrongByteAt(10));
    match house.pull("a/b", &layer.digest).await {
        Ok(got) => assert!(got.broken().len() < SIZE),
        Err(error) => assert_eq!(error.kind, ErrorKind::UpstreamUnavailable),
    }
    house.eventually("the draft is gone", |house| house.drafts() == 0).await;
    // Remembered: the next client is refused at once, and nothing was cached as if it were good.
    let error = house.blob("a/b", &layer.digest, "").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::UpstreamUnavailable);
    assert_eq!(error.verdict, Some(Verdict::Negative));
    assert_eq!(registry.asked(&layer.digest.to_string()).len(), 2, "one clean retry");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_sent_nothing_follows_to_the_clean_retry() {
    let registry = Registry::open().await;
    let (house, layer) = House::cold(&registry, 40_000).await;
    registry.script(&layer.digest.to_string(), [Fault::WrongByteAt(10)]);
    // Up to 64 KiB nothing is sent before the proof, so the clients never notice.
    assert_eq!(house.pull("a/b", &layer.digest).await.unwrap().whole(), layer.bytes);
}

/// Who looked again made a fetch of its own, as soon as the failure was not remembered any more, or where it never was.
#[tokio::test(flavor = "multi_thread")]
async fn the_failure_of_a_fetch_is_that_of_all_who_read_along() {
    let at_once = Fault::answer(429, &[("retry-after", "0")], "");
    // Up to 64 KiB nothing is sent before the proof; of more the head is, and what this range wants never came.
    for (size, range) in [(40_000, ""), (SIZE, "bytes=200000-")] {
        let registry = Registry::open().await;
        let (house, layer) = House::cold(&registry, size).await;
        registry.script(&layer.digest.to_string(), [Fault::CloseAt(10_000), at_once.clone()]);
        match house.blob("a/b", &layer.digest, range).await {
            Ok(answer) => assert_eq!(drain(answer.reader.unwrap()).await.broken(), b""),
            Err(error) => {
                assert_eq!((error.kind, error.verdict), (ErrorKind::TooManyRequests, Some(Verdict::Miss)));
            }
        }
        assert_eq!(registry.asked(&layer.digest.to_string()).len(), 2, "{size}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn too_long_and_too_short_bodies_are_never_complete() {
    for fault in [Fault::Longer(100), Fault::All(vec![Fault::Longer(100), Fault::NoLength])] {
        let registry = Registry::open().await;
        let (house, layer) = House::cold(&registry, SIZE).await;
        registry.always(&layer.digest.to_string(), fault.clone());
        match house.pull("a/b", &layer.digest).await {
            Ok(Got::Whole(_)) => panic!("{fault:?} was served as whole"),
            Ok(Got::Broken(bytes)) => assert!(bytes.len() < SIZE, "{fault:?}"),
            Err(error) => assert_eq!(error.kind, ErrorKind::UpstreamUnavailable, "{fault:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_the_upstream_are_told_apart() {
    let registry = Registry::open().await;
    let (house, layer) = House::cold(&registry, SIZE).await;
    let digest = layer.digest.to_string();
    registry.script(&digest, [Fault::answer(429, &[("retry-after", "1")], "")]);
    let error = house.blob("a/b", &layer.digest, "").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::TooManyRequests);
    assert_eq!(error.retry_after, Some(Duration::from_secs(1)));

    let unknown = registry.add_blob("a/b", 12, 100).digest;
    registry.script(&unknown.to_string(), [Fault::status(404)]);
    let error = house.blob("a/b", &unknown, "").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::BlobUnknown);
    let again = house.blob("a/b", &unknown, "").await.unwrap_err();
    assert_eq!(again.verdict, Some(Verdict::Negative));
    assert_eq!(registry.asked(&unknown.to_string()).len(), 1, "an absence is remembered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_helps_when_the_upstream_fails() {
    let (registry, mirror) = (Registry::open().await, Registry::open().await);
    let image = Image::new(13, &[SIZE]);
    for server in [&registry, &mirror] {
        server.add_image("a/b", "latest", &image);
    }
    let house = House::with(&registry, |spec| spec.mirrors = vec![mirror.url()]).await;
    house.manifest("a/b", "latest", Want::Body).await.unwrap();
    let layer = &image.layers[0];
    registry.always(&layer.digest.to_string(), Fault::CloseAt(100_000));
    let answer = house.blob("a/b", &layer.digest, "").await.unwrap();
    assert_eq!(drain(answer.reader.unwrap()).await.whole(), layer.bytes);
}

/// By content alone, nobody can tell who was asked: one that is on the other side of the world, perhaps.
#[tokio::test(flavor = "multi_thread")]
async fn mirrors_are_asked_in_their_order() {
    let (registry, near, far) = (Registry::open().await, Registry::open().await, Registry::open().await);
    let images = [Image::new(14, &[SIZE]), Image::new(15, &[SIZE])];
    for server in [&registry, &near, &far] {
        server.add_image("a/b", "1", &images[0]);
        server.add_image("a/b", "2", &images[1]);
    }
    let house = House::with(&registry, |spec| spec.mirrors = vec![near.url(), far.url()]).await;
    let pull = async |tag: &str, image: &Image| {
        let manifest = house.manifest("a/b", tag, Want::Body).await.unwrap();
        assert_eq!(manifest.bytes, image.manifest.bytes);
        for blob in image.blobs() {
            assert_eq!(house.pull("a/b", &blob.digest).await.unwrap().whole(), blob.bytes);
        }
    };
    registry.stop().await;
    pull("1", &images[0]).await;
    assert!(!near.log().is_empty());
    assert!(far.log().is_empty(), "the first mirror had it: {:?}", far.log());
    near.stop().await;
    pull("2", &images[1]).await;
    assert!(!far.log().is_empty());
}
