//! That a setting is more than a line of `check-config`: each is shown by what a server does with it.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::client::Ask;
use super::house::{House, Settings, blob, hub_with, manifest, push, put_manifest};
use super::support::image::Image;
use super::support::patience::found;
use super::support::upstream::{Options, Registry};

#[tokio::test(flavor = "multi_thread")]
async fn max_connections_lets_nobody_in_until_somebody_goes() {
    let house = House::with(&[("server.max_connections", "1")]).await;
    let mut held = TcpStream::connect(house.address).await.unwrap();
    held.write_all(b"GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert!(held.read(&mut [0; 4096]).await.unwrap() > 0, "the one that may be is answered");
    let second = house.get("/v2/");
    tokio::pin!(second);
    let answered = timeout(Duration::from_millis(500), &mut second).await;
    assert!(answered.is_err(), "a second one was answered beside the first");
    drop(held);
    assert_eq!(second.await.status, 200);
}

/// The disk is first looked at a moment after the start.
async fn limit_is(house: &House, bytes: u64) {
    let told = async || (house.metric("binaryrepo_cache_limit_bytes").await == bytes).then_some(());
    found("the limit is in force", told).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn max_size_makes_room_by_letting_the_oldest_go() {
    let registry = Registry::open().await;
    let house = House::beside_with(&registry, &[("storage.max_size", "500KiB")], json!({})).await;
    let images = [1, 2, 3, 4].map(|seed| Image::new(1300 + seed, &[200_000]));
    for (tag, image) in ["1", "2", "3", "4"].into_iter().zip(&images) {
        registry.add_image("library/redis", tag, image);
        house.cache("redis", tag, image).await;
    }
    let layer = |image: &Image| blob("redis", &image.layers[0]);
    limit_is(&house, 500 << 10).await;
    let fits = async || (house.metric("binaryrepo_cache_bytes").await <= 500 << 10).then_some(());
    found("what lies here is within the limit", fits).await;
    assert_eq!(house.get(&layer(&images[3])).await.cache(), Some("hit"));
    assert_eq!(house.get(&layer(&images[0])).await.cache(), Some("miss"), "it had to go");
}

/// More than any disk has.
#[tokio::test(flavor = "multi_thread")]
async fn min_free_leaves_the_disk_to_others() {
    let image = Image::new(1310, &[200_000]);
    let (_registry, house) = hub_with(&image, Options::default(), &[("storage.min_free", "1024TiB")]).await;
    limit_is(&house, 0).await;
    assert_eq!(house.get(&manifest("redis", "7")).await.status, 200);
    for _ in 0..2 {
        let answer = house.get(&blob("redis", &image.layers[0])).await;
        assert_eq!(answer.body, image.layers[0].bytes);
        assert_ne!(answer.cache(), Some("hit"));
        house.settled().await;
        let gone = async || (house.metric("binaryrepo_cache_bytes").await == 0).then_some(());
        found("nothing of it stays", gone).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gc_untagged_takes_manifests_that_nothing_names() {
    let (old, new) = (Image::new(1320, &[900]), Image::new(1321, &[900]));
    for (untagged, status) in [("false", 200), ("true", 404)] {
        let settings: Settings<'_> = &[("storage.gc_grace", "0s"), ("storage.gc_untagged", untagged)];
        let house = House::with(settings).await;
        let name = "docker-local/team/app";
        push(house.address, name, "7", &old).await;
        push(house.address, name, "7", &new).await;
        assert_eq!(house.send(Ask::new("POST", "/api/gc")).await.status, 200);
        let left = house.get(&format!("/v2/{name}/manifests/{}", old.manifest.digest)).await;
        assert_eq!(left.status, status, "gc_untagged = {untagged}: {}", left.all());
        // What a tag names stays whatever is set.
        put_manifest(house.address, name, "8", (Image::MEDIA_TYPE, &new.manifest)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn base_domains_are_what_a_repository_has_its_host_under() {
    let image = Image::new(1330, &[900]);
    let (empty, quay) = (Registry::open().await, Registry::open().await);
    quay.add_image("team/app", "7", &image);
    // What no host chooses goes to the default mirror, which does not have it.
    let house = House::beside_with(&empty, &[("server.base_domains", "x.test,y.test")], json!({})).await;
    house.add_remote("quay", &quay, json!({})).await;
    let ask = async |host: &str| house.send(Ask::get("/v2/team/app/manifests/7").host(host)).await;
    for host in ["quay.x.test", "quay.y.test:8081"] {
        assert_eq!(ask(host).await.body, image.manifest.bytes, "{host}");
    }
    for host in ["quay.localhost", "quay.binaryrepo.local", "x.test"] {
        assert_eq!(ask(host).await.status, 404, "{host}");
    }
}
