//! What a path means is worked out once by each thread that serves, and anew after each change; an answer is given again
//! as long as it would be the same. All is one thread here.

use std::time::Duration;

use serde_json::json;

use super::client::Ask;
use super::house::{House, push};
use super::support::fault::Fault;
use super::support::image::Image;
use super::support::upstream::Registry;

const PATH: &str = "/v2/one/app/manifests/1";

/// A registry with one image, under both of the names that the path may mean.
async fn registry(image: &Image) -> Registry {
    let registry = Registry::open().await;
    registry.add_image("app", "1", image);
    registry.add_image("one/app", "1", image);
    registry
}

/// Once for whoever fetches it, once to learn what was asked, once to keep its answer, and twice more by what was kept.
const TIMES: usize = 5;

impl House {
    async fn shows(&self, ask: impl Fn() -> Ask, image: &Image) {
        for _ in 0..TIMES {
            let answer = self.send(ask()).await;
            assert_eq!(answer.body, image.manifest.bytes, "{}", answer.all());
        }
    }
}

#[tokio::test]
async fn a_path_means_what_its_host_says() {
    let images = [Image::new(301, &[10]), Image::new(302, &[10])];
    let registries = [registry(&images[0]).await, registry(&images[1]).await];
    let house = House::new().await;
    for (name, registry) in ["one", "two"].into_iter().zip(&registries) {
        house.add_remote(name, registry, json!({})).await;
    }
    for _ in 0..2 {
        house.shows(|| Ask::get(PATH).host("two.localhost"), &images[1]).await;
        house.shows(|| Ask::get(PATH), &images[0]).await;
        for _ in 0..TIMES {
            let head = house.head(PATH).await;
            assert_eq!((head.status, head.body.len()), (200, 0));
            let digest = head.header("docker-content-digest").unwrap();
            assert_eq!(digest, images[0].manifest.digest.to_string());
        }
        // A query may say something else, and is read.
        let elsewhere = house.get(&format!("{PATH}?ns=docker.io")).await;
        assert_eq!(elsewhere.code(), (404, "NAME_UNKNOWN".to_owned()), "{}", elsewhere.all());
    }
}

#[tokio::test]
async fn a_path_means_something_else_after_each_change() {
    let images = [303, 304, 305].map(|seed| Image::new(seed, &[10]));
    let (first, second) = (registry(&images[0]).await, registry(&images[1]).await);
    let house = House::new().await;
    let shown = || Ask::get(PATH);
    assert_eq!(house.api("DELETE", "/api/repository/docker-remote", &json!({})).await.status, 204);
    house.add_remote("mirror", &first, json!({ "default_mirror": true })).await;
    house.shows(shown, &images[0]).await;
    // A repository of that name comes before the default mirror.
    house.add_remote("one", &second, json!({})).await;
    house.shows(shown, &images[1]).await;
    let third = registry(&images[2]).await;
    let moved = json!({ "remote_url": third.url().as_str() });
    assert_eq!(house.api("PUT", "/api/repository/one", &moved).await.status, 200);
    house.shows(shown, &images[2]).await;
    assert_eq!(house.api("DELETE", "/api/repository/one", &json!({})).await.status, 204);
    house.shows(shown, &images[0]).await;
    assert_eq!(house.api("DELETE", "/api/repository/mirror", &json!({})).await.status, 204);
    assert_eq!(house.send(shown()).await.code(), (404, "NAME_UNKNOWN".to_owned()));
}

#[tokio::test]
async fn an_answer_is_given_again_until_its_image_changes() {
    const TAG: &str = "/v2/docker-local/app/manifests/1";
    let images = [306, 307].map(|seed| Image::new(seed, &[10]));
    let house = House::new().await;
    for image in images.iter().chain(&images) {
        push(house.address, "docker-local/app", "1", image).await;
        house.shows(|| Ask::get(TAG), image).await;
        for _ in 0..TIMES {
            let head = house.head(TAG).await;
            assert_eq!(head.header("docker-content-digest").unwrap(), image.manifest.digest.to_string());
            assert_eq!(head.body.len(), 0);
        }
        let digest = image.manifest.digest.to_string();
        let known = Ask::get(TAG).header("If-None-Match", &format!("\"{digest}\""));
        assert_eq!(house.send(known).await.status, 304);
    }
    let config = &images[1].config;
    let blob = format!("/v2/docker-local/app/blobs/{}", config.digest);
    for _ in 0..TIMES {
        assert_eq!(house.get(&blob).await.body, config.bytes);
        let part = house.send(Ask::get(&blob).header("Range", "bytes=1-3")).await;
        assert_eq!((part.status, &part.body[..]), (206, &config.bytes[1..4]));
    }
    for gone in [TAG, &blob] {
        assert_eq!(house.send(Ask::new("DELETE", gone)).await.status, 202);
        assert_eq!(house.get(gone).await.status, 404, "{gone}");
    }
}

#[tokio::test]
async fn an_answer_is_given_again_until_it_is_purged_or_its_time_is_over() {
    let images = [308, 309].map(|seed| Image::new(seed, &[10]));
    let registry = registry(&images[0]).await;
    let house = House::new().await;
    house.add_remote("one", &registry, json!({ "tag_ttl": "1s" })).await;
    let (shown, asked) = (|| Ask::get(PATH), || registry.asked("/manifests/").len());
    house.shows(shown, &images[0]).await;
    registry.add_image("app", "1", &images[1]);
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    house.shows(shown, &images[1]).await;
    let digest = format!("/v2/one/app/manifests/{}", images[1].manifest.digest);
    house.shows(|| Ask::get(&digest), &images[1]).await;
    let before = asked();
    let purged = house.api("POST", "/api/purge", &json!({ "repository": "one", "image": "app" })).await;
    assert_eq!(purged.status, 200, "{}", purged.all());
    house.shows(|| Ask::get(&digest), &images[1]).await;
    assert_eq!(asked(), before + 1, "it was fetched again, once");
}

/// A manifest whose layers cannot be had is of no use: a mirror's client would not ask another.
#[tokio::test]
async fn an_answer_is_not_given_again_while_the_upstream_fails() {
    let image = Image::new(310, &[10]);
    let registry = registry(&image).await;
    let house = House::new().await;
    house.add_remote("one", &registry, json!({})).await;
    let digest = format!("/v2/one/app/manifests/{}", image.manifest.digest);
    house.shows(|| Ask::get(&digest), &image).await;
    registry.always("/v2/app/", Fault::status(500));
    let layer = house.get(&format!("/v2/one/app/blobs/{}", image.layers[0].digest)).await;
    assert_eq!(layer.status, 502, "{}", layer.all());
    assert_eq!(house.get(&digest).await.code(), (502, "UNAVAILABLE".to_owned()));
}

#[tokio::test]
async fn a_namespace_is_named_each_time() {
    let images = [311, 312].map(|seed| Image::new(seed, &[10]));
    let registries = [registry(&images[0]).await, registry(&images[1]).await];
    let house = House::new().await;
    for (name, registry) in ["one", "two"].into_iter().zip(&registries) {
        let namespace = json!({ "upstream_namespace": format!("{name}.test") });
        house.add_remote(name, registry, namespace).await;
    }
    for _ in 0..TIMES {
        for (name, image) in ["one.test", "two.test"].into_iter().zip(&images) {
            for method in ["GET", "HEAD"] {
                let path = format!("/v2/app/manifests/1?ns={name}");
                let answer = house.send(Ask::new(method, &path)).await;
                assert_eq!(answer.header("oci-namespace"), Some(name), "{}", answer.all());
                let digest = answer.header("docker-content-digest").unwrap();
                assert_eq!(digest, image.manifest.digest.to_string());
            }
        }
    }
}
