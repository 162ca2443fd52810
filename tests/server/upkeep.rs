//! Cleanup by the management API, beside a server that serves.

use serde_json::json;

use super::client::{Answer, Ask};
use super::house::House;
use super::support::image::Content;

const APP: &str = "/v2/docker-local/team/app";

async fn push(house: &House, content: &Content) {
    let post = Ask::new("POST", &format!("{APP}/blobs/uploads/?digest={}", content.digest));
    let post = post.header("Content-Type", "application/octet-stream").body(content.bytes.to_vec());
    assert_eq!(house.send(post).await.status, 201);
}

async fn gc(house: &House, query: &str) -> Answer {
    house.send(Ask::new("POST", &format!("/api/gc{query}"))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn cleanup_says_what_it_frees_and_frees_it() {
    let house = House::with(&[("storage.gc_grace", "0s")]).await;
    let blob = Content::random(1, 5_000);
    push(&house, &blob).await;
    let expected = |dry_run: bool| json!({ "dry_run": dry_run, "uploads": 0, "links": 1, "manifests": 0, "blobs": 1, "bytes": 5_000 });
    let target = format!("{APP}/blobs/{}", blob.digest);
    assert_eq!(gc(&house, "?dry_run=true").await.json(), expected(true));
    assert_eq!(house.get(&target).await.body, blob.bytes);
    assert_eq!(house.metric("binaryrepo_pushed_bytes").await, 5_000);
    assert_eq!(gc(&house, "").await.json(), expected(false));
    assert_eq!(house.get(&target).await.code(), (404, "BLOB_UNKNOWN".to_owned()));
    assert_eq!(house.metric("binaryrepo_pushed_bytes").await, 0);
    assert_eq!(house.metric("binaryrepo_collected_bytes_total").await, 5_000);

    assert_eq!(gc(&house, "?dry-run=true").await.api_error().0, 400);
    assert_eq!(house.get("/api/gc").await.status, 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_younger_than_the_grace_stays() {
    let house = House::new().await;
    let blob = Content::random(1, 5_000);
    push(&house, &blob).await;
    assert_eq!(gc(&house, "").await.json()["blobs"], 0);
    assert_eq!(house.get(&format!("{APP}/blobs/{}", blob.digest)).await.body, blob.bytes);
}
