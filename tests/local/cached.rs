//! Pushed beside cached: the same digest may come both ways, in any order, and what was pushed stays.

use serde_json::json;

use super::client::Ask;
use super::house::House;
use super::pusher::{Pusher, blob, manifest};
use super::support::fault::{Fault, Gate};
use super::support::image::Image;
use super::support::upstream::Registry;

#[tokio::test(flavor = "multi_thread")]
async fn a_push_during_a_fetch_of_the_same_blob() {
    let registry = Registry::open().await;
    let image = Image::new(1, &[2 << 20]);
    registry.add_image("a/b", "1", &image);
    let gate = Gate::closed();
    registry.script("/blobs/", [Fault::HoldAt(1 << 20, gate.clone())]);
    let house = House::beside(&registry).await;
    let client = Pusher(house.address);
    let layer = image.layers[0].clone();
    client.get("/v2/docker-remote/a/b/manifests/1").await;
    let target = format!("/v2/docker-remote/a/b/blobs/{}", layer.digest);
    let mut pull = Ask::get(&target).open(house.address).await;
    pull.until(1).await;
    client.image("mine", "v1", &image).await;
    client.pull("mine", "v1", &image).await;
    gate.open();
    assert_eq!(pull.rest().await.body, layer.bytes);
    // The fetch has ended after the push, and has not made it a cached copy.
    house.settled().await;
    let purged = house.api("DELETE", "/api/repository/docker-remote?purge=true", &json!({})).await;
    assert_eq!(purged.status, 204, "{}", purged.all());
    let house = house.restart().await;
    Pusher(house.address).pull("mine", "v1", &image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pushed_content_is_never_evicted_and_serves_remotes_too() {
    let registry = Registry::open().await;
    let mine = Image::new(2, &[300_000]);
    registry.add_image("a/mine", "1", &mine);
    let others: Vec<Image> = (10..16).map(|seed| Image::new(seed, &[300_000])).collect();
    for (number, image) in others.iter().enumerate() {
        registry.add_image(&format!("a/n{number}"), "1", image);
    }
    let settings = [("storage.max_size", "1MB"), ("storage.min_free", "0")];
    let house = House::beside_with(&registry, &settings, json!({})).await;
    let client = Pusher(house.address);
    // Cached first, then pushed: from then on it is nobody's to evict.
    house.pull("a/mine", "1", &mine).await;
    client.image("mine", "v1", &mine).await;
    for (number, image) in others.iter().enumerate() {
        house.pull(&format!("a/n{number}"), "1", image).await;
    }
    client.pull("mine", "v1", &mine).await;
    let before = registry.asked("/blobs/").len();
    house.pull("a/mine", "1", &mine).await;
    assert_eq!(registry.asked("/blobs/").len(), before, "what was pushed is not fetched again");
}

/// The manifest of a remote may be dropped from memory and disk; the same bytes, pushed, may not.
#[tokio::test(flavor = "multi_thread")]
async fn a_purge_of_a_remote_leaves_pushed_manifests() {
    let registry = Registry::open().await;
    let image = Image::new(3, &[1000]);
    registry.add_image("a/b", "1", &image);
    let house = House::beside(&registry).await;
    let client = Pusher(house.address);
    house.pull("a/b", "1", &image).await;
    client.image("mine", "v1", &image).await;
    let all = json!({ "repository": "docker-remote", "all": true });
    let answer = house.api("POST", "/api/purge", &all).await;
    assert_eq!(answer.status, 200, "{}", answer.all());
    let house = house.restart().await;
    let client = Pusher(house.address);
    client.pull("mine", "v1", &image).await;
    assert_eq!(client.get(&manifest("mine", "v1")).await.body, image.manifest.bytes);
    assert_eq!(client.get(&blob("mine", &image.config.digest)).await.status, 200);
}
