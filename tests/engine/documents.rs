//! Cached manifests at their cap, and what goes with a manifest that goes.

use std::sync::Arc;
use std::time::Duration;

use binaryrepo::engine::{BlobWant, ErrorKind, Purge, Settings, Verdict, Want};
use binaryrepo::meta::{DocumentRow, MetaExt as _};
use binaryrepo::names::{Digest, RangeRequest};

use super::house::{House, pass, roomy};
use super::rig::Mood;
use super::support::fault::Fault;
use super::support::image::{Content, Image};
use super::support::upstream::Registry;

/// What is done about once a minute has been done.
const A_WHILE: Duration = Duration::from_secs(70);
/// Manifests of our images have about 570 bytes.
const CAP: u64 = 8_000;

/// At the cap, of which a test has more than enough.
async fn capped(registry: &Registry) -> House {
    let settings = Settings { document_cap: CAP, ..roomy() };
    House::build(registry, settings, |spec| spec.tag_ttl = Duration::from_secs(24 * 3600)).await
}

fn lies_here(house: &House, digest: &Digest) -> bool {
    house.ledger.get::<DocumentRow>(digest).unwrap().is_some()
}

/// Only reads of the metadata counted as uses, and what is asked for all the time is in memory.
#[tokio::test]
async fn manifests_that_are_asked_for_all_the_time_stay_at_the_cap() {
    let registry = Registry::open().await;
    let [by_tag, by_digest, by_head] = [1, 2, 3].map(|seed| Image::new(seed, &[10]));
    let digest = by_digest.manifest.digest.to_string();
    let hot = [
        ("a/tag", "latest", &by_tag, Want::Body),
        ("a/digest", digest.as_str(), &by_digest, Want::Body),
        ("a/head", "latest", &by_head, Want::Head),
    ];
    let house = capped(&registry).await;
    for (image, reference, content, _) in hot {
        registry.add_image(image, "latest", content);
        for _ in 0..2 {
            house.manifest(image, reference, Want::Body).await.unwrap();
        }
    }
    let others: Vec<Image> = (100..120).map(|seed| Image::new(seed, &[10])).collect();
    for other in &others {
        registry.add_image("a/others", "latest", other);
        pass(Duration::from_secs(6)).await;
        house.manifest("a/others", &other.manifest.digest.to_string(), Want::Body).await.unwrap();
        for (image, reference, _, want) in hot {
            assert_eq!(house.manifest(image, reference, want).await.unwrap().verdict, Verdict::Hit);
        }
    }
    pass(A_WHILE).await;
    house.eventually("the cap is kept", |house| !lies_here(house, &others[0].manifest.digest)).await;
    for (image, _, content, _) in hot {
        assert!(lies_here(&house, &content.manifest.digest), "{image}");
        let asked = registry.asked(&format!("GET /v2/{image}/manifests/"));
        assert_eq!(asked.len(), 1, "{image}");
    }
    assert!(lies_here(&house, &others[19].manifest.digest), "the last one that was asked for");
}

/// Two images of one repository that share a layer. The first has one of its own, too.
fn cousins() -> [Image; 2] {
    [Image::new(5, &[1_000, 2_000]), Image::new(5, &[1_000])]
}

async fn head(house: &House, image: &str, blob: &Content) -> Result<u64, ErrorKind> {
    let want = BlobWant { want: Want::Head, range: RangeRequest::Whole };
    let answer = house.engine.blob(&house.scope(image), &blob.digest, want).await;
    answer.map(|answer| answer.size).map_err(|error| error.kind)
}

async fn cache(house: &House, name: &str, tag: &str, image: &Image) {
    house.manifest(name, tag, Want::Body).await.unwrap();
    for blob in image.blobs() {
        house.pulled(name, blob).await;
    }
    house.rest().await;
}

/// Of the image `a/b`: its tags, manifests and blobs.
async fn listed(house: &House) -> Option<(Vec<String>, usize, usize)> {
    let image = house.engine.stored_image(&house.scope("a/b")).await.ok()?;
    let tags = image.tags.iter().map(|tag| tag.tag.to_string()).collect();
    Some((tags, image.manifests, image.blobs))
}

/// Nothing but a manifest gives the right to a blob: it outlived the manifest, until all of the image was purged.
#[tokio::test]
async fn with_a_manifest_goes_the_right_to_what_no_other_one_names() {
    let registry = Registry::open().await;
    let [old, new] = cousins();
    let alone = Image::new(6, &[1_000]);
    registry.add_image("a/b", "old", &old);
    registry.add_image("a/b", "new", &new);
    registry.add_image("a/alone", "latest", &alone);
    let house = capped(&registry).await;
    cache(&house, "a/b", "old", &old).await;
    cache(&house, "a/alone", "latest", &alone).await;
    for seed in 100..120 {
        pass(Duration::from_secs(6)).await;
        let other = Image::new(seed, &[10]);
        registry.add_image("a/others", "latest", &other);
        house.manifest("a/others", &other.manifest.digest.to_string(), Want::Body).await.unwrap();
        house.manifest("a/b", "new", Want::Body).await.unwrap();
    }
    cache(&house, "a/b", "new", &new).await;
    pass(A_WHILE).await;
    let gone = [&old, &alone].map(|image| image.manifest.digest);
    house.eventually("they are gone", |house| gone.iter().all(|digest| !lies_here(house, digest))).await;
    assert_eq!(listed(&house).await, Some((vec!["new".to_owned()], 1, 2)));
    let images = house.engine.stored_images(None).await.unwrap();
    assert!(images.iter().all(|image| image.manifests > 0), "{images:?}");

    registry.forget();
    for blob in new.blobs() {
        head(&house, "a/b", blob).await.unwrap();
    }
    assert!(registry.log().is_empty(), "what the other one names needs no proof");
    assert_eq!(head(&house, "a/b", &old.config).await, Ok(old.config.size()));
    // Who had the manifest a moment ago: all bytes are here, and only the proof is fetched.
    assert_eq!(house.pulled("a/b", &old.layers[1]).await, Verdict::Hit);
    for blob in [&old.config, &old.layers[1]] {
        let asked = registry.asked(&blob.digest.to_string());
        assert_eq!(asked.len(), 1);
        assert_eq!(asked[0].range(), Some("bytes=0-0"));
    }
    registry.always("/blobs/", Fault::status(404));
    for blob in alone.blobs() {
        assert_eq!(head(&house, "a/alone", blob).await, Err(ErrorKind::BlobUnknown));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_of_a_manifest_leaves_nothing_that_only_it_named() {
    let registry = Registry::open().await;
    let [old, new] = cousins();
    let house = House::new(&registry).await;
    for (tag, image) in [("old", &old), ("new", &new)] {
        registry.add_image("a/b", tag, image);
        cache(&house, "a/b", tag, image).await;
    }
    let hub = "hub".parse().unwrap();
    let purge = async |image: &Image| {
        let purged = house.engine.purge(&hub, Purge::Digest(image.manifest.digest)).await.unwrap();
        (purged.documents, purged.blobs)
    };
    assert_eq!(purge(&old).await, (1, 2));
    assert_eq!(listed(&house).await, Some((vec!["new".to_owned()], 1, 2)));
    registry.forget();
    head(&house, "a/b", &old.layers[0]).await.unwrap();
    assert!(registry.log().is_empty());
    assert_eq!(house.pulled("a/b", &old.layers[1]).await, Verdict::Miss);
    house.rest().await;
    // And what was proven, which no manifest names.
    assert_eq!(purge(&new).await, (1, 3));
    assert_eq!(listed(&house).await, None);
    house.rest().await;
    house.eventually("no file is left", |house| house.files().is_empty()).await;
}

/// Fetched between the look at what the other one gave and its removal.
#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_comes_meanwhile_keeps_what_it_names() {
    let registry = Registry::open().await;
    let [old, new] = cousins();
    registry.add_image("a/b", "old", &old);
    let house = Arc::new(House::new(&registry).await);
    house.manifest("a/b", "old", Want::Body).await.unwrap();
    house.ledger.is(Mood::HoldsUnlinking);
    let purging = tokio::spawn({
        let (engine, digest) = (house.engine.clone(), old.manifest.digest);
        async move { engine.purge(&"hub".parse().unwrap(), Purge::Digest(digest)).await }
    });
    house.eventually("links are being removed", |house| house.ledger.holds()).await;
    registry.add_image("a/b", "new", &new);
    house.manifest("a/b", "new", Want::Body).await.unwrap();
    house.ledger.is(Mood::Well);
    purging.await.unwrap().unwrap();
    registry.forget();
    for blob in new.blobs() {
        head(&house, "a/b", blob).await.unwrap();
    }
    assert!(registry.log().is_empty());
    head(&house, "a/b", &old.config).await.unwrap();
    assert_eq!(registry.log().len(), 1);
}
