//! What survives a stop, orderly or not.

use std::time::Duration;

use binaryrepo::engine::{MaxSize, Settings, Verdict, Want};

use super::house::{House, drain};
use super::support::image::Image;
use super::support::upstream::{Options, Registry};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cached_survives_a_restart() {
    let registry = Registry::open().await;
    let image = Image::new(31, &[100, 200_000]);
    registry.add_image("a/b", "latest", &image);
    let house = House::new(&registry).await;
    house.manifest("a/b", "latest", Want::Body).await.unwrap();
    for blob in image.blobs() {
        house.pull("a/b", &blob.digest).await.unwrap().whole();
    }
    let house = house.restart().await;
    assert_eq!(house.manifest("a/b", "latest", Want::Body).await.unwrap().verdict, Verdict::Hit);
    for blob in image.blobs() {
        let answer = house.blob("a/b", &blob.digest, "").await.unwrap();
        assert_eq!(answer.verdict, Verdict::Hit);
        assert_eq!(drain(answer.reader.unwrap()).await.whole(), blob.bytes);
    }
    assert_eq!(registry.asked("/blobs/").len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_goes_on_after_a_restart_where_it_was() {
    let registry = Registry::start(Options { connection_rate: Some(1 << 20), ..Options::default() }).await;
    let image = Image::new(32, &[3 << 20]);
    registry.add_image("a/b", "latest", &image);
    let house = House::new(&registry).await;
    house.manifest("a/b", "latest", Want::Body).await.unwrap();
    let layer = &image.layers[0];
    let client = house.blob("a/b", &layer.digest, "").await.unwrap();
    tokio::time::sleep(Duration::from_millis(800)).await;
    drop(client);
    let house = house.restart().await;
    assert_eq!(house.drafts(), 1);
    let answer = house.blob("a/b", &layer.digest, "").await.unwrap();
    assert_eq!(drain(answer.reader.unwrap()).await.whole(), layer.bytes);
    let seen = registry.asked(&layer.digest.to_string());
    assert_eq!(seen.len(), 2);
    assert!(seen[1].range().is_some_and(|range| range != "bytes=0-"), "{:?}", seen[1].range());
    house.eventually("no draft is left", |house| house.drafts() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_least_recently_used_go_first_and_readers_finish() {
    let registry = Registry::open().await;
    let settings = Settings { max_size: MaxSize::Bytes(1_000_000), min_free: Some(0), ..Settings::default() };
    let images: Vec<Image> = (41..45).map(|seed| Image::new(seed, &[300_000])).collect();
    for (number, image) in images.iter().enumerate() {
        registry.add_image(&format!("a/n{number}"), "latest", image);
    }
    let house = House::build(&registry, settings, |_| {}).await;
    for (number, image) in images.iter().enumerate().take(3) {
        let name = format!("a/n{number}");
        house.manifest(&name, "latest", Want::Body).await.unwrap();
        house.pull(&name, &image.layers[0].digest).await.unwrap().whole();
    }
    // The first one is used again; the second is the oldest now, and is being read.
    house.pull("a/n0", &images[0].layers[0].digest).await.unwrap().whole();
    let reading = house.blob("a/n1", &images[1].layers[0].digest, "").await.unwrap();
    house.manifest("a/n3", "latest", Want::Body).await.unwrap();
    house.pull("a/n3", &images[3].layers[0].digest).await.unwrap().whole();
    let cached = |house: &House| house.files().iter().filter(|(_, size)| *size == 300_000).count();
    house.eventually("one has gone", |house| cached(house) <= 3).await;
    assert_eq!(drain(reading.reader.unwrap()).await.whole(), images[1].layers[0].bytes);
    let first = house.blob("a/n0", &images[0].layers[0].digest, "").await.unwrap();
    assert_eq!(first.verdict, Verdict::Hit, "what was used last stays");
}
