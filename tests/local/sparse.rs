//! Sparse manifests: where they are wanted, what an image lacks is no obstacle, gives no right to anything, and takes its
//! place when it comes.

use std::sync::Arc;

use binaryrepo::meta::{HolderRow, MetaExt as _};
use binaryrepo::names::Digest;
use serde_json::json;

use super::client::Ask;
use super::house::House;
use super::pusher::{Pusher, blob, manifest, tags};
use super::rig::{Disk, Ledger, Mood};
use super::support::image::{Content, Image, Index};
use super::support::patience::found;
use super::workshop::Workshop;

async fn wanted(client: Pusher, on: bool) {
    let put = Ask::new("PUT", "/api/repository/docker-local").json(&json!({ "sparse_manifests": on }));
    let answer = client.send(put).await;
    assert_eq!((answer.status, &answer.json()["sparse_manifests"]), (200, &json!(on)), "{}", answer.all());
}

async fn push(client: Pusher, name: &str, reference: &str, (media_type, content): (&str, &Content)) -> u16 {
    client.manifest(name, reference, media_type, &content.bytes).await.status
}

/// Neither shown nor removed: it is not there.
async fn lacks(client: Pusher, target: &str, code: &str) {
    assert_eq!(client.get(target).await.code(), (404, code.to_owned()), "{target}");
    assert_eq!(client.send(Ask::head(target)).await.status, 404, "{target}");
    assert_eq!(client.send(Ask::new("DELETE", target)).await.code(), (404, code.to_owned()), "{target}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_pushed_is_no_obstacle_where_that_is_wanted() {
    let house = House::new().await;
    let client = Pusher(house.address);
    let index = Index::new(1, &["amd64", "arm64"], &[300, 400]);
    let [here, elsewhere] = [&index.images[0], &index.images[1]];
    let (v1, all) = ((Image::MEDIA_TYPE, &here.manifest), (Index::MEDIA_TYPE, &index.manifest));
    // Another image has everything: that is not this image's.
    for image in &index.images {
        client.image("full", &image.architecture, image).await;
    }
    for content in [&here.config, &here.layers[0]] {
        assert_eq!(client.blob("part", content).await.status, 201);
    }
    for (tag, what) in [("v1", v1), ("all", all)] {
        assert_eq!(push(client, "part", tag, what).await, 400);
        lacks(client, &manifest("part", tag), "MANIFEST_UNKNOWN").await;
    }

    wanted(client, true).await;
    for (tag, what) in [("v1", v1), ("all", all)] {
        assert_eq!(push(client, "part", tag, what).await, 201);
    }
    let house = house.restart().await;
    let client = Pusher(house.address);
    let pulled = async || {
        for (reference, (media_type, content)) in [("v1", v1), ("all", all)] {
            let answer = client.get(&manifest("part", reference)).await;
            assert_eq!((answer.status, &answer.body[..]), (200, &content.bytes[..]));
            assert_eq!(answer.header("content-type"), Some(media_type));
        }
        for content in [&here.config, &here.layers[0]] {
            assert_eq!(client.get(&blob("part", &content.digest)).await.body, content.bytes);
        }
        lacks(client, &blob("part", &here.layers[1].digest), "BLOB_UNKNOWN").await;
        lacks(client, &blob("part", &elsewhere.manifest.digest), "BLOB_UNKNOWN").await;
        lacks(client, &manifest("part", &elsewhere.manifest.digest.to_string()), "MANIFEST_UNKNOWN").await;
        assert_eq!(client.get(&tags("part")).await.json()["tags"], json!(["all", "v1"]));
    };
    pulled().await;
    // What there is must be as it is named.
    let text = String::from_utf8(here.manifest.bytes.to_vec()).unwrap();
    let wrong = text.replace("\"size\":300", "\"size\":301");
    let answer = client.manifest("part", "wrong", Image::MEDIA_TYPE, wrong.as_bytes()).await;
    assert_eq!(answer.code(), (400, "SIZE_INVALID".to_owned()));

    // What is there stays; what comes is looked at again.
    wanted(client, false).await;
    pulled().await;
    assert_eq!(push(client, "part", "v2", v1).await, 400);
    client.image("part", "v2", here).await;
    client.pull("part", "v1", here).await;
    assert_eq!(push(client, "part", "all", all).await, 400);
}

/// By its digest alone, anybody could otherwise find out what lies in images that are not theirs.
#[tokio::test(flavor = "multi_thread")]
async fn the_size_of_a_sparse_index_tells_nothing_of_other_images() {
    let house = House::new().await;
    let client = Pusher(house.address);
    wanted(client, true).await;
    let index = Index::new(2, &["amd64", "arm64"], &[70_000]);
    let [own, private] = [&index.images[0], &index.images[1]];
    client.image("private", "1", private).await;
    assert_eq!(push(client, "team", "own", (Image::MEDIA_TYPE, &own.manifest)).await, 201);
    assert_eq!(push(client, "team", "all", (Index::MEDIA_TYPE, &index.manifest)).await, 201);

    let shown = client.get("/api/images/docker-local/team").await.json();
    let here = own.manifest.size() + index.manifest.size();
    assert_eq!((&shown["manifests"], &shown["blobs"], &shown["bytes"]), (&json!(2), &json!(0), &json!(here)));
    let bytes = |tag: &str| {
        let tags = shown["tags"].as_array().unwrap();
        tags.iter().find(|one| one["tag"] == tag).unwrap()["bytes"].as_u64().unwrap()
    };
    let needs = own.manifest.size() + own.blobs().map(Content::size).sum::<u64>();
    assert_eq!(bytes("own"), needs, "what a pull needs, wherever it comes from");
    assert_eq!(bytes("all"), index.manifest.size() + needs + private.manifest.size());
}

fn stamp(ledger: &Ledger, digest: &Digest) -> u64 {
    let holders = ledger.scan::<HolderRow>(digest, None, 10).unwrap();
    let [(_, holder)] = &holders[..] else { panic!("{digest} is held by {holders:?}") };
    holder.stamp
}

/// A server that takes sparse manifests, what its metadata goes through, and a client.
async fn sparse() -> (Workshop, Arc<Ledger>, Pusher) {
    let dir = tempfile::tempdir().unwrap();
    let (server, ledger) = Workshop::open(dir, Disk::default(), |meta| Arc::new(Ledger::over(meta))).await;
    let client = Pusher(server.address);
    wanted(client, true).await;
    (server, ledger, client)
}

/// A cleanup that looked before the manifest was there may be about to take what has just come: the manifest must not
/// become visible beside it without holding it.
#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_comes_or_goes_while_its_manifest_is_written_is_noticed() {
    let (server, ledger, client) = sparse().await;
    for (seed, comes) in [(3, true), (4, false)] {
        let image = Image::new(seed, &[500]);
        let layer = &image.layers[0];
        assert_eq!(client.blob("app", &image.config).await.status, 201);
        if !comes {
            assert_eq!(client.blob("app", layer).await.status, 201);
        }
        ledger.is(Mood::HoldsUnlinking);
        let mut before = 0;
        let meanwhile = async {
            found("the manifest is held", async || (ledger.held() == 1).then_some(())).await;
            if comes {
                assert_eq!(client.blob("app", layer).await.status, 201);
                before = stamp(&ledger, &layer.digest);
                ledger.is(Mood::Well);
            } else {
                // Held as well, and let go first or last: both end in the same.
                let target = blob("app", &layer.digest);
                let delete = client.send(Ask::new("DELETE", &target));
                let release = async {
                    found("the deletion is held", async || (ledger.held() == 2).then_some(())).await;
                    ledger.is(Mood::Well);
                };
                assert_eq!(tokio::join!(delete, release).0.status, 202);
            }
        };
        let (status, ()) =
            tokio::join!(push(client, "app", "1", (Image::MEDIA_TYPE, &image.manifest)), meanwhile);
        assert_eq!(status, 201);
        assert_eq!(client.get(&manifest("app", "1")).await.body, image.manifest.bytes);
        if comes {
            client.pull("app", "1", &image).await;
            assert!(stamp(&ledger, &layer.digest) > before, "the manifest holds what came meanwhile");
        } else {
            lacks(client, &blob("app", &layer.digest), "BLOB_UNKNOWN").await;
        }
    }
    server.stop().await;
}

/// One after the other, they come between a look at the image and the commit that rests on it.
#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_is_taken_while_all_that_it_names_arrives() {
    let (server, ledger, client) = sparse().await;
    let image = Image::new(5, &[100; 20]);
    assert_eq!(client.blob("app", &image.config).await.status, 201);
    ledger.is(Mood::HoldsUnlinking);
    let meanwhile = async {
        for layer in &image.layers {
            found("the manifest is held", async || (ledger.held() == 1).then_some(())).await;
            assert_eq!(client.blob("app", layer).await.status, 201);
            ledger.let_go();
        }
        ledger.is(Mood::Well);
    };
    let pushed = push(client, "app", "1", (Image::MEDIA_TYPE, &image.manifest));
    assert_eq!(tokio::join!(pushed, meanwhile).0, 201);
    client.pull("app", "1", &image).await;
    server.stop().await;
}
