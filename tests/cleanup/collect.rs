//! What cleanup takes, what it leaves, and what it says of that.

use std::time::Duration;

use binaryrepo::engine::{Collected, ErrorKind, Principal, Settings};
use binaryrepo::meta::{Batch, Durability, EdgeRow, Meta as _, MetaExt as _};
use binaryrepo::names::{Algorithm, MediaType};
use serde_json::json;

use super::model::Thing;
use super::support::image::Content;
use super::support::patience::{found, pass};
use super::yard::{Yard, roomy, without_grace};

const APP: &str = "docker-local/team/app";

fn is_unknown<T: std::fmt::Debug>(answer: Result<T, binaryrepo::engine::EngineError>) -> bool {
    matches!(answer.map_err(|error| error.kind), Err(ErrorKind::BlobUnknown | ErrorKind::ManifestUnknown))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nothing_names_goes_after_the_grace_and_no_sooner() {
    let yard = Yard::new(roomy()).await;
    let [config, layer, stray] =
        [(1, 100), (2, 5_000), (3, 70_000)].map(|(seed, size)| Content::random(seed, size));
    let image = Thing::manifest(&config, &[&layer], None);
    for blob in [&config, &layer, &stray] {
        yard.push_blob(APP, blob).await.unwrap();
    }
    yard.push_manifest(APP, Some("1"), &image.content).await.unwrap();
    assert_eq!(yard.engine.collect(false).await.unwrap(), Collected::default());
    for blob in [&config, &layer, &stray] {
        yard.age(APP, &blob.digest).await;
    }
    yard.age(APP, &image.digest()).await;

    let expected = Collected { links: 1, blobs: 1, bytes: 70_000, ..Collected::default() };
    assert_eq!(yard.engine.collect(true).await.unwrap(), expected);
    assert_eq!(yard.blob(APP, &stray.digest).await.unwrap(), stray.bytes);
    assert_eq!(yard.engine.collect(false).await.unwrap(), expected);
    assert!(is_unknown(yard.blob(APP, &stray.digest).await));
    assert!(!yard.file_of(&stray.digest).exists());
    assert_eq!(yard.blob(APP, &layer.digest).await.unwrap(), layer.bytes);
    assert_eq!(yard.manifest(APP, "1").await.unwrap(), image.content.bytes);
    assert_eq!(yard.metric("binaryrepo_collected_blobs_total"), 1);
    assert_eq!(yard.metric("binaryrepo_collected_bytes_total"), 70_000);
    assert_eq!(yard.engine.collect(false).await.unwrap(), Collected::default());
    // What went may come again.
    yard.push_blob(APP, &stray).await.unwrap();
    assert_eq!(yard.blob(APP, &stray.digest).await.unwrap(), stray.bytes);
}

/// A registry that does not know a type must not take for garbage what its clients will ask for.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_manifest_of_any_type_mentions_stays() {
    let yard = Yard::new(without_grace()).await;
    let [config, artifact, signed, unknown, odd, about] =
        [1, 2, 3, 4, 5, 6].map(|seed| Content::random(seed, 900));
    let base = Thing::manifest(&config, &[], None);
    let descriptor = |of: &Content| {
        let size = of.bytes.len();
        json!({ "mediaType": "application/octet-stream", "digest": of.digest.to_string(), "size": size })
    };
    let documents = [
        json!({ "mediaType": "application/vnd.oci.artifact.manifest.v1+json", "blobs": [descriptor(&artifact)],
            "annotations": { "about": about.digest.to_string() } }),
        json!({ "mediaType": "application/vnd.docker.distribution.manifest.v1+json", "schemaVersion": 1,
            "fsLayers": [{ "blobSum": signed.digest.to_string() }] }),
        json!({ "mediaType": "application/vnd.test.bundle+json", "items": [{ "what": unknown.digest.to_string() }],
            "subject": descriptor(&base.content) }),
        // Programs in Go read this key as if it were lower case.
        json!({ "mediaType": MediaType::OCI_MANIFEST, "config": descriptor(&config), "Layers": [descriptor(&odd)] }),
    ];
    for blob in [&config, &artifact, &signed, &unknown, &odd, &about] {
        yard.push_blob(APP, blob).await.unwrap();
    }
    yard.push_manifest(APP, Some("base"), &base.content).await.unwrap();
    for (number, document) in documents.iter().enumerate() {
        let content = Content::new(document.to_string());
        yard.push_manifest(APP, Some(&format!("t{number}")), &content).await.unwrap();
    }
    assert_eq!(yard.engine.collect(false).await.unwrap().blobs, 1, "what is only told about");
    for blob in [&config, &artifact, &signed, &unknown, &odd] {
        assert_eq!(yard.blob(APP, &blob.digest).await.unwrap(), blob.bytes);
    }
    assert!(is_unknown(yard.blob(APP, &about.digest).await));
    let contents = documents.map(|document| Content::new(document.to_string()));
    for gone in contents.iter().chain([&base.content]) {
        yard.delete(APP, &gone.digest.to_string()).await.unwrap();
    }
    assert_eq!(yard.engine.collect(false).await.unwrap().blobs, 5, "nothing keeps itself");
}

/// An earlier version noted what it understood. What else a manifest mentions would have been garbage until it was pushed
/// again.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_version_did_not_note_is_noted_before_the_first_cleanup() {
    let yard = Yard::new(without_grace()).await;
    let [config, odd, stray] = [1, 2, 3].map(|seed| Content::random(seed, 900));
    let elsewhere = Content::random(4, 900);
    let named = |content: &Content| json!({ "what": content.digest.to_string() });
    let document = json!({ "mediaType": MediaType::OCI_MANIFEST,
        "config": { "mediaType": "a/b", "digest": config.digest.to_string(), "size": 900 },
        "items": [named(&odd), named(&elsewhere)] });
    let manifest = Content::new(document.to_string());
    for blob in [&config, &odd, &stray] {
        yard.push_blob(APP, blob).await.unwrap();
    }
    yard.push_manifest(APP, Some("1"), &manifest).await.unwrap();
    let edges = |yard: &Yard| {
        let rows = yard.meta.scan::<EdgeRow>(&manifest.digest, None, 10).unwrap();
        rows.into_iter().map(|(key, row)| (key, row.child)).collect::<Vec<_>>()
    };
    let whole = edges(&yard);
    assert_eq!(whole.len(), 3, "the config, and what is mentioned besides");
    let unnoted = || {
        let mut batch = Batch::new(Durability::Durable);
        whole[1..].iter().for_each(|(key, _)| _ = batch.delete::<EdgeRow>(key));
        batch
    };
    yard.meta.apply(unnoted()).await.unwrap();

    let yard = yard.restart().await;
    // Also one that only asks.
    assert_eq!(yard.engine.collect(true).await.unwrap().blobs, 1);
    assert_eq!(edges(&yard), whole);
    assert_eq!(yard.engine.collect(false).await.unwrap().blobs, 1);
    assert_eq!(yard.blob(APP, &odd.digest).await.unwrap(), odd.bytes);
    assert!(is_unknown(yard.blob(APP, &stray.digest).await));
    assert_eq!(edges(&yard), whole);
    // Once: a push has noted its own since.
    yard.meta.apply(unnoted()).await.unwrap();
    let yard = yard.restart().await;
    assert_eq!(yard.engine.collect(true).await.unwrap().blobs, 1, "without its note it would go");
    // It goes with its manifest, like everything that was noted.
    yard.delete(APP, &manifest.digest.to_string()).await.unwrap();
    assert_eq!(yard.engine.collect(false).await.unwrap().blobs, 2);
    assert_eq!(edges(&yard), []);
}

/// A manifest of a type that nobody here knows, and what it mentions.
fn bundle(items: &[&Content]) -> Content {
    let items: Vec<_> = items.iter().map(|item| item.digest.to_string()).collect();
    Content::new(json!({ "mediaType": "application/vnd.test.bundle+json", "items": items }).to_string())
}

/// What a manifest keeps used to be what the image that pushed it last had of it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_manifest_keeps_is_the_same_whoever_pushed_it_last() {
    let yard = Yard::new(without_grace()).await;
    let blobs = [1, 2, 3].map(|seed| Content::random(seed, 900));
    let manifest = bundle(&blobs.each_ref());
    for blob in &blobs {
        yard.push_blob(APP, blob).await.unwrap();
    }
    yard.push_manifest(APP, Some("1"), &manifest).await.unwrap();
    // With each of them alone, and with none.
    for (number, blob) in blobs.iter().map(Some).chain([None]).enumerate() {
        let other = format!("other/team/copy{number}");
        if let Some(blob) = blob {
            yard.push_blob(&other, blob).await.unwrap();
        }
        yard.push_manifest(&other, Some("1"), &manifest).await.unwrap();
        assert_eq!(yard.engine.collect(false).await.unwrap(), Collected::default(), "{other}");
    }
    for blob in &blobs {
        assert_eq!(yard.blob(APP, &blob.digest).await.unwrap(), blob.bytes);
    }
}

/// Whether a client pushes the manifest first is its own affair where the type is not known here.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_after_the_manifest_that_mentions_it_stays() {
    let yard = Yard::new(without_grace()).await;
    let [first, later] = [1, 2].map(|seed| Content::random(seed, 900));
    let manifest = bundle(&[&first, &later]);
    yard.push_blob(APP, &first).await.unwrap();
    yard.push_manifest(APP, Some("1"), &manifest).await.unwrap();
    yard.push_blob(APP, &later).await.unwrap();
    assert_eq!(yard.engine.collect(false).await.unwrap(), Collected::default());
    for blob in [&first, &later] {
        assert_eq!(yard.blob(APP, &blob.digest).await.unwrap(), blob.bytes);
    }
    yard.delete(APP, &manifest.digest.to_string()).await.unwrap();
    assert_eq!(yard.engine.collect(false).await.unwrap().blobs, 2, "nothing else keeps them");
}

/// What is only mentioned may be missing; so may its file. Such a push used to be refused each time.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_mentioned_and_lost_refuses_no_push() {
    let yard = Yard::new(without_grace()).await;
    let [missing, wrong, sound] = [1, 2, 3].map(|seed| Content::random(seed, 900));
    for blob in [&missing, &wrong, &sound] {
        yard.push_blob(APP, blob).await.unwrap();
        yard.demote(&blob.digest).await;
    }
    std::fs::remove_file(yard.file_of(&missing.digest)).unwrap();
    std::fs::write(yard.file_of(&wrong.digest), vec![0; 900]).unwrap();
    let manifest = bundle(&[&missing, &wrong, &sound]);
    yard.push_manifest(APP, Some("1"), &manifest).await.unwrap();
    assert_eq!(yard.manifest(APP, "1").await.unwrap(), manifest.bytes);
    assert!(yard.is_ours(&sound.digest) && !yard.is_ours(&missing.digest) && !yard.is_ours(&wrong.digest));
    // What a manifest of a known type names is needed all the same.
    let image = Thing::manifest(&missing, &[&sound], None);
    let error = yard.push_manifest(APP, Some("2"), &image.content).await.expect_err("its config is lost");
    assert_eq!(error.kind, ErrorKind::ReferencesUnknown(vec![missing.digest]));
}

/// A client that was told that a blob is here leaves its push out, and names it a little later.
#[tokio::test(flavor = "multi_thread")]
async fn who_was_told_that_a_blob_is_here_may_rely_on_it() {
    let yard = Yard::new(roomy()).await;
    let [asked, forgotten] = [1, 2].map(|seed| Content::random(seed, 900));
    for blob in [&asked, &forgotten] {
        yard.push_blob(APP, blob).await.unwrap();
        // Now it is among the answers that are kept in memory.
        yard.blob(APP, &blob.digest).await.unwrap();
        yard.age(APP, &blob.digest).await;
    }
    assert_eq!(yard.head(APP, &asked.digest).await.unwrap(), 900);
    assert_eq!(yard.engine.collect(false).await.unwrap().blobs, 1);
    let image = Thing::manifest(&asked, &[], None);
    yard.push_manifest(APP, Some("1"), &image.content).await.unwrap();
    assert_eq!(yard.blob(APP, &asked.digest).await.unwrap(), asked.bytes);
    assert!(is_unknown(yard.head(APP, &forgotten.digest).await));
    assert!(is_unknown(yard.blob(APP, &forgotten.digest).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_without_a_tag_go_only_where_that_is_wanted() {
    let [config, layer] = [1, 2].map(|seed| Content::random(seed, 900));
    let image = Thing::manifest(&config, &[&layer], None);
    let index = Thing::index(&[&image.content]);
    let about = Thing::manifest(&config, &[], Some(&index.content));
    let other = Thing::manifest(&layer, &[], None);
    for wanted in [false, true] {
        let yard = Yard::new(Settings { collect_untagged: wanted, ..without_grace() }).await;
        for blob in [&config, &layer] {
            yard.push_blob(APP, blob).await.unwrap();
        }
        yard.push_manifest(APP, None, &image.content).await.unwrap();
        yard.push_manifest(APP, Some("1"), &index.content).await.unwrap();
        yard.push_manifest(APP, None, &about.content).await.unwrap();
        // Named by a tagged index, or about one: all of them stay.
        assert_eq!(yard.engine.collect(false).await.unwrap(), Collected::default());

        yard.push_manifest(APP, Some("1"), &other.content).await.unwrap();
        let removed = yard.engine.collect(false).await.unwrap();
        if wanted {
            let bytes = [&index, &about, &image].map(|one| one.content.size()).iter().sum::<u64>() + 900;
            let expected = Collected { links: 4, manifests: 3, blobs: 1, bytes, ..Collected::default() };
            assert_eq!(removed, expected);
        } else {
            assert_eq!(removed, Collected::default());
        }
        for gone in [&index, &about, &image] {
            assert_eq!(is_unknown(yard.manifest(APP, &gone.digest().to_string()).await), wanted);
        }
        assert_eq!(is_unknown(yard.blob(APP, &config.digest).await), wanted);
        assert_eq!(yard.blob(APP, &layer.digest).await.unwrap(), layer.bytes);
        let yard = yard.restart().await;
        assert_eq!(yard.manifest(APP, "1").await.unwrap(), other.content.bytes);
        assert_eq!(yard.blob(APP, &layer.digest).await.unwrap(), layer.bytes);
    }
}

/// The grace of a manifest begins when its last tag goes, not when it was pushed.
#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_moves_on_leaves_its_manifest_the_whole_grace() {
    let yard = Yard::new(Settings { collect_untagged: true, ..roomy() }).await;
    let config = Content::random(1, 10);
    let [moved, removed, next] = [2, 3, 4].map(|seed| Content::random(seed, 10));
    let images = [&moved, &removed, &next].map(|layer| Thing::manifest(&config, &[layer], None));
    for (blob, (image, tag)) in [&moved, &removed, &next].iter().zip(images.iter().zip(["a", "b", "c"])) {
        yard.push_blob(APP, &config).await.unwrap();
        yard.push_blob(APP, blob).await.unwrap();
        yard.push_manifest(APP, Some(tag), &image.content).await.unwrap();
        yard.age(APP, &image.digest()).await;
    }
    yard.push_manifest(APP, Some("a"), &images[2].content).await.unwrap();
    yard.delete(APP, "b").await.unwrap();
    assert_eq!(yard.engine.collect(false).await.unwrap(), Collected::default());
    for image in &images[..2] {
        yard.age(APP, &image.digest()).await;
    }
    assert_eq!(yard.engine.collect(false).await.unwrap().manifests, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_image_holds_stays_and_what_was_deleted_everywhere_goes() {
    let yard = Yard::new(without_grace()).await;
    let (config, layer) = (Content::random(1, 900), Content::random(2, 100_000));
    let image = Thing::manifest(&config, &[&layer], None);
    let elsewhere = "other/team/copy";
    for place in [APP, elsewhere] {
        for blob in [&config, &layer] {
            yard.push_blob(place, blob).await.unwrap();
        }
        yard.push_manifest(place, Some("1"), &image.content).await.unwrap();
    }
    yard.delete(APP, &image.digest().to_string()).await.unwrap();
    let removed = yard.engine.collect(false).await.unwrap();
    assert_eq!(removed, Collected { links: 2, ..Collected::default() });
    assert!(is_unknown(yard.blob(APP, &layer.digest).await));
    assert_eq!(yard.blob(elsewhere, &layer.digest).await.unwrap(), layer.bytes);
    // A whole repository, with all that it held.
    yard.engine.delete_repository(&"other".parse().unwrap(), true).await.unwrap();
    let nothing_held = async || {
        yard.engine.collect(false).await.unwrap();
        (yard.engine.status().await.counts.pinned_bytes == 0).then_some(())
    };
    found("nothing is held any more", nothing_held).await;
    assert!(!yard.file_of(&layer.digest).exists() && !yard.file_of(&config.digest).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_nobody_went_on_with_goes_with_its_bytes() {
    let settings = Settings { upload_life: std::time::Duration::ZERO, ..roomy() };
    let yard = Yard::new(settings).await;
    let scope = yard.scope(APP);
    let id = yard.engine.start_upload(&scope, &Principal::Operator, Algorithm::Sha256).await.unwrap();
    let mut upload = yard.engine.upload(&scope, &Principal::Operator, &id).await.unwrap();
    upload.append(vec![Content::random(1, 3_000).bytes]).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    // Somebody works on it.
    assert_eq!(yard.engine.collect(true).await.unwrap().uploads, 0);
    drop(upload);
    let expected = Collected { uploads: 1, bytes: 3_000, ..Collected::default() };
    assert_eq!(yard.engine.collect(true).await.unwrap(), expected);
    assert_eq!(yard.engine.collect(false).await.unwrap(), expected);
    assert!(yard.engine.upload(&scope, &Principal::Operator, &id).await.is_err());
    assert_eq!(std::fs::read_dir(yard.dir.path().join("tmp")).unwrap().count(), 0);
}

/// Within the grace no push is ever refused on account of cleanup, and nothing acknowledged is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn pushes_and_mounts_beside_cleanup_lose_nothing() {
    let yard = std::sync::Arc::new(Yard::new(roomy()).await);
    let shared = Content::random(77, 5_000);
    let mut pushers = tokio::task::JoinSet::new();
    for pusher in 0..6_u64 {
        let (yard, shared) = (yard.clone(), shared.clone());
        pushers.spawn(async move {
            let place = format!("docker-local/p{pusher}");
            for round in 0..25 {
                let layer = Content::random(1_000 * pusher + round, 2_000);
                yard.push_blob(&place, &layer).await.unwrap();
                // What the others leave behind is removed and brought again all the time.
                yard.push_blob(&place, &shared).await.unwrap();
                let mounted = yard.mount(&format!("other/p{pusher}"), &layer.digest, &place).await.unwrap();
                assert!(mounted);
                let image = Thing::manifest(&shared, &[&layer], None);
                yard.push_manifest(&place, Some("latest"), &image.content).await.unwrap();
                assert_eq!(yard.blob(&place, &layer.digest).await.unwrap(), layer.bytes);
                assert_eq!(yard.blob(&place, &shared.digest).await.unwrap(), shared.bytes);
                yard.delete(&place, &image.digest().to_string()).await.unwrap();
                yard.age(&place, &shared.digest).await;
                yard.age(&place, &layer.digest).await;
                yard.age(&format!("other/p{pusher}"), &layer.digest).await;
            }
        });
    }
    let mut removed = 0;
    let mut runs = 0;
    while !pushers.is_empty() {
        removed += yard.engine.collect(false).await.unwrap().blobs;
        runs += 1;
        while let Some(ended) = pushers.try_join_next() {
            ended.unwrap();
        }
    }
    removed += yard.engine.collect(false).await.unwrap().blobs;
    println!("{runs} cleanups removed {removed} blobs");
    assert!(removed >= 6 * 25, "{removed}");
    assert_eq!(yard.engine.status().await.counts.pinned_bytes, 0);
}

/// Uploads within minutes of their end, everything else within the hour.
#[tokio::test]
async fn cleanup_runs_by_itself() {
    const MINUTE: Duration = Duration::from_secs(60);
    let yard = Yard::new(Settings { upload_life: 10 * MINUTE, ..roomy() }).await;
    let stray = Content::random(1, 5_000);
    yard.push_blob(APP, &stray).await.unwrap();
    let scope = yard.scope(APP);
    let id = yard.engine.start_upload(&scope, &Principal::Operator, Algorithm::Sha256).await.unwrap();
    let mut upload = yard.engine.upload(&scope, &Principal::Operator, &id).await.unwrap();
    upload.append(vec![stray.bytes.clone()]).await.unwrap();
    drop(upload);

    // Less than an hour.
    pass(20 * MINUTE).await;
    let drafts = || std::fs::read_dir(yard.dir.path().join("tmp")).unwrap().count();
    let over = async || yard.engine.upload_len(&scope, &Principal::Operator, &id).await.is_err();
    found("the upload is over", async || (over().await && drafts() == 0).then_some(())).await;
    assert!(yard.file_of(&stray.digest).exists());

    pass(48 * 60 * MINUTE).await;
    found("the blob is gone", async || (!yard.file_of(&stray.digest).exists()).then_some(())).await;
    assert!(is_unknown(yard.blob(APP, &stray.digest).await));
}
