//! Mounts: what another image has is linked, not sent.

use serde_json::json;

use super::client::{Answer, Ask};
use super::house::House;
use super::pusher::{Pusher, blob, manifest, uploads};
use super::rig::{Disk, Ledger, Mood};
use super::support::image::{Content, Image};
use super::support::patience::found;
use super::support::upstream::Registry;
use super::workshop::Workshop;

async fn mount(client: Pusher, name: &str, content: &Content, from: &str) -> Answer {
    let from = if from.is_empty() { String::new() } else { format!("&from={from}") };
    let target = format!("{}?mount={}{from}", uploads(name), content.digest);
    client.send(Ask::new("POST", &target)).await
}

fn is_mounted(answer: &Answer, name: &str, content: &Content) -> bool {
    if answer.status == 201 {
        assert_eq!(answer.header("location"), Some(blob(name, &content.digest).as_str()));
        assert_eq!(answer.header("docker-content-digest"), Some(content.digest.to_string().as_str()));
        return true;
    }
    assert_eq!(answer.status, 202, "{}", answer.all());
    assert!(answer.header("location").unwrap().contains("/blobs/uploads/"));
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_is_mounted_from_where_it_is() {
    let house = House::new().await;
    let client = Pusher(house.address);
    let content = Content::random(1, 100_000);
    assert_eq!(client.blob("from/here", &content).await.status, 201);
    let cases = [
        ("to/named", "docker-local/from/here", true),
        ("to/unnamed", "", true),
        ("from/here", "docker-local/to/nowhere", true),
        ("to/elsewhere", "docker-local/not/there", false),
        ("to/nonsense", "docker-local/UPPER", false),
        ("to/strange", "no-such-repository/x", false),
    ];
    for (name, from, expected) in cases {
        let answer = mount(client, name, &content, from).await;
        assert_eq!(is_mounted(&answer, name, &content), expected, "{name} from {from:?}");
        let there = client.get(&blob(name, &content.digest)).await;
        assert_eq!(there.status == 200, expected);
    }
    let unknown = Content::random(2, 10);
    assert!(!is_mounted(&mount(client, "to/named", &unknown, "").await, "to/named", &unknown));
    assert!(!is_mounted(&mount(client, "to/named", &unknown, "docker-local/from/here").await, "x", &unknown));
    // What was mounted stays when its source goes.
    let target = blob("from/here", &content.digest);
    assert_eq!(client.send(Ask::new("DELETE", &target)).await.status, 202);
    assert_eq!(client.get(&blob("to/named", &content.digest)).await.body, content.bytes);
    let house = house.restart().await;
    assert_eq!(house.get(&blob("to/named", &content.digest)).await.body, content.bytes);
}

/// The session that a refused mount answers with takes the blob.
#[tokio::test(flavor = "multi_thread")]
async fn a_mount_that_cannot_be_is_an_upload() {
    let house = House::new().await;
    let client = Pusher(house.address);
    let content = Content::random(3, 5000);
    let answer = mount(client, "to", &content, "docker-local/from").await;
    let location = answer.header("location").unwrap().to_owned();
    assert_eq!(client.finish(&location, &content.digest, &content.bytes).await.status, 201);
    assert_eq!(client.get(&blob("to", &content.digest)).await.body, content.bytes);
}

/// The source had the blob when it was looked for, and has lost it when the link is to be made. What was deleted by then
/// is not linked anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_mount_whose_source_goes_meanwhile_is_an_upload() {
    let dir = tempfile::tempdir().unwrap();
    let (server, ledger) = Workshop::open(dir, Disk::default(), |meta| Ledger::over(meta).into()).await;
    let client = Pusher(server.address);
    for (seed, from, deleted) in [(5, "docker-local/from", true), (6, "", true), (7, "", false)] {
        let content = Content::random(seed, 5000);
        assert_eq!(client.blob("from", &content).await.status, 201);
        ledger.is(Mood::HoldsLinking);
        let meanwhile = async {
            found("the mount is held", async || (ledger.held() == 1).then_some(())).await;
            if deleted {
                let target = blob("from", &content.digest);
                assert_eq!(client.send(Ask::new("DELETE", &target)).await.status, 202);
            }
            ledger.is(Mood::Well);
        };
        let (answer, ()) = tokio::join!(mount(client, "to", &content, from), meanwhile);
        assert_eq!(is_mounted(&answer, "to", &content), !deleted, "{from:?}");
        let there = client.get(&blob("to", &content.digest)).await;
        assert_eq!(there.status, if deleted { 404 } else { 200 }, "{from:?}");
    }
    server.stop().await;
}

/// A cached layer of a remote is made durable when it is mounted, and stays when the remote goes.
#[tokio::test(flavor = "multi_thread")]
async fn a_cached_layer_is_mounted_from_a_remote() {
    let registry = Registry::open().await;
    let image = Image::new(4, &[300_000]);
    registry.add_image("base/os", "1", &image);
    let house = House::beside(&registry).await;
    let client = Pusher(house.address);
    let layer = &image.layers[0];
    // Known to the remote, but not here: it must be uploaded.
    client.get("/v2/docker-remote/base/os/manifests/1").await;
    assert!(!is_mounted(&mount(client, "app", layer, "docker-remote/base/os").await, "app", layer));
    house.cache("base/os", "1", &image).await;
    assert!(is_mounted(&mount(client, "app", layer, "docker-remote/base/os").await, "app", layer));
    assert!(is_mounted(
        &mount(client, "app", &image.config, "docker-remote/base/os").await,
        "app",
        &image.config
    ));
    let answer = client.manifest("app", "v1", Image::MEDIA_TYPE, &image.manifest.bytes).await;
    assert_eq!(answer.status, 201, "{}", answer.all());
    // Neither a purge nor the end of the remote takes it away.
    let purged = house.api("DELETE", "/api/repository/docker-remote?purge=true", &json!({})).await;
    assert_eq!(purged.status, 204, "{}", purged.all());
    let house = house.restart().await;
    let client = Pusher(house.address);
    client.pull("app", "v1", &image).await;
    assert_eq!(client.get(&manifest("app", "v1")).await.status, 200);
}
