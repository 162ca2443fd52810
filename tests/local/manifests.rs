//! Manifests: what must be there first, what is kept, tags, and what is about what.

use binaryrepo::names::{Algorithm, Digest, MediaType};
use serde_json::{Value, json};

use super::client::Ask;
use super::house::House;
use super::pusher::{Pusher, blob, manifest, referrers, tags};
use super::support::image::{Content, Image, Index};

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pushed_and_pulled_by_tag_and_digest() {
    let house = House::new().await;
    let client = Pusher(house.address);
    let image = Image::new(1, &[1000, 200_000]);
    client.image("team/app", "v1", &image).await;
    client.pull("team/app", "v1", &image).await;
    client.pull("team/app", &image.manifest.digest.to_string(), &image).await;
    let head = client.send(Ask::head(&manifest("team/app", "v1"))).await;
    assert_eq!(head.header("content-length"), Some(image.manifest.size().to_string().as_str()));
    assert_eq!(head.header("x-cache"), None);
    let etag = format!("\"{}\"", image.manifest.digest);
    let answer = client.send(Ask::get(&manifest("team/app", "v1")).header("If-None-Match", &etag)).await;
    assert_eq!(answer.status, 304);
    let house = house.restart().await;
    Pusher(house.address).pull("team/app", "v1", &image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_waits_for_all_that_it_names() {
    let house = House::new().await;
    let client = Pusher(house.address);
    let image = Image::new(2, &[100, 200]);
    // Another image has it all: that is not this image's.
    client.image("other", "v1", &image).await;
    assert_eq!(client.blob("part", &image.config).await.status, 201);
    let answer = client.manifest("part", "v1", Image::MEDIA_TYPE, &image.manifest.bytes).await;
    assert_eq!(answer.status, 400);
    let errors = answer.json()["errors"].as_array().unwrap().clone();
    let mut missing: Vec<String> = image.layers.iter().map(|layer| layer.digest.to_string()).collect();
    missing.sort();
    assert_eq!(errors.len(), 2);
    for (error, digest) in errors.iter().zip(missing) {
        assert_eq!(
            (&error["code"], &error["detail"]["digest"]),
            (&json!("MANIFEST_BLOB_UNKNOWN"), &json!(digest))
        );
    }
    // The same words for what nobody has.
    let nobody = Image::new(3, &[100]);
    let answer = client.manifest("part", "v1", Image::MEDIA_TYPE, &nobody.manifest.bytes).await;
    assert_eq!(answer.json()["errors"][0]["message"], errors[0]["message"]);
    assert_eq!(client.get(&manifest("part", "v1")).await.status, 404);
    assert_eq!(client.get(&manifest("part", &image.manifest.digest.to_string())).await.status, 404);
    for layer in &image.layers {
        assert_eq!(client.blob("part", layer).await.status, 201);
    }
    client.image("part", "v1", &image).await;
    client.pull("part", "v1", &image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_size_that_is_not_the_contents_is_refused() {
    let house = House::new().await;
    let client = Pusher(house.address);
    let image = Image::new(4, &[100]);
    for content in image.blobs() {
        client.blob("size", content).await;
    }
    let text = String::from_utf8(image.manifest.bytes.to_vec()).unwrap();
    let wrong = text.replace("\"size\":100", "\"size\":101");
    assert_ne!(wrong, text);
    let answer = client.manifest("size", "x", Image::MEDIA_TYPE, wrong.as_bytes()).await;
    assert_eq!(answer.code(), (400, "SIZE_INVALID".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_of_indexes_and_odd_types_are_kept() {
    let house = House::new().await;
    let client = Pusher(house.address);
    let index = Index::new(5, &["amd64", "arm64"], &[50]);
    for image in &index.images {
        for content in image.blobs() {
            client.blob("multi", content).await;
        }
        let digest = image.manifest.digest.to_string();
        let answer = client.manifest("multi", &digest, Image::MEDIA_TYPE, &image.manifest.bytes).await;
        assert_eq!(answer.status, 201);
    }
    let put = |reference: &'static str, media_type: &'static str, bytes: Vec<u8>| async move {
        let answer = client.manifest("multi", reference, media_type, &bytes).await;
        assert_eq!(answer.status, 201, "{}", answer.all());
        let answer = client.get(&manifest("multi", reference)).await;
        assert_eq!((&answer.body, answer.header("content-type")), (&bytes, Some(media_type)));
    };
    put("v1", Index::MEDIA_TYPE, index.manifest.bytes.to_vec()).await;
    let nested = json!({ "schemaVersion": 2, "mediaType": Index::MEDIA_TYPE, "manifests": [
        { "mediaType": Index::MEDIA_TYPE, "digest": index.manifest.digest.to_string(), "size": index.manifest.size() },
    ] });
    put("nested", Index::MEDIA_TYPE, nested.to_string().into_bytes()).await;
    // Build caches of old list layers as if they were manifests.
    let layer = &index.images[0].layers[0];
    let cache = json!({ "schemaVersion": 2, "mediaType": Index::MEDIA_TYPE, "manifests": [
        { "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": layer.digest.to_string(), "size": layer.size() },
    ] });
    put("cache", Index::MEDIA_TYPE, cache.to_string().into_bytes()).await;
    put("empty", Index::MEDIA_TYPE, br#"{"schemaVersion":2,"manifests":[]}"#.to_vec()).await;
    put("odd", "application/vnd.example.thing+json", br#"{"anything": [1, 2],  "at":"all"}"#.to_vec()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_by_sha512_is_its_own() {
    let house = House::new().await;
    let client = Pusher(house.address);
    let bytes = br#"{"schemaVersion":2,"layers":[]}"#;
    let digest = Digest::of(Algorithm::Sha512, bytes).to_string();
    let answer = client.manifest("long", &digest, Image::MEDIA_TYPE, bytes).await;
    assert_eq!((answer.status, answer.header("docker-content-digest")), (201, Some(digest.as_str())));
    let answer = client.get(&manifest("long", &digest)).await;
    assert_eq!((answer.status, answer.header("docker-content-digest")), (200, Some(digest.as_str())));
    let other = Digest::of(Algorithm::Sha256, bytes).to_string();
    assert_eq!(client.get(&manifest("long", &other)).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_moves_unless_tags_are_immutable() {
    let house = House::new().await;
    let client = Pusher(house.address);
    let (one, two) = (Image::new(6, &[10]), Image::new(7, &[10]));
    for image in [&one, &two, &one] {
        client.image("moves", "latest", image).await;
        client.pull("moves", "latest", image).await;
    }
    let answer = house.api("PUT", "/api/repository/docker-local", &json!({ "immutable_tags": true })).await;
    assert_eq!((answer.status, &answer.json()["immutable_tags"]), (200, &json!(true)));
    // The same again is no move, and by digest there is none.
    client.image("moves", "latest", &one).await;
    let answer = client.manifest("moves", "latest", Image::MEDIA_TYPE, &two.manifest.bytes).await;
    assert_eq!(answer.code(), (403, "DENIED".to_owned()));
    client.pull("moves", "latest", &one).await;
    let digest = two.manifest.digest.to_string();
    let tagging = Ask::new("PUT", &format!("{}?tag=new&tag=latest", manifest("moves", &digest)))
        .header("Content-Type", Image::MEDIA_TYPE)
        .body(&two.manifest.bytes[..]);
    assert_eq!(client.send(tagging).await.status, 403);
    // All or nothing: not even the other tag.
    assert_eq!(client.get(&manifest("moves", "new")).await.status, 404);
    // Of many who set a new tag at once, to different manifests, one wins.
    let pushes = [&one, &two].map(|image| {
        let bytes = image.manifest.bytes.clone();
        tokio::spawn(async move { client.manifest("moves", "race", Image::MEDIA_TYPE, &bytes).await.status })
    });
    let mut told = Vec::new();
    for push in pushes {
        told.push(push.await.unwrap());
    }
    told.sort_unstable();
    assert_eq!(told, [201, 403]);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_tags_are_set_at_once() {
    let house = House::new().await;
    let client = Pusher(house.address);
    let image = Image::new(8, &[10]);
    client.image("tags", "v1", &image).await;
    let digest = image.manifest.digest.to_string();
    let ask = Ask::new("PUT", &format!("{}?tag=v1.0&tag=latest", manifest("tags", &digest)))
        .header("Content-Type", Image::MEDIA_TYPE)
        .body(&image.manifest.bytes[..]);
    let answer = client.send(ask).await;
    assert_eq!(answer.status, 201);
    assert!(answer.all().contains("oci-tag: v1.0\noci-tag: latest\n"), "{}", answer.all());
    assert_eq!(client.get(&tags("tags")).await.json()["tags"], json!(["latest", "v1", "v1.0"]));
}

fn artifact(subject: &Content, kind: &str, number: usize) -> Vec<u8> {
    json!({
        "schemaVersion": 2,
        "mediaType": Image::MEDIA_TYPE,
        "artifactType": kind,
        "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": empty().digest.to_string(), "size": 2 },
        "layers": [],
        "subject": { "mediaType": Image::MEDIA_TYPE, "digest": subject.digest.to_string(), "size": subject.size() },
        "annotations": { "number": number.to_string() },
    })
    .to_string()
    .into_bytes()
}

fn empty() -> Content {
    Content::new(&b"{}"[..])
}

async fn listed(client: Pusher, target: &str) -> (Vec<Value>, Option<String>, Option<String>) {
    let answer = client.get(target).await;
    assert_eq!(answer.status, 200, "{}", answer.all());
    assert_eq!(answer.header("content-type"), Some(MediaType::OCI_INDEX));
    let index: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((&index["schemaVersion"], &index["mediaType"]), (&json!(2), &json!(MediaType::OCI_INDEX)));
    let link = answer
        .header("link")
        .map(|link| link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap().to_owned());
    let filters = answer.header("oci-filters-applied").map(str::to_owned);
    (index["manifests"].as_array().unwrap().clone(), link, filters)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_about_an_image_is_listed() {
    let house = House::new().await;
    let client = Pusher(house.address);
    let image = Image::new(9, &[10]);
    let subject = &image.manifest;
    assert!(listed(client, &referrers("signed", &subject.digest)).await.0.is_empty());
    client.blob("signed", &empty()).await;
    // Before its subject is there.
    let mut digests = Vec::new();
    for number in 0..7 {
        let kind =
            if number % 2 == 0 { "application/vnd.test.sbom" } else { "application/vnd.test.signature" };
        let bytes = artifact(subject, kind, number);
        let digest = Digest::of(Algorithm::Sha256, &bytes);
        let answer = client.manifest("signed", &digest.to_string(), Image::MEDIA_TYPE, &bytes).await;
        assert_eq!(answer.header("oci-subject"), Some(subject.digest.to_string().as_str()));
        digests.push((digest.to_string(), kind, bytes.len()));
    }
    client.image("signed", "v1", &image).await;
    digests.sort();
    let (all, link, filters) = listed(client, &referrers("signed", &subject.digest)).await;
    assert_eq!((link, filters), (None, None));
    for (entry, (digest, kind, size)) in all.iter().zip(&digests) {
        assert_eq!((&entry["digest"], &entry["artifactType"]), (&json!(digest), &json!(kind)));
        assert_eq!((&entry["size"], &entry["mediaType"]), (&json!(size), &json!(Image::MEDIA_TYPE)));
        assert!(entry["annotations"]["number"].is_string());
    }
    let filtered =
        format!("{}?artifactType=application/vnd.test.signature", referrers("signed", &subject.digest));
    let (some, _, filters) = listed(client, &filtered).await;
    assert_eq!((some.len(), filters.as_deref()), (3, Some("artifactType")));
    // Page by page, filtered and not.
    for (target, expected) in [(referrers("signed", &subject.digest), 7), (filtered, 3)] {
        let glue = if target.contains('?') { '&' } else { '?' };
        let mut next = Some(format!("{target}{glue}n=2"));
        let mut found = Vec::new();
        while let Some(target) = next {
            let (page, link, _) = listed(client, &target).await;
            assert!(page.len() == 2 || link.is_none());
            found.extend(page.iter().map(|entry| entry["digest"].as_str().unwrap().to_owned()));
            next = link;
        }
        let mut sorted = found.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!((found.len(), &sorted), (expected, &found));
    }
    // What is removed refers no more.
    let target = manifest("signed", &digests[0].0);
    assert_eq!(client.send(Ask::new("DELETE", &target)).await.status, 202);
    assert_eq!(listed(client, &referrers("signed", &subject.digest)).await.0.len(), 6);
    assert!(listed(client, &referrers("another", &subject.digest)).await.0.is_empty());
}

/// Clients that did not know the listing kept an index under a tag made of the digest; copies bring it along.
#[tokio::test(flavor = "multi_thread")]
async fn the_older_tag_is_read_as_well() {
    let house = House::new().await;
    let client = Pusher(house.address);
    let image = Image::new(10, &[10]);
    let subject = &image.manifest;
    client.image("old", "v1", &image).await;
    client.blob("old", &empty()).await;
    let new = artifact(subject, "application/vnd.test.new", 1);
    client.manifest("old", "new", Image::MEDIA_TYPE, &new).await;
    // One that says nothing of its subject, and is known by the tag alone.
    let silent = br#"{"schemaVersion":2,"layers":[]}"#;
    client.manifest("old", "silent", Image::MEDIA_TYPE, silent).await;
    let entry = |bytes: &[u8], kind: &str| {
        json!({ "mediaType": Image::MEDIA_TYPE, "digest": Digest::of(Algorithm::Sha256, bytes).to_string(),
            "size": bytes.len(), "artifactType": kind })
    };
    let index = json!({ "schemaVersion": 2, "mediaType": Index::MEDIA_TYPE, "manifests": [
        entry(&new, "application/vnd.test.new"), entry(silent, "application/vnd.test.old"),
    ] });
    let tag = format!("sha256-{}", subject.digest.hex());
    let answer = client.manifest("old", &tag, Index::MEDIA_TYPE, index.to_string().as_bytes()).await;
    assert_eq!(answer.status, 201, "{}", answer.all());
    let (all, _, _) = listed(client, &referrers("old", &subject.digest)).await;
    assert_eq!(all.len(), 2, "each once");
    let filtered = format!("{}?artifactType=application/vnd.test.old", referrers("old", &subject.digest));
    assert_eq!(listed(client, &filtered).await.0.len(), 1);
    let mut found = Vec::new();
    let mut next = Some(format!("{}?n=1", referrers("old", &subject.digest)));
    while let Some(target) = next {
        let (page, link, _) = listed(client, &target).await;
        found.extend(page);
        next = link;
    }
    assert_eq!(found, all);
    // The index is as its writer left it, but what has gone is listed no more.
    let silent = Digest::of(Algorithm::Sha256, silent).to_string();
    assert_eq!(client.send(Ask::new("DELETE", &manifest("old", &silent))).await.status, 202);
    assert_eq!(listed(client, &referrers("old", &subject.digest)).await.0.len(), 1);
}

/// Docker's own forms, kept as they came and with their references checked.
#[tokio::test(flavor = "multi_thread")]
async fn dockers_forms_are_taken_as_well() {
    const IMAGE: &str = "application/vnd.docker.distribution.manifest.v2+json";
    const LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    const FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    let house = House::new().await;
    let client = Pusher(house.address);
    let (config, layer) = (Content::new(&b"{\"os\":\"linux\"}"[..]), Content::random(12, 5000));
    let elsewhere = Content::random(13, 10);
    let named = |content: &Content, kind: &str| json!({ "mediaType": kind, "size": content.size(), "digest": content.digest.to_string() });
    let mut foreign = named(&elsewhere, FOREIGN);
    foreign["urls"] = json!(["https://layers.example/x"]);
    let image = json!({
        "schemaVersion": 2,
        "mediaType": IMAGE,
        "config": named(&config, "application/vnd.docker.container.image.v1+json"),
        "layers": [named(&layer, "application/vnd.docker.image.rootfs.diff.tar.gzip"), foreign],
    });
    let image = Content::new(serde_json::to_vec_pretty(&image).unwrap());
    let put = async |reference: &str, media_type: &str, content: &Content| {
        client.manifest("docker", reference, media_type, &content.bytes).await
    };
    assert_eq!(put("v1", IMAGE, &image).await.status, 400);
    for content in [&config, &layer] {
        assert_eq!(client.blob("docker", content).await.status, 201);
    }
    // Parameters are no part of a type.
    assert_eq!(put("v1", &format!("{IMAGE}; charset=utf-8"), &image).await.status, 201);
    let mut entry = named(&image, IMAGE);
    entry["platform"] = json!({ "architecture": "amd64", "os": "linux" });
    let list = json!({ "schemaVersion": 2, "mediaType": LIST, "manifests": [entry] });
    let list = Content::new(list.to_string().into_bytes());
    assert_eq!(put("all", LIST, &list).await.status, 201);
    // One representation for each digest, whatever is asked for.
    for accept in ["*/*", LIST, "application/vnd.oci.image.index.v1+json", "text/plain"] {
        for (reference, media_type, content) in [("v1", IMAGE, &image), ("all", LIST, &list)] {
            let answer = client.send(Ask::get(&manifest("docker", reference)).header("Accept", accept)).await;
            assert_eq!((answer.status, &answer.body[..]), (200, &content.bytes[..]), "{accept}");
            assert_eq!(answer.header("content-type"), Some(media_type));
        }
    }
}

/// A push of the same image from many at once ends with one image, whole.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_image_is_pushed_by_many() {
    let house = House::new().await;
    let client = Pusher(house.address);
    let image = Image::new(11, &[5000, 100_000]);
    let pushes: Vec<_> = (0..16)
        .map(|number| {
            let image = image.clone();
            tokio::spawn(async move { client.image("crowd", &format!("t{}", number % 4), &image).await })
        })
        .collect();
    for push in pushes {
        push.await.unwrap();
    }
    for tag in ["t0", "t1", "t2", "t3"] {
        client.pull("crowd", tag, &image).await;
    }
    assert_eq!(client.get(&blob("crowd", &image.config.digest)).await.body, image.config.bytes);
}
