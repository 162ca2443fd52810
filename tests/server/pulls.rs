//! Pulls as clients do them: tags, manifests of every kind, several architectures, digests of either algorithm.

use std::time::Duration;

use binaryrepo::names::{Algorithm, Digest};
use serde_json::json;

use super::client::Ask;
use super::house::{House, blob, hub, manifest};
use super::support::fault::{Fault, Gate};
use super::support::image::{Content, Image, Index};
use super::support::patience::found;
use super::support::upstream::{Options, Registry};

/// dockerd asks by HEAD, then by the digest that it was told; containerd the same without the ping; podman by tag.
#[tokio::test(flavor = "multi_thread")]
async fn a_head_and_the_get_by_its_digest_go_together() {
    let image = Image::new(1301, &[50_000]);
    let (registry, house) = hub(&image).await;
    let head = house.head(&manifest("redis", "7")).await;
    let digest = head.header("docker-content-digest").unwrap().to_owned();
    assert_eq!(digest, image.manifest.digest.to_string());
    assert_eq!(head.header("content-type"), Some(Image::MEDIA_TYPE));
    let got = house.get(&manifest("redis", &digest)).await;
    assert_eq!(got.body, image.manifest.bytes);
    assert_eq!(got.header("etag"), Some(format!("\"{digest}\"").as_str()));
    for content in image.blobs() {
        let answer = house.get(&blob("redis", content)).await;
        assert_eq!(answer.header("docker-content-digest"), Some(content.digest.to_string().as_str()));
        assert_eq!(answer.header("content-type"), Some("application/octet-stream"));
        assert_eq!(answer.header("accept-ranges"), Some("bytes"));
        assert_eq!(answer.header("cache-control"), Some("max-age=31536000"));
    }
    // What Docker Hub counts as a pull is a GET of a manifest: one, however the image was asked for.
    assert_eq!(house.get(&manifest("redis", "7")).await.cache(), Some("hit"));
    assert_eq!(registry.asked("GET /v2/library/redis/manifests/").len(), 1);
    assert_eq!(registry.asked("HEAD /v2/library/redis/manifests/").len(), 1);
}

/// There is one representation of a digest: nothing is converted, and nobody is refused for what they accept.
#[tokio::test(flavor = "multi_thread")]
async fn manifests_are_served_byte_for_byte_whatever_is_accepted() {
    let registry = Registry::open().await;
    let house = House::beside(&registry).await;
    let odd = "{ \"schemaVersion\":2,\r\n\t\"layers\" : [ ],\n \"x\":\"\u{fc}\\u00fc\", \"x\": 1.0e2 }\n\n";
    for (number, media_type) in [
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        "application/vnd.example.artifact+json",
    ]
    .into_iter()
    .enumerate()
    {
        let content = Content::new(odd.replace("1.0e2", &number.to_string()));
        registry.shelf().add_manifest("a/b", media_type, &content);
        registry.shelf().tag("a/b", &format!("t{number}"), content.digest);
        for accept in
            ["", "*/*", "text/plain", "application/vnd.docker.distribution.manifest.v1+json", media_type]
        {
            for reference in [format!("t{number}"), content.digest.to_string()] {
                let ask = Ask::get(&manifest("a/b", &reference));
                let ask = if accept.is_empty() { ask } else { ask.header("Accept", accept) };
                let answer = house.send(ask).await;
                assert_eq!(
                    (answer.status, answer.header("content-type")),
                    (200, Some(media_type)),
                    "{accept}"
                );
                assert_eq!(answer.body, content.bytes, "{media_type}");
            }
        }
    }
    let asked = registry.asked("/manifests/t0");
    let accepted = asked[0].header("accept").unwrap();
    for part in ["image.index", "image.manifest", "manifest.list.v2", "distribution.manifest.v2"] {
        assert!(accepted.contains(part), "{accepted}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_architectures_only_the_one_that_is_asked_for_is_fetched() {
    let registry = Registry::open().await;
    let index = Index::new(1302, &["amd64", "arm64", "riscv64"], &[50_000]);
    registry.add_index("library/redis", "7", &index);
    let house = House::beside(&registry).await;
    let got = house.get(&manifest("redis", "7")).await;
    assert_eq!(
        (got.header("content-type"), &got.body[..]),
        (Some(Index::MEDIA_TYPE), &index.manifest.bytes[..])
    );
    let arm = &index.images[1];
    house.cache("redis", &arm.manifest.digest.to_string(), arm).await;
    for other in [&index.images[0], &index.images[2]] {
        assert!(registry.asked(&other.manifest.digest.to_string()).is_empty());
        assert!(other.blobs().all(|content| registry.asked(&content.digest.to_string()).is_empty()));
    }
}

/// A digest is its own identity, algorithm and all.
#[tokio::test(flavor = "multi_thread")]
async fn digests_of_either_algorithm_are_answered_as_they_were_asked() {
    let registry = Registry::open().await;
    let house = House::beside(&registry).await;
    let by_512 =
        |bytes: Vec<u8>| Content { digest: Digest::of(Algorithm::Sha512, &bytes), bytes: bytes.into() };
    let layer = by_512(Content::random(1303, 100_000).bytes.to_vec());
    let document = json!({ "schemaVersion": 2, "layers": [
        { "mediaType": "application/octet-stream", "digest": layer.digest.to_string(), "size": layer.bytes.len() },
    ]});
    let document = by_512(document.to_string().into_bytes());
    registry.shelf().add_blob("a/b", &layer);
    registry.shelf().add_manifest("a/b", Image::MEDIA_TYPE, &document);
    for _ in ["cold", "cached"] {
        let got = house.get(&manifest("a/b", &document.digest.to_string())).await;
        assert_eq!(got.body, document.bytes);
        assert_eq!(got.header("docker-content-digest"), Some(document.digest.to_string().as_str()));
        let got = house.get(&blob("a/b", &layer)).await;
        assert_eq!(got.body, layer.bytes);
        assert_eq!(got.header("docker-content-digest"), Some(layer.digest.to_string().as_str()));
    }
    // The same bytes under the other name are other content, until somebody shows that they are there.
    let other = Digest::of(Algorithm::Sha256, &layer.bytes);
    let answer = house.get(&format!("/v2/docker-remote/a/b/blobs/{other}")).await;
    assert_eq!(answer.code(), (404, "BLOB_UNKNOWN".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_is_asked_for_again_after_its_time_and_by_one_head_for_many() {
    let image = Image::new(1304, &[10]);
    let (registry, house) = hub(&image).await;
    house.get(&manifest("redis", "7")).await;
    registry.forget();
    for _ in 0..5 {
        assert_eq!(house.get(&manifest("redis", "7")).await.cache(), Some("hit"));
    }
    assert!(registry.log().is_empty(), "it is fresh for a minute");
    // Nothing stale: else they would not wait for longer than two seconds.
    let change = json!({ "tag_ttl": "0s", "stale_if_error": "0s" });
    assert_eq!(house.api("PUT", "/api/repository/docker-remote", &change).await.status, 200);
    let gate = Gate::closed();
    registry.script("HEAD", [Fault::Hold(gate.clone())]);
    let path = manifest("redis", "7");
    let opens = async {
        let all = async || (house.metric("binaryrepo_waiters").await == 50).then_some(());
        found("all of them wait", all).await;
        gate.open();
    };
    let asked = futures_util::future::join_all((0..50).map(|_| house.get(&path)));
    let (answers, ()) = tokio::join!(asked, opens);
    assert!(answers.iter().all(|answer| answer.cache() == Some("revalidated")));
    assert_eq!(registry.asked("HEAD /v2/library/redis/manifests/7").len(), 1);
    assert!(registry.asked("GET").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_went_upstream_is_gone_here() {
    let image = Image::new(1305, &[10]);
    let (registry, house) = hub(&image).await;
    house
        .api("PUT", "/api/repository/docker-remote", &json!({ "tag_ttl": "0s", "negative_ttl": "300ms" }))
        .await;
    house.cache("redis", "7", &image).await;
    registry.shelf().untag("library/redis", "7");
    let gone = house.get(&manifest("redis", "7")).await;
    assert_eq!((gone.code(), gone.cache()), ((404, "MANIFEST_UNKNOWN".to_owned()), Some("miss")));
    let by_digest = house.get(&manifest("redis", &image.manifest.digest.to_string())).await;
    assert_eq!(by_digest.status, 200, "a digest names its bytes for ever");
    registry.add_image("library/redis", "7", &image);
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(house.get(&manifest("redis", "7")).await.status, 200, "and it may come back");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_cost_one_fetch_and_all_get_the_bytes() {
    let registry = Registry::start(Options { line_rate: Some(1 << 20), ..Options::default() }).await;
    let image = Image::new(1306, &[1 << 20]);
    registry.add_image("library/redis", "7", &image);
    let house = House::beside(&registry).await;
    let layer = &image.layers[0];
    let (tag, path) = (manifest("redis", "7"), blob("redis", layer));
    let clients = (0..100).map(|number: u64| {
        let (house, tag, path) = (&house, &tag, &path);
        async move {
            tokio::time::sleep(Duration::from_millis(number * 15)).await;
            assert_eq!(house.get(tag).await.status, 200);
            // Some leave, and some want a part only.
            match number % 10 {
                7 => drop(Ask::get(path).open(house.address).await),
                8 => {
                    let part = house.send(Ask::get(path).header("Range", "bytes=1000-1999")).await;
                    assert_eq!(part.body, layer.bytes[1000..2000]);
                }
                _ => {
                    let whole = house.get(path).await;
                    assert!(whole.is_whole() && whole.body == layer.bytes);
                }
            }
        }
    });
    futures_util::future::join_all(clients).await;
    let seen = registry.asked(&layer.digest.to_string());
    assert_eq!((seen.len(), seen[0].bytes_sent), (1, 1 << 20));
}

/// From memory to the socket by the kernel, by us for whoever asks through a proxy, and from a disk that must be waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_cached_blob_is_the_same_whichever_way_it_takes() {
    let image = Image::new(1307, &[(3 << 20) + 4_321]);
    let (_registry, house) = hub(&image).await;
    house.cache("redis", "7", &image).await;
    let layer = &image.layers[0];
    let path = blob("redis", layer);
    let proxied = |ask: Ask| ask.header("X-Forwarded-For", "192.0.2.1");
    let from_the_disk = |ask: Ask| {
        let hex = layer.digest.hex();
        let file =
            std::fs::File::open(house.dir.path().join("cas/sha256").join(&hex[..2]).join(hex)).unwrap();
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        ask
    };
    let ways: [&dyn Fn(Ask) -> Ask; 3] = [&|ask| ask, &proxied, &from_the_disk];
    for (number, way) in ways.iter().enumerate() {
        let whole = house.send(way(Ask::get(&path))).await;
        assert_eq!((whole.status, whole.cache()), (200, Some("hit")));
        assert!(whole.is_whole() && whole.body == layer.bytes, "way {number}");
        for (from, to) in [(0, 65_536), (1, 200_000), (65_535, 3 << 20), (3 << 20, layer.bytes.len())] {
            let range = format!("bytes={from}-{}", to - 1);
            let part = house.send(way(Ask::get(&path).header("Range", &range))).await;
            assert_eq!(part.status, 206);
            assert!(part.is_whole() && part.body == layer.bytes[from..to], "way {number}, {range}");
        }
    }
}
