//! The scripted registry keeps its own promises: later tests measure with it.

use std::time::{Duration, Instant};

use binaryrepo::upstream::Kind;

use crate::support::fault::Fault;
use crate::support::image::{Image, Index};
use crate::support::patience::found;
use crate::support::upstream::{Options, Registry};
use crate::{client, drain, image, reference};

#[tokio::test]
async fn all_connections_share_a_line() {
    let line = Options { line_rate: Some(1 << 20), ..Options::default() };
    let own = Options { connection_rate: Some(1 << 20), ..Options::default() };
    // Half a second for each, all at once or one after the other.
    for (options, least, most) in [(line, 3.9, 60.0), (own, 0.45, 3.5)] {
        let registry = Registry::start(options).await;
        let blob = registry.add_blob("library/redis", 1, 1 << 19);
        let upstream = client(&registry);
        let started = Instant::now();
        let fetch = || async {
            let response = upstream.blob(&image(), &blob.digest, None).await.unwrap();
            assert_eq!(drain(response).await.0, blob.bytes);
        };
        futures_util::future::join_all((0..8).map(|_| fetch())).await;
        let took = started.elapsed().as_secs_f64();
        assert!(took > least && took < most, "{took} s, not between {least} and {most}");
        assert_eq!(registry.asked("/blobs/").iter().map(|seen| seen.bytes_sent).sum::<u64>(), 8 << 19);
    }
}

#[tokio::test]
async fn a_script_is_followed_in_order_and_then_over() {
    let registry = Registry::open().await;
    registry.add_image("library/redis", "latest", &Image::new(1, &[10]));
    registry.script("/manifests/", [Fault::status(500), Fault::None, Fault::status(502)]);
    let upstream = client(&registry);
    let mut statuses = Vec::new();
    for _ in 0..4 {
        let result = upstream.manifest(&image(), &reference("latest")).await;
        statuses.push(result.err().and_then(|error| error.status));
    }
    assert_eq!(statuses, [Some(500), None, Some(502), None]);
}

#[tokio::test]
async fn a_stopped_registry_comes_back_as_it_was() {
    let registry = Registry::open().await;
    let index = Index::new(1, &["amd64", "arm64"], &[10, 20]);
    registry.add_index("library/redis", "latest", &index);
    let upstream = client(&registry);
    registry.always("/v2/", Fault::DelayHead(Duration::from_secs(60)));
    let asking = upstream.clone();
    let waiting = tokio::spawn(async move { asking.ping().await });
    found("it is asked", async || registry.log().pop()).await;
    registry.stop().await;
    assert_eq!(waiting.await.unwrap().unwrap_err().kind, Kind::Broken);
    assert_eq!(upstream.ping().await.unwrap_err().kind, Kind::Connect);
    registry.resume().await;
    registry.behave();
    let body = upstream.manifest(&image(), &reference("latest")).await.unwrap();
    assert_eq!(body.bytes, index.manifest.bytes);
}

#[test]
fn the_same_seed_makes_the_same_image() {
    let (one, two) = (Image::new(9, &[1000, 0]), Image::new(9, &[1000, 0]));
    assert_eq!(one.manifest.digest, two.manifest.digest);
    assert_ne!(one.manifest.digest, Image::new(10, &[1000, 0]).manifest.digest);
    assert_ne!(one.layers[0].digest, one.layers[1].digest);
}
