//! Deletions: visible at once, and no more than was asked for.

use binaryrepo::names::{Algorithm, Digest};
use serde_json::json;

use super::client::Ask;
use super::house::House;
use super::pusher::{Pusher, blob, manifest, tags};
use super::support::image::Image;

async fn delete(client: Pusher, target: &str) -> u16 {
    client.send(Ask::new("DELETE", target)).await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_goes_alone_and_a_manifest_with_all_its_tags() {
    let house = House::new().await;
    let client = Pusher(house.address);
    let (one, two) = (Image::new(1, &[10]), Image::new(2, &[10]));
    for tag in ["a", "b", "c"] {
        client.image("del", tag, &one).await;
    }
    client.image("del", "z", &two).await;
    assert_eq!(delete(client, &manifest("del", "a")).await, 202);
    assert_eq!(client.get(&manifest("del", "a")).await.code(), (404, "MANIFEST_UNKNOWN".to_owned()));
    assert_eq!(delete(client, &manifest("del", "a")).await, 404);
    client.pull("del", "b", &one).await;
    let digest = one.manifest.digest.to_string();
    assert_eq!(delete(client, &manifest("del", &digest)).await, 202);
    for reference in ["b", "c", digest.as_str()] {
        assert_eq!(client.send(Ask::head(&manifest("del", reference))).await.status, 404);
    }
    assert_eq!(delete(client, &manifest("del", &digest)).await, 404);
    assert_eq!(client.get(&tags("del")).await.json()["tags"], json!(["z"]));
    client.pull("del", "z", &two).await;
    // Its blobs are the image's still: a push of it again sends only the manifest.
    let answer = client.manifest("del", "b", Image::MEDIA_TYPE, &one.manifest.bytes).await;
    assert_eq!(answer.status, 201);
    client.pull("del", "b", &one).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_goes_from_its_image_only() {
    let house = House::new().await;
    let client = Pusher(house.address);
    let image = Image::new(3, &[100, 200_000]);
    client.image("here", "v1", &image).await;
    client.image("there", "v1", &image).await;
    for layer in &image.layers {
        assert_eq!(client.get(&blob("here", &layer.digest)).await.status, 200);
        assert_eq!(delete(client, &blob("here", &layer.digest)).await, 202);
        assert_eq!(client.get(&blob("here", &layer.digest)).await.code(), (404, "BLOB_UNKNOWN".to_owned()));
        assert_eq!(client.send(Ask::head(&blob("here", &layer.digest))).await.status, 404);
        assert_eq!(delete(client, &blob("here", &layer.digest)).await, 404);
    }
    client.pull("there", "v1", &image).await;
    let answer = client.manifest("here", "v2", Image::MEDIA_TYPE, &image.manifest.bytes).await;
    assert_eq!(answer.status, 400, "what it names is gone from here");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_is_no_blob() {
    let house = House::new().await;
    let client = Pusher(house.address);
    let image = Image::new(4, &[10]);
    client.image("both", "v1", &image).await;
    assert_eq!(delete(client, &blob("both", &image.manifest.digest)).await, 404);
    assert_eq!(client.get(&blob("both", &image.manifest.digest)).await.status, 404);
    assert_eq!(delete(client, &manifest("both", &image.config.digest.to_string())).await, 404);
    client.pull("both", "v1", &image).await;
    // The same bytes as both, and each is served as what it is asked for.
    assert_eq!(client.blob("both", &image.manifest).await.status, 201);
    assert_eq!(client.get(&blob("both", &image.manifest.digest)).await.body, image.manifest.bytes);
    client.pull("both", "v1", &image).await;
}

/// A tag that is set while its manifest is deleted: either it is deleted too, or the manifest is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_tag_never_dangles() {
    let house = House::new().await;
    let client = Pusher(house.address);
    let image = Image::new(5, &[10]);
    client.image("race", "first", &image).await;
    let digest = image.manifest.digest.to_string();
    for round in 0..40 {
        let (bytes, target) = (image.manifest.bytes.clone(), manifest("race", &digest));
        let put = tokio::spawn(async move {
            client.manifest("race", &format!("t{round}"), Image::MEDIA_TYPE, &bytes).await.status
        });
        let deleted = tokio::spawn(async move { delete(client, &target).await });
        assert_eq!(put.await.unwrap(), 201);
        assert!(matches!(deleted.await.unwrap(), 202 | 404));
        let there = client.get(&manifest("race", &digest)).await.status == 200;
        let listed = client.get(&tags("race")).await;
        let listed = listed.json()["tags"].as_array().unwrap().clone();
        assert!(there || listed.is_empty(), "{round}: {listed:?} of a manifest that is gone");
        for tag in &listed {
            client.pull("race", tag.as_str().unwrap(), &image).await;
        }
    }
}

/// A manifest that is pushed while what it names is deleted: refused, or whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_never_becomes_visible_without_its_layers() {
    let house = House::new().await;
    let client = Pusher(house.address);
    let image = Image::new(6, &[10]);
    for round in 0..40 {
        for content in image.blobs() {
            assert_eq!(client.blob("gap", content).await.status, 201);
        }
        let (bytes, target) = (image.manifest.bytes.clone(), blob("gap", &image.layers[0].digest));
        let tag = format!("t{round}");
        let put =
            tokio::spawn(async move { client.manifest("gap", &tag, Image::MEDIA_TYPE, &bytes).await.status });
        let deleted = tokio::spawn(async move { delete(client, &target).await });
        let (put, deleted) = (put.await.unwrap(), deleted.await.unwrap());
        assert_eq!(deleted, 202);
        assert!(matches!(put, 201 | 400), "{put}");
        assert_eq!(client.get(&manifest("gap", &format!("t{round}"))).await.status == 200, put == 201);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_with_content_goes_only_on_purpose() {
    let house = House::new().await;
    let client = Pusher(house.address);
    let image = Image::new(7, &[10]);
    client.image("gone", "v1", &image).await;
    let begun = client.begin("gone").await;
    assert_eq!(house.api("DELETE", "/api/repository/docker-local", &json!({})).await.status, 409);
    assert_eq!(house.api("DELETE", "/api/repository/docker-local?purge=true", &json!({})).await.status, 204);
    let again = json!({ "name": "docker-local", "repo_type": "local" });
    assert_eq!(house.api("POST", "/api/repository", &again).await.status, 201);
    // The namesake shows nothing of the former one, nor goes on with its uploads.
    for target in [manifest("gone", "v1"), blob("gone", &image.config.digest), tags("gone"), begun] {
        assert_eq!(client.get(&target).await.status, 404, "{target}");
    }
    client.image("gone", "v2", &image).await;
    client.pull("gone", "v2", &image).await;
    let absent = Digest::of(Algorithm::Sha256, b"absent");
    assert_eq!(delete(client, &blob("gone", &absent)).await, 404);
}
