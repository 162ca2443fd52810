//! Cached manifests at their cap, and what goes with a manifest that goes.

use std::sync::Arc;
use std::time::Duration;

use binaryrepo::engine::{BlobWant, ErrorKind, ManifestPush, Purge, Settings, Verdict, Want};
use binaryrepo::meta::{DocumentRow, MetaExt as _};
use binaryrepo::names::{Digest, MediaType, RangeRequest};

use super::house::{House, pass, roomy, scope};
use super::rig::Mood;
use super::support::fault::Fault;
use super::support::image::{Content, Image, Index};
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
    house.eventually("links are being removed", |house| house.ledger.held() > 0).await;
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

/// Has more manifests fetched than the cap allows, all of them newer than those that are there.
async fn fill(registry: &Registry, house: &House) {
    for seed in 100..120 {
        pass(Duration::from_secs(6)).await;
        let other = Image::new(seed, &[10]);
        registry.add_image("a/others", "latest", &other);
        house.manifest("a/others", &other.manifest.digest.to_string(), Want::Body).await.unwrap();
    }
}

/// It used to lose its tag and its links all the same, and only the document stayed.
#[tokio::test]
async fn what_is_fetched_again_while_the_cap_is_at_work_stays() {
    let registry = Registry::open().await;
    let [old, again] = [1, 2].map(|seed| Image::new(seed, &[10]));
    let house = capped(&registry).await;
    registry.add_image("a/b", "old", &old);
    house.manifest("a/b", "old", Want::Body).await.unwrap();
    // Are looked at as well, for a manifest of their own. One of them may be the first of all.
    let images = [1, 2, 3].map(|number| format!("a/own{number}"));
    for image in &images {
        registry.add_image(image, "own", &again);
        house.manifest(image, "own", Want::Body).await.unwrap();
    }
    house.ledger.is(Mood::HoldsUnlinking);
    fill(&registry, &house).await;
    pass(A_WHILE).await;
    house.eventually("links are being removed", |house| house.ledger.held() > 0).await;
    for image in &images {
        registry.add_image(image, "latest", &old);
        house.manifest(image, "latest", Want::Body).await.unwrap();
    }
    house.ledger.is(Mood::Well);
    house.eventually("the cap is kept", |house| !lies_here(house, &again.manifest.digest)).await;

    assert!(lies_here(&house, &old.manifest.digest));
    registry.forget();
    for image in &images {
        let again = house.manifest(image, "latest", Want::Body).await.unwrap();
        assert_eq!(again.verdict, Verdict::Hit, "{image}: it was fetched a moment ago");
        for blob in old.blobs() {
            head(&house, image, blob).await.unwrap();
        }
    }
    assert!(registry.log().is_empty());
}

/// Who makes room for an upload used to wait until the last link was removed.
#[tokio::test]
async fn while_the_cap_is_at_work_the_space_is_looked_at() {
    let registry = Registry::open().await;
    let old = Image::new(1, &[10]);
    registry.add_image("a/b", "old", &old);
    let house = capped(&registry).await;
    house.manifest("a/b", "old", Want::Body).await.unwrap();
    house.ledger.is(Mood::HoldsUnlinking);
    fill(&registry, &house).await;
    pass(A_WHILE).await;
    house.eventually("links are being removed", |house| house.ledger.held() > 0).await;
    let room = 100 << 20;
    house.disk.is_small(house.dir.path(), room);
    pass(Duration::from_secs(11)).await;
    let limit = |house: &House| house.metric("binaryrepo_cache_limit_bytes");
    house.eventually("the disk is known to be small", |house| limit(house) <= room).await;
    assert_eq!(house.ledger.held(), 1, "and it is at work all the time");
    house.ledger.is(Mood::Well);
    house.eventually("the cap is kept", |house| !lies_here(house, &old.manifest.digest)).await;
}

/// The note of its last use used to put all of the row back as it was before.
#[tokio::test]
async fn a_manifest_that_is_pushed_while_its_use_is_noted_is_as_it_was_pushed() {
    let registry = Registry::open().await;
    let manifest = Content::new(r#"{"schemaVersion":2,"layers":[]}"#);
    registry.shelf().add_manifest("a/b", Image::MEDIA_TYPE, &manifest);
    let house = House::new(&registry).await;
    house.add_local().await;
    for _ in 0..2 {
        house.manifest("a/b", &manifest.digest.to_string(), Want::Body).await.unwrap();
        pass(Duration::from_secs(6)).await;
    }
    house.ledger.is(Mood::HoldsDocuments);
    pass(Duration::from_secs(700)).await;
    house.eventually("its use is being noted", |house| house.ledger.held() > 0).await;
    let reference = "v1".parse().unwrap();
    let media_type = MediaType::parse("application/vnd.docker.distribution.manifest.v2+json");
    let push = ManifestPush {
        reference,
        media_type: media_type.clone(),
        bytes: manifest.bytes.clone(),
        tags: vec![],
    };
    house.engine.push_manifest(&scope(&house.engine, "own", "a/b"), push).await.unwrap();
    let row = |house: &House| house.ledger.get::<DocumentRow>(&manifest.digest).unwrap().unwrap();
    let pushed = row(&house);
    house.ledger.is(Mood::Well);
    house.eventually("it is noted", |house| row(house).last_used_ms != pushed.last_used_ms).await;
    assert_eq!(row(&house).media_type, media_type.unwrap().to_string());
}

/// Each thread that serves keeps what it gave last, and nobody else hears of those uses.
#[tokio::test]
async fn what_is_given_once_more_is_used_once_more() {
    let registry = Registry::open().await;
    let image = Image::new(7, &[10]);
    registry.add_image("a/b", "latest", &image);
    let house = House::new(&registry).await;
    let scope = scope(&house.engine, "hub", "a/b");
    let reference = image.manifest.digest.to_string().parse().unwrap();
    for _ in 0..2 {
        house.manifest("a/b", &image.manifest.digest.to_string(), Want::Body).await.unwrap();
    }
    let found = house.engine.manifest_at_once(&scope, &reference).unwrap();
    let used = |house: &House| {
        house.ledger.get::<DocumentRow>(&image.manifest.digest).unwrap().unwrap().last_used_ms
    };
    let mut before = 0;
    for _ in 0..3 {
        pass(Duration::from_secs(700)).await;
        assert!(house.engine.is_current(&scope, &found));
        pass(Duration::from_secs(700)).await;
        house.eventually("its use is noted", |house| used(house) > before).await;
        before = used(&house);
    }
}

/// Whatever a digest's purge is to take away was still readable for who knew the platform's digest.
#[tokio::test(flavor = "multi_thread")]
async fn with_an_index_go_the_manifests_that_only_it_names() {
    let registry = Registry::open().await;
    let index = Index::new(40, &["amd64", "arm64", "s390x"], &[1_000]);
    registry.add_index("a/b", "latest", &index);
    let [alone, tagged, shared] = [0, 1, 2].map(|number| &index.images[number]);
    let other = Content::new(
        String::from_utf8(index.manifest.bytes.to_vec())
            .unwrap()
            .replace(&alone.manifest.digest.to_string(), &shared.manifest.digest.to_string())
            .replace(&tagged.manifest.digest.to_string(), &shared.manifest.digest.to_string()),
    );
    registry.shelf().add_manifest("a/b", Index::MEDIA_TYPE, &other);
    registry.shelf().tag("a/b", "amd64", tagged.manifest.digest);
    let house = House::new(&registry).await;
    house.manifest("a/b", "latest", Want::Body).await.unwrap();
    house.manifest("a/b", &other.digest.to_string(), Want::Body).await.unwrap();
    for image in &index.images {
        cache(&house, "a/b", &image.manifest.digest.to_string(), image).await;
    }
    house.manifest("a/b", "amd64", Want::Body).await.unwrap();
    let hub = "hub".parse().unwrap();
    let purged = house.engine.purge(&hub, Purge::Digest(index.manifest.digest)).await.unwrap();
    assert_eq!((purged.documents, purged.blobs), (2, 2), "the index, and what only it gave");

    registry.forget();
    for image in [tagged, shared] {
        let digest = image.manifest.digest.to_string();
        assert_eq!(house.manifest("a/b", &digest, Want::Body).await.unwrap().verdict, Verdict::Hit);
        for blob in image.blobs() {
            head(&house, "a/b", blob).await.unwrap();
        }
    }
    assert!(registry.log().is_empty(), "these have another reason to stay");
    registry.always("/v2/", Fault::status(404));
    let gone = house.manifest("a/b", &alone.manifest.digest.to_string(), Want::Body).await;
    assert_eq!(gone.map_err(|error| error.kind).map(|it| it.digest), Err(ErrorKind::ManifestUnknown));
    for blob in alone.blobs() {
        assert_eq!(head(&house, "a/b", blob).await, Err(ErrorKind::BlobUnknown));
    }
}
