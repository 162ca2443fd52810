//! What clients are told when the upstream refuses, fails, or sends nonsense: what they can act on, and never that
//! their own log-in failed.

use std::time::Duration;

use serde_json::json;

use super::client::{Answer, Ask};
use super::house::{House, blob, hub, manifest};
use super::support::fault::Fault;
use super::support::image::{Content, Image};
use super::support::upstream::Registry;

/// A server whose upstream answers every request for content like this, and nothing is cached.
async fn told(fault: Fault) -> (Answer, Answer, Registry) {
    let image = Image::new(601, &[100_000]);
    let (registry, house) = hub(&image).await;
    registry.always("/v2/library/redis/", fault);
    let (tag, layer) = (manifest("redis", "7"), blob("redis", &image.layers[0]));
    let (tag, layer) = tokio::join!(house.get(&tag), house.get(&layer));
    (tag, layer, registry)
}

#[tokio::test(flavor = "multi_thread")]
async fn absences_are_absences() {
    for status in [403, 404, 410, 451] {
        let (manifest, blob, registry) = told(Fault::status(status)).await;
        assert_eq!(manifest.code(), (404, "MANIFEST_UNKNOWN".to_owned()), "{status}");
        assert_eq!(blob.code(), (404, "BLOB_UNKNOWN".to_owned()), "{status}");
        assert_eq!(registry.asked("/manifests/").len(), 1, "{status} is not tried again");
    }
}

/// A 404 would make a client believe that the image is gone, a 401 that it has to log in.
#[tokio::test(flavor = "multi_thread")]
async fn failures_are_gateway_errors_and_no_absences() {
    for (fault, expected) in [
        (Fault::status(401), 502),
        (Fault::status(500), 502),
        (Fault::status(503), 502),
        (Fault::status(418), 502),
        (Fault::ResetBeforeHead, 502),
        (Fault::answer(200, &[("content-type", "text/html")], "<html>log in to the hotel</html>"), 502),
        (Fault::Raw(b"SSH-2.0-OpenSSH_9\r\n".to_vec()), 502),
        (Fault::headers(&[("content-encoding", "gzip")]), 502),
    ] {
        let (manifest, blob, _registry) = told(fault.clone()).await;
        for answer in [manifest, blob] {
            let (status, code, message) = answer.error();
            // A web page is no blob either; but that shows only by its hash, in a body that breaks off.
            assert_eq!((status, code.as_str()), (expected, "UNAVAILABLE"), "{fault:?}: {message}");
            assert_eq!(answer.header("www-authenticate"), None);
            assert!(!message.contains("library/redis?") && !message.contains('<'), "{message}");
            assert!(answer.json()["errors"][0]["detail"]["request_id"].is_string());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_is_passed_on_with_a_time_that_clients_can_wait() {
    for (retry_after, expected) in
        [(Some("7"), 7), (None, 30), (Some("1000000000"), 300), (Some("soon"), 30), (Some("0"), 1)]
    {
        let headers: Vec<_> = retry_after.map(|value| ("retry-after", value)).into_iter().collect();
        let (manifest, _, _registry) = told(Fault::answer(429, &headers, "slow down")).await;
        assert_eq!(manifest.code(), (429, "TOOMANYREQUESTS".to_owned()), "{retry_after:?}");
        let told: u64 = manifest.header("retry-after").unwrap().parse().unwrap();
        // What is left of it, by the time that it is told.
        assert!(told <= expected && told + 2 >= expected, "{retry_after:?}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cached_is_served_whatever_the_upstream_says() {
    for fault in [
        Fault::status(401),
        Fault::status(403),
        Fault::status(451),
        Fault::status(503),
        Fault::answer(429, &[("retry-after", "100")], ""),
        Fault::answer(200, &[("content-type", "text/html")], "<html>"),
        Fault::ResetBeforeHead,
        Fault::silence(),
    ] {
        let registry = Registry::open().await;
        let image = Image::new(602, &[100_000]);
        registry.add_image("library/redis", "7", &image);
        let house = House::beside_with(&registry, &[], json!({ "tag_ttl": "0s" })).await;
        house.cache("redis", "7", &image).await;
        registry.always("/v2/", fault.clone());
        for ask in [Ask::get, Ask::head] {
            let started = std::time::Instant::now();
            let answer = house.send(ask(&manifest("redis", "7"))).await;
            assert_eq!((answer.status, answer.cache()), (200, Some("stale")), "{fault:?}");
            // Two seconds of patience with the upstream, and a busy machine.
            assert!(started.elapsed() < Duration::from_secs(6), "{fault:?}: {:?}", started.elapsed());
        }
        house.pull("redis", "7", &image).await;
    }
}

/// What is gone upstream is gone here by its tag. Who knows the digest, and could read it, still can.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_gone_upstream_is_served_by_digest() {
    let image = Image::new(607, &[100_000]);
    let (registry, house) = hub(&image).await;
    house.api("PUT", "/api/repository/docker-remote", &json!({ "tag_ttl": "0s" })).await;
    house.cache("redis", "7", &image).await;
    registry.always("/v2/", Fault::status(404));
    assert_eq!(house.get(&manifest("redis", "7")).await.code(), (404, "MANIFEST_UNKNOWN".to_owned()));
    let by_digest = house.get(&manifest("redis", &image.manifest.digest.to_string())).await;
    assert_eq!((by_digest.status, by_digest.body), (200, image.manifest.bytes.to_vec()));
    for content in image.blobs() {
        assert_eq!(house.get(&blob("redis", content)).await.body, content.bytes);
    }
    let stranger = house.get(&manifest("other", &image.manifest.digest.to_string())).await;
    assert_eq!(stranger.status, 404, "never more than before");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_manifest_is_cut_and_not_kept() {
    let registry = Registry::open().await;
    let large = Content::new(format!("{{\"layers\":[],\"x\":\"{}\"}}", "x".repeat(4 << 20)));
    let fits = Content::new(format!("{{\"layers\":[],\"x\":\"{}\"}}", "x".repeat((4 << 20) - 100)));
    for (name, content) in [("a/large", &large), ("a/fits", &fits)] {
        registry.shelf().add_manifest(name, Image::MEDIA_TYPE, content);
        registry.shelf().tag(name, "1", content.digest);
    }
    let house = House::beside(&registry).await;
    for fault in [Fault::None, Fault::NoLength] {
        registry.script("/v2/a/large/manifests/", [fault]);
        let (status, code, message) = house.get(&manifest("a/large", "1")).await.error();
        assert_eq!((status, code.as_str()), (502, "UNAVAILABLE"));
        assert!(message.contains("longer than"), "{message}");
        tokio::time::sleep(Duration::from_millis(2_100)).await;
    }
    assert_eq!(house.get(&manifest("a/fits", "1")).await.body, fits.bytes);
    assert_eq!(house.get(&manifest("a/fits", "1")).await.cache(), Some("hit"));
}

/// Whatever the upstream claims, the tag and the digest mean the bytes that were received and hashed here.
#[tokio::test(flavor = "multi_thread")]
async fn lies_about_digests_move_no_tag_and_serve_no_bytes() {
    let registry = Registry::open().await;
    let (image, other) = (Image::new(604, &[10]), Image::new(605, &[10]));
    registry.add_image("library/redis", "7", &image);
    let house = House::beside(&registry).await;
    let lie = other.manifest.digest.to_string();
    registry.always("/v2/library/redis/manifests/7", Fault::headers(&[("docker-content-digest", &lie)]));
    assert_eq!(house.get(&manifest("redis", "7")).await.code(), (502, "UNAVAILABLE".to_owned()));
    // By digest, the bytes of another manifest.
    registry.script(
        "GET /v2/library/redis/manifests/sha256",
        [Fault::answer(200, &[("content-type", Image::MEDIA_TYPE)], image.manifest.bytes.to_vec())],
    );
    let third = Image::new(606, &[10]).manifest.digest.to_string();
    let asked = house.get(&manifest("redis", &third)).await;
    assert_eq!(asked.code(), (502, "UNAVAILABLE".to_owned()));
    let listed = house.get("/api/images").await.json();
    assert_eq!(listed, json!({ "images": [] }), "nothing of it is kept");
}
