//! A metadata store that takes no writes, for a while or for good: pulls go on.

use binaryrepo::engine::{Verdict, Want};

use super::house::House;
use super::rig::Mood;
use super::support::image::Image;
use super::support::upstream::Registry;

const SIZE: usize = 200_000;

#[tokio::test(flavor = "multi_thread")]
async fn pulls_go_on_while_nothing_can_be_noted() {
    for mood in [Mood::Dead, Mood::Closed] {
        let registry = Registry::open().await;
        let (known, new) = (Image::new(91, &[SIZE, 500]), Image::new(92, &[SIZE, 500]));
        registry.add_image("a/b", "known", &known);
        registry.add_image("a/b", "new", &new);
        let house = House::new(&registry).await;
        house.manifest("a/b", "known", Want::Body).await.unwrap();
        assert_eq!(house.pulled("a/b", &known.layers[0]).await, Verdict::Miss);
        house.rest().await;
        house.ledger.is(mood);

        assert_eq!(house.manifest("a/b", "known", Want::Body).await.unwrap().verdict, Verdict::Hit);
        assert_eq!(house.pulled("a/b", &known.layers[0]).await, Verdict::Hit, "{mood:?}");
        for _ in 0..3 {
            let manifest = house.manifest("a/b", "new", Want::Body).await.unwrap();
            assert_eq!(manifest.bytes, new.manifest.bytes);
            for layer in known.layers.iter().chain(new.blobs()) {
                house.pulled("a/b", layer).await;
                house.rest().await;
            }
        }
        house.rest().await;
        let status = house.engine.status().await;
        // That it takes no writes just now is no reason to send pulls elsewhere.
        assert_eq!(status.ready, mood == Mood::Dead, "{:?}", status.checks);

        house.ledger.is(Mood::Well);
        for _ in 0..2 {
            house.manifest("a/b", "new", Want::Body).await.unwrap();
            for layer in new.blobs() {
                house.pulled("a/b", layer).await;
            }
            house.rest().await;
        }
        for layer in new.blobs() {
            assert_eq!(house.pulled("a/b", layer).await, Verdict::Hit, "{mood:?}");
        }
        assert_eq!(house.metric("binaryrepo_invariant_violations_total"), 0);
        house.eventually("no draft is left", |house| house.drafts() == 0).await;
    }
}
