//! Fetches that nobody needs any more. A client's leaving ends none; these are the two ways in which one ends early.

use std::time::Duration;

use binaryrepo::engine::{RemoteSpec, RepositorySpec, Verdict, Want};

use super::house::{House, drain, scope, whole};
use super::support::fault::{Fault, Gate};
use super::support::patience::found;
use super::support::upstream::{Options, Registry};

const SIZE: usize = 8 << 20;
/// At this rate all of it takes eight seconds.
const SLOW: u64 = 1 << 20;

/// A push brought what the upstream had not begun to send. The upstream used to be waited for all the same, and all of it
/// was fetched, for nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_ends_where_a_push_brings_the_same_bytes_first() {
    let registry = Registry::open().await;
    let (house, layer) = House::cold(&registry, SIZE).await;
    let gate = Gate::closed();
    registry.script("/blobs/", [Fault::Hold(gate.clone())]);
    let waiting = house.blob("a/b", &layer.digest, "");
    let pushing = async {
        house.until_waiting(1).await;
        house.add_local().await;
        house.push(&layer).await.unwrap();
    };
    let (answer, ()) = tokio::join!(waiting, pushing);
    let answer = answer.unwrap();
    assert_eq!(answer.verdict, Verdict::Hit);
    assert_eq!(drain(answer.reader.unwrap()).await.whole(), layer.bytes);

    house.rest().await;
    gate.open();
    house.eventually("its draft is gone", |house| house.drafts() == 0).await;
    assert_eq!(house.pulled("a/b", &layer).await, Verdict::Hit);
    let asked = registry.asked(&layer.digest.to_string());
    assert_eq!((asked.len(), asked[0].bytes_sent), (1, 0));
    nothing_is_wrong(&house);
}

/// It used to go on to the last byte, which nobody could find any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_nobody_reads_ends_with_its_repository() {
    ends_after(async |house| remove(house, "hub").await).await;
}

/// What comes is the old upstream's, and the new one must say itself what it has.
#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_nobody_reads_ends_where_its_remote_is_pointed_elsewhere() {
    let other = Registry::open().await;
    ends_after(async |house| {
        let elsewhere = RepositorySpec::Remote(Box::new(RemoteSpec::new(other.url())));
        house.engine.update_repository(&"hub".parse().unwrap(), elsewhere).await.unwrap();
    })
    .await;
    assert!(other.log().is_empty());
}

/// A fetch goes on for who reads after this was done, and ends when they leave.
async fn ends_after(deed: impl AsyncFnOnce(&House)) {
    let registry = Registry::start(Options { connection_rate: Some(SLOW), ..Options::default() }).await;
    let (house, layer) = House::cold(&registry, SIZE).await;
    let sent = || registry.asked(&layer.digest.to_string())[0].bytes_sent;
    let reading = house.blob("a/b", &layer.digest, "").await.unwrap();
    deed(&house).await;
    let before = sent();
    house.eventually("it goes on for who reads", |_| sent() > before + (SLOW >> 2)).await;
    drop(reading);
    house.rest().await;
    house.eventually("its draft is gone", |house| house.drafts() == 0).await;
    assert!(house.files().is_empty());
    // The registry sees that the connection is closed: what it counts stays as it is.
    let still = async || {
        let before = sent();
        tokio::time::sleep(Duration::from_millis(300)).await;
        (sent() == before).then_some(before)
    };
    assert!(found("nothing is sent any more", still).await < SIZE as u64);
    nothing_is_wrong(&house);
}

/// Who had the right to it when they asked reads to the end, as from a file that was removed meanwhile; and so does who
/// reads along through another repository.
#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_goes_on_without_its_repository_while_somebody_reads() {
    let registry = Registry::start(Options { connection_rate: Some(SLOW), ..Options::default() }).await;
    let (house, layer) = House::cold(&registry, SIZE).await;
    house.add("other", RemoteSpec::new(registry.url())).await;
    let other = scope(&house.engine, "other", "a/b");
    house.engine.manifest(&other, &"latest".parse().unwrap(), Want::Body).await.unwrap();
    let own = house.blob("a/b", &layer.digest, "").await.unwrap();
    let another = house.engine.blob(&other, &layer.digest, whole()).await.unwrap();
    assert_eq!(another.verdict, Verdict::Joined);
    remove(&house, "hub").await;
    drop(own);
    assert_eq!(drain(another.reader.unwrap()).await.whole(), layer.bytes);
    house.rest().await;
    assert_eq!(registry.asked(&layer.digest.to_string()).len(), 1);
    nothing_is_wrong(&house);
}

async fn remove(house: &House, name: &str) {
    house.engine.delete_repository(&name.parse().unwrap(), false).await.unwrap();
}

fn nothing_is_wrong(house: &House) {
    assert_eq!(house.metric("binaryrepo_invariant_violations_total"), 0);
}
