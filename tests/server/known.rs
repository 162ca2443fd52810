//! What a path means is worked out once by each thread that serves, and anew after each change. All is one thread here.

use serde_json::json;

use super::client::Ask;
use super::house::House;
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

/// Once for whoever fetches it, once to learn what was asked, and once more by what was learned.
const TIMES: usize = 3;

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
