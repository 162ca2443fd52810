//! Manifests that name what their image does not have: what comes later is kept as long as they are, and what does not
//! come is missed by nobody.

use std::collections::BTreeSet;

use binaryrepo::engine::{Collected, ErrorKind, Settings};
use serde_json::json;

use super::model::Thing;
use super::scrub::{damaged_manifest, scrubbed};
use super::support::image::Content;
use super::yard::{Yard, roomy, without_grace};

const APP: &str = "docker-local/team/app";

async fn sparse(settings: Settings) -> Yard {
    let yard = Yard::new(settings).await;
    yard.make_sparse("docker-local").await;
    yard
}

/// With the strictest rules: no grace, and what has no tag goes as well.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_later_stays_as_long_as_what_names_it() {
    let yard = sparse(Settings { collect_untagged: true, ..without_grace() }).await;
    let [config, layer, item, own, stray] = [1, 2, 3, 4, 5].map(|seed| Content::random(seed, 900));
    let image = Thing::manifest(&config, &[&layer], None);
    let platform = Thing::manifest(&own, &[], None);
    let index = Thing::index(&[&image.content, &platform.content]);
    let bundle =
        json!({ "mediaType": "application/vnd.test.bundle+json", "items": [item.digest.to_string()] });
    let bundle = Content::new(bundle.to_string());
    let elsewhere = json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar", "size": 900,
        "digest": stray.digest.to_string(), "urls": ["https://layers.test/5"] });
    let foreign = json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "layers": [elsewhere] });
    let foreign = Content::new(foreign.to_string());
    for (tag, top) in [("image", &image.content), ("index", &index.content), ("bundle", &bundle)] {
        yard.push_manifest(APP, Some(tag), top).await.unwrap();
    }
    let tops = BTreeSet::from([image.digest(), index.digest(), bundle.digest]);
    assert_eq!(yard.engine.collect(false).await.unwrap(), Collected::default());
    assert_eq!(yard.links(APP), tops);

    // By a push, by a mount, as a manifest that itself lacks something, and by a digest in a type that nobody knows.
    yard.push_blob(APP, &config).await.unwrap();
    yard.push_blob("other/store", &layer).await.unwrap();
    assert!(yard.mount(APP, &layer.digest, "other/store").await.unwrap());
    yard.push_manifest(APP, None, &platform.content).await.unwrap();
    for blob in [&item, &own, &stray] {
        yard.push_blob(APP, blob).await.unwrap();
    }
    // The mount's source, and what nothing names.
    let expected = Collected { links: 2, blobs: 1, bytes: 900, ..Collected::default() };
    assert_eq!(yard.engine.collect(false).await.unwrap(), expected);
    let late = [config.digest, layer.digest, item.digest, own.digest, platform.digest()];
    let all: BTreeSet<_> = tops.iter().copied().chain(late).collect();
    assert_eq!(yard.links(APP), all);
    let yard = yard.restart().await;
    assert_eq!(yard.engine.collect(false).await.unwrap(), Collected::default());
    for blob in [&config, &layer, &item, &own] {
        assert_eq!(yard.blob(APP, &blob.digest).await.unwrap(), blob.bytes);
    }
    // A layer that lives elsewhere by its manifest's own word may come as well.
    yard.push_manifest(APP, Some("foreign"), &foreign).await.unwrap();
    yard.push_blob(APP, &stray).await.unwrap();
    assert_eq!(yard.engine.collect(false).await.unwrap(), Collected::default());

    // With what named them they go, each with its own.
    yard.delete(APP, &index.digest().to_string()).await.unwrap();
    let gone = yard.engine.collect(false).await.unwrap();
    assert_eq!((gone.links, gone.manifests, gone.blobs), (2, 2, 1), "the platform and its config: {gone:?}");
    for top in [image.digest(), bundle.digest, foreign.digest] {
        yard.delete(APP, &top.to_string()).await.unwrap();
    }
    let gone = yard.engine.collect(false).await.unwrap();
    assert_eq!((gone.links, gone.manifests, gone.blobs), (4, 3, 4), "{gone:?}");
    assert_eq!((yard.links(APP), yard.engine.status().await.counts.pinned_bytes), (BTreeSet::new(), 0));
}

/// What was never here is not damaged; a manifest that was here and has been lost must come again, sparse or not.
#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_misses_only_what_was_pushed() {
    let yard = sparse(roomy()).await;
    let absent = Content::random(3, 9_000);
    let part = Thing::manifest(&absent, &[], None);
    yard.push_manifest(APP, Some("part"), &part.content).await.unwrap();
    let report = scrubbed(&yard).await;
    assert_eq!((report.blobs, report.manifests, report.lost, report.unnamed), (0, 1, 0, 0));
    assert!(report.damaged.is_empty(), "{report:?}");

    let image = damaged_manifest(&yard, b"{}").await;
    let never = Thing::manifest(&absent, &[&absent], None);
    let index = Thing::index(&[&image.content, &never.content]);
    let report = scrubbed(&yard).await;
    let [lost] = &report.damaged[..] else { panic!("{report:?}") };
    assert_eq!((lost.digest, report.lost), (image.digest(), 1));
    let refused = yard.push_manifest(APP, Some("all"), &index.content).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::ReferencesUnknown(vec![image.digest()]));
    yard.push_manifest(APP, Some("1"), &image.content).await.unwrap();
    yard.push_manifest(APP, Some("all"), &index.content).await.unwrap();
    assert_eq!(yard.manifest(APP, "all").await.unwrap(), index.content.bytes);
}
