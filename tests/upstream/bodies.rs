//! Blobs: from where they come, how they end, and when we stop waiting.

use std::time::Duration;

use binaryrepo::upstream::{Kind, Resume, Upstream, UpstreamError};

use crate::support::fault::Fault;
use crate::support::image::Content;
use crate::support::upstream::Registry;
use crate::{SHORT, client, client_with, drain, image};

const SIZE: usize = 300_000;

async fn with_blob() -> (Registry, Content) {
    let registry = Registry::open().await;
    let blob = registry.add_blob("library/redis", 5, SIZE);
    (registry, blob)
}

async fn fail(upstream: &Upstream, blob: &Content, from: Option<Resume>) -> UpstreamError {
    upstream.blob(&image(), &blob.digest, from).await.unwrap_err()
}

fn at(at: u64) -> Option<Resume> {
    Some(Resume { at, validator: None })
}

#[tokio::test]
async fn a_whole_blob_comes_with_its_size_and_validator() {
    let (registry, blob) = with_blob().await;
    let response = client(&registry).blob(&image(), &blob.digest, None).await.unwrap();
    assert_eq!((response.offset, response.size), (0, Some(SIZE as u64)));
    assert_eq!(response.validator, Some(format!("\"{}\"", blob.digest)));
    assert_eq!(drain(response).await, (blob.bytes.to_vec(), Ok(())));
    assert_eq!(registry.log()[0].range(), None);
    assert_eq!(registry.log()[0].bytes_sent, SIZE as u64);

    registry.script("/blobs/", [Fault::All(vec![Fault::NoLength, Fault::headers(&[("etag", "W/\"x\"")])])]);
    let response = client(&registry).blob(&image(), &blob.digest, None).await.unwrap();
    assert_eq!((response.size, response.validator.as_deref()), (None, None));
    assert_eq!(drain(response).await, (blob.bytes.to_vec(), Ok(())));
}

#[tokio::test]
async fn a_broken_body_ends_in_an_error_and_goes_on_from_there() {
    let (registry, blob) = with_blob().await;
    let upstream = client(&registry);
    for break_at in [0, 1, 150_000, SIZE as u64 - 1] {
        for fault in [
            Fault::CloseAt(break_at),
            Fault::ResetAt(break_at),
            Fault::All(vec![Fault::CloseAt(break_at), Fault::NoLength]),
        ] {
            registry.forget();
            registry.script("/blobs/", [fault]);
            let response = upstream.blob(&image(), &blob.digest, None).await.unwrap();
            let validator = response.validator.clone();
            let (mut bytes, end) = drain(response).await;
            let error = end.unwrap_err();
            assert_eq!(error.kind, Kind::Broken);
            assert!(error.retryable());
            assert_eq!(bytes.len() as u64, break_at);

            let from = Resume { at: break_at, validator };
            let response = upstream.blob(&image(), &blob.digest, Some(from)).await.unwrap();
            assert_eq!((response.offset, response.size), (break_at, Some(SIZE as u64)));
            bytes.extend(drain(response).await.0);
            assert_eq!(bytes, blob.bytes);
            let resumed = &registry.log()[1];
            let range = (break_at > 0).then(|| format!("bytes={break_at}-"));
            assert_eq!(resumed.range(), range.as_deref());
            assert_eq!(resumed.header("if-range").is_some(), break_at > 0);
        }
    }
}

#[tokio::test]
async fn whoever_cannot_go_on_starts_again_or_says_so() {
    let (registry, blob) = with_blob().await;
    let upstream = client(&registry);
    registry.script("/blobs/", [Fault::IgnoreRange]);
    let response = upstream.blob(&image(), &blob.digest, at(100)).await.unwrap();
    assert_eq!((response.offset, response.size), (0, Some(SIZE as u64)));
    assert_eq!(drain(response).await.0, blob.bytes);

    let wrong = ["bytes 99-299999/300000", "bytes 100-200000/300000", "bytes 100-299999/*", "junk"];
    for range in wrong {
        registry.script("/blobs/", [Fault::headers(&[("content-range", range)])]);
        let error = fail(&upstream, &blob, at(100)).await;
        assert_eq!(error.kind, Kind::BadResume, "{range}: {error}");
        assert!(error.retryable());
    }
    assert_eq!(fail(&upstream, &blob, at(SIZE as u64)).await.kind, Kind::BadResume);
    registry.script("/blobs/", [Fault::headers(&[("content-range", "bytes 100-399999/400000")])]);
    assert_eq!(fail(&upstream, &blob, at(100)).await.kind, Kind::BadResponse);
}

#[tokio::test]
async fn a_weak_validator_is_not_sent() {
    let (registry, blob) = with_blob().await;
    let from = Resume { at: 5, validator: Some("W/\"weak\"".to_owned()) };
    client(&registry).blob(&image(), &blob.digest, Some(from)).await.unwrap();
    assert_eq!(registry.log()[0].header("if-range"), None);
}

#[tokio::test]
async fn silence_and_drip_are_not_waited_for() {
    let (registry, blob) = with_blob().await;
    let upstream = client_with(&registry, |settings| settings.timeouts = SHORT);
    registry.script("/blobs/", [Fault::StallAt(1000)]);
    let (bytes, end) = drain(upstream.blob(&image(), &blob.digest, None).await.unwrap()).await;
    assert_eq!((bytes.len(), end.unwrap_err().kind), (1000, Kind::Timeout));

    registry.script("/blobs/", [Fault::Rate(2000)]);
    let (bytes, end) = drain(upstream.blob(&image(), &blob.digest, None).await.unwrap()).await;
    let error = end.unwrap_err();
    assert_eq!(error.kind, Kind::Slow);
    assert!(error.retryable());
    assert!(bytes.len() < 20_000, "{}", bytes.len());
}

#[tokio::test]
async fn a_slow_reader_is_not_a_slow_upstream() {
    let (registry, blob) = with_blob().await;
    let upstream = client_with(&registry, |settings| settings.timeouts = SHORT);
    let mut response = upstream.blob(&image(), &blob.digest, None).await.unwrap();
    let mut bytes = response.body.next().await.unwrap().unwrap().to_vec();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let (rest, end) = drain(response).await;
    bytes.extend(rest);
    assert_eq!(end, Ok(()));
    assert_eq!(bytes, blob.bytes);
}

#[tokio::test]
async fn a_steady_pace_above_the_floor_is_borne() {
    let (registry, blob) = with_blob().await;
    let upstream = client_with(&registry, |settings| settings.timeouts = SHORT);
    registry.script("/blobs/", [Fault::Rate(200_000)]);
    let response = upstream.blob(&image(), &blob.digest, None).await.unwrap();
    assert_eq!(drain(response).await, (blob.bytes.to_vec(), Ok(())));
}

#[tokio::test]
async fn lengths_and_encodings_that_lie_are_refused() {
    let (registry, blob) = with_blob().await;
    let upstream = client(&registry);
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n";
    let framings = [
        "Content-Length: 3\r\nContent-Length: 3\r\n",
        "Content-Length: 3\r\nContent-Length: 4\r\n",
        "Content-Length: three\r\n",
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
    ];
    for framing in framings {
        registry.script("/blobs/", [Fault::Raw(format!("{head}{framing}\r\nabc").into_bytes())]);
        let error = fail(&upstream, &blob, None).await;
        assert_eq!(error.kind, Kind::BadResponse, "{framing}: {error}");
        assert!(!error.retryable());
    }
    registry.script("/blobs/", [Fault::headers(&[("content-encoding", "gzip")])]);
    assert_eq!(fail(&upstream, &blob, None).await.kind, Kind::BadResponse);
    let part = [("content-range", "bytes 0-299999/300000")];
    registry.script("/blobs/", [Fault::answer(206, &part, blob.bytes.to_vec())]);
    assert_eq!(fail(&upstream, &blob, None).await.kind, Kind::BadResponse);
}

#[tokio::test]
async fn a_probe_learns_the_size_without_head_and_without_the_blob() {
    let (registry, blob) = with_blob().await;
    let upstream = client(&registry);
    assert_eq!(upstream.probe_blob(&image(), &blob.digest).await, Ok(Some(SIZE as u64)));
    let seen = &registry.log()[0];
    assert_eq!((seen.method.as_str(), seen.range(), seen.bytes_sent), ("GET", Some("bytes=0-0"), 1));
    registry.script("/blobs/", [Fault::IgnoreRange]);
    assert_eq!(upstream.probe_blob(&image(), &blob.digest).await, Ok(Some(SIZE as u64)));

    let empty = Content::new("");
    assert_eq!(upstream.probe_blob(&image(), &empty.digest).await.unwrap_err().kind, Kind::NotFound);
    registry.shelf().add_blob("library/redis", &empty);
    assert_eq!(upstream.probe_blob(&image(), &empty.digest).await, Ok(Some(0)));
}

#[tokio::test]
async fn wrong_and_overlong_bytes_are_passed_on_to_who_knows_the_digest() {
    let (registry, blob) = with_blob().await;
    let upstream = client(&registry);
    registry.script("/blobs/", [Fault::WrongByteAt(10), Fault::Longer(7)]);
    let (bytes, end) = drain(upstream.blob(&image(), &blob.digest, None).await.unwrap()).await;
    assert_eq!(end, Ok(()));
    assert_ne!(bytes, blob.bytes);
    let response = upstream.blob(&image(), &blob.digest, None).await.unwrap();
    assert_eq!(response.size, Some(SIZE as u64 + 7));
}
