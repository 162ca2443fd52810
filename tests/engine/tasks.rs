//! Tasks that die, stop, or are not waited for any more.

use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use binaryrepo::api::{self, ApiRequest};
use binaryrepo::engine::{Principal, Verdict, Want};
use bytes::Bytes;
use http::Method;

use super::house::{House, drain};
use super::rig::Mood;
use super::support::fault::Fault;
use super::support::upstream::{Options, Registry};

/// The fill dies in the middle. Its readers are broken off, never ended; the key is free for the next client.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_a_fill_frees_its_key() {
    let registry = Registry::start(Options { connection_rate: Some(1 << 20), ..Options::default() }).await;
    let (house, layer) = House::cold(&registry, 2 << 20).await;
    let answer = house.blob("a/b", &layer.digest, "").await.unwrap();
    // After a second the fill notes its progress.
    house.ledger.is(Mood::Panics);
    let got = drain(answer.reader.unwrap()).await.broken();
    assert_eq!(got, layer.bytes[..got.len()]);
    house.rest().await;
    house.eventually("its draft is gone", |house| house.drafts() == 0).await;
    assert_eq!(house.pulled("a/b", &layer).await, Verdict::Miss);
    assert_eq!(registry.asked(&layer.digest.to_string()).len(), 2);
}

/// The removal dies, and with it the report that everybody who wants this key waits for.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_a_removal_frees_its_key() {
    let registry = Registry::open().await;
    let (house, layer) = House::cold(&registry, 200_000).await;
    assert_eq!(house.pulled("a/b", &layer).await, Verdict::Miss);
    house.rest().await;
    std::fs::remove_file(house.file_of(&layer.digest)).unwrap();
    house.ledger.is(Mood::Panics);
    house.pulled("a/b", &layer).await;
    house.rest().await;
    assert_eq!(house.pulled("a/b", &layer).await, Verdict::Hit);
}

/// A silent upstream must not hold up the stop: what waits for its answer is put down at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_upstream_does_not_hold_up_the_stop() {
    let registry = Registry::open().await;
    let (house, layer) = House::cold(&registry, 200_000).await;
    registry.always("/v2/", Fault::silence());
    let mut blob = Box::pin(house.pull("a/b", &layer.digest));
    let mut manifest = Box::pin(house.manifest("a/b", "other", Want::Body));
    let mut cx = Context::from_waker(Waker::noop());
    registry.forget();
    house
        .eventually("both wait for the upstream", |_| {
            assert!(matches!(blob.as_mut().poll(&mut cx), Poll::Pending));
            assert!(matches!(manifest.as_mut().poll(&mut cx), Poll::Pending));
            registry.log().len() == 2
        })
        .await;
    let started = Instant::now();
    house.engine.shutdown().await;
    // The grace is ten seconds; the stop takes hundredths of one.
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

/// A client that left in the middle of a change took what came after the commit with it: the user was in the metadata,
/// the running server did not know of it, and a second try made a second one of the same name.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_goes_on_where_its_caller_leaves() {
    let registry = Registry::open().await;
    let house = House::new(&registry).await;
    let create = || ApiRequest {
        method: Method::POST,
        path: "/api/users".to_owned(),
        query: None,
        body: Bytes::from_static(br#"{"name":"ada","password":"correct horse battery"}"#),
        caller: Principal::Operator,
    };
    {
        let mut leaving = Box::pin(api::handle(&house.engine, create()));
        assert!(leaving.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    house.eventually("the user is known", |house| !house.engine.accounts().is_empty()).await;
    assert_eq!(api::handle(&house.engine, create()).await.status, 409);
}
