//! Cached manifests at their cap, and what goes with a manifest that goes.

use std::time::Duration;

use binaryrepo::engine::{Settings, Verdict, Want};
use binaryrepo::meta::{DocumentRow, MetaExt as _};
use binaryrepo::names::Digest;

use super::house::{House, pass, roomy};
use super::support::image::Image;
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
