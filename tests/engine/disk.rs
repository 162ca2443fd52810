//! A full disk, and one that fails in other ways, refuses nobody: what cannot be kept is fetched past the cache.

use std::sync::Arc;
use std::time::Duration;

use binaryrepo::engine::{BlobAnswer, EngineError, ErrorKind, Verdict};
use binaryrepo::store::Call;
use rustix::io::Errno;
use tokio::task::JoinSet;

use super::house::{Got, House, drain};
use super::restart::Log;
use super::support::fault::{Fault, Gate};
use super::support::upstream::Registry;

const SIZE: usize = 400_000;
/// The engine's own number: so many may fetch past the cache at once.
const PLACES: usize = 32;

async fn nothing_is_left(house: &House) {
    house.rest().await;
    house.eventually("no draft is left", |house| house.drafts() == 0).await;
    assert_eq!(house.metric("binaryrepo_invariant_violations_total"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_space_for_the_first_byte_everybody_is_served_past_the_cache() {
    let registry = Registry::open().await;
    let (house, layer) = House::cold(&registry, SIZE).await;
    let house = Arc::new(house);
    house.disk.fail(Call::Reserve, Errno::NOSPC);
    let gate = Gate::closed();
    registry.script("/blobs/", [Fault::Hold(gate.clone())]);
    let mut clients = JoinSet::new();
    for _ in 0..10 {
        let (house, layer) = (house.clone(), layer.clone());
        clients.spawn(async move { house.pulled("a/b", &layer).await });
    }
    house.until_waiting(10).await;
    gate.open();
    while let Some(verdict) = clients.join_next().await {
        assert_eq!(verdict.unwrap(), Verdict::Bypass);
    }
    assert_eq!(house.metric("binaryrepo_cache_bypass_total"), 10);
    // One for the fill that found no room, and one for each.
    let asked = registry.asked(&layer.digest.to_string()).len();
    assert_eq!(asked, 11);
    // While the disk is known to be full nobody asks the upstream for what could not be kept.
    assert_eq!(house.pulled("a/b", &layer).await, Verdict::Bypass);
    assert_eq!(registry.asked(&layer.digest.to_string()).len(), asked + 1);
    nothing_is_left(&house).await;
    assert!(house.files().is_empty());

    house.disk.heal();
    assert_eq!(house.pulled("a/b", &layer).await, Verdict::Miss);
    house.rest().await;
    assert_eq!(house.pulled("a/b", &layer).await, Verdict::Hit);
}

#[tokio::test(flavor = "multi_thread")]
async fn small_blobs_go_past_a_full_disk_too() {
    let registry = Registry::open().await;
    let (house, layer) = House::cold(&registry, 5_000).await;
    for call in [Call::Reserve, Call::Write, Call::Create] {
        house.disk.fail(call, Errno::NOSPC);
        assert_eq!(house.pulled("a/b", &layer).await, Verdict::Bypass, "{call:?}");
        nothing_is_left(&house).await;
        house.disk.heal();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_thirty_third_is_told_to_come_again() {
    let registry = Registry::open().await;
    let (house, layer) = House::cold(&registry, SIZE).await;
    house.disk.fail(Call::Reserve, Errno::NOSPC);
    let mut open: Vec<BlobAnswer> = Vec::new();
    for _ in 0..PLACES {
        open.push(house.blob("a/b", &layer.digest, "").await.unwrap());
    }
    let error = house.blob("a/b", &layer.digest, "").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Overloaded);
    assert!(error.retry_after.is_some_and(|after| after <= Duration::from_secs(5)));
    // A place is free as soon as a reader has gone, however it went.
    drop(open.pop());
    assert_eq!(house.pulled("a/b", &layer).await, Verdict::Bypass);
    for answer in open {
        assert_eq!(drain(answer.reader.unwrap()).await.whole(), layer.bytes);
    }
    nothing_is_left(&house).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn space_lost_in_the_middle_is_not_noticed_by_the_readers() {
    let size = 1 << 20;
    let registry = Registry::open().await;
    let gate = Gate::closed();
    registry.script("/blobs/", [Fault::HoldAt(256 << 10, gate.clone())]);
    let (house, layer) = House::cold(&registry, size).await;
    // A file system where nothing can be set aside beforehand.
    house.disk.fail(Call::Reserve, Errno::OPNOTSUPP);
    let mut clients = JoinSet::new();
    for _ in 0..8 {
        let answer = house.blob("a/b", &layer.digest, "").await.unwrap();
        assert!(matches!(answer.verdict, Verdict::Miss | Verdict::Joined), "{:?}", answer.verdict);
        let layer = layer.clone();
        clients.spawn(async move {
            assert_eq!(drain(answer.reader.unwrap()).await.whole(), layer.bytes);
        });
    }
    for _ in 0..4 {
        // A part that lies behind the break.
        let answer = house.blob("a/b", &layer.digest, "bytes=900000-900999").await.unwrap();
        let layer = layer.clone();
        clients.spawn(async move {
            assert_eq!(drain(answer.reader.unwrap()).await.whole(), layer.bytes[900_000..901_000]);
        });
    }
    house.eventually("something lies there", |house| house.draft_bytes() > 0).await;
    house.disk.fail(Call::Write, Errno::NOSPC);
    gate.open();
    while let Some(done) = clients.join_next().await {
        done.unwrap();
    }
    let seen = registry.asked(&layer.digest.to_string());
    assert_eq!(seen.len(), 13, "one for the fill, one for each reader");
    // They go on where the draft ended.
    let resumed = seen[1..].iter().filter(|seen| seen.range().is_some_and(|range| range != "bytes=0-"));
    assert_eq!(resumed.count(), 12);
    nothing_is_left(&house).await;
    assert!(house.files().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn past_the_cache_a_wrong_body_is_never_complete() {
    for (size, fault) in [
        (SIZE, Fault::WrongByteAt(10)),
        (SIZE, Fault::WrongByteAt(SIZE as u64 - 1)),
        (SIZE, Fault::Longer(10)),
        (SIZE, Fault::All(vec![Fault::Longer(10), Fault::NoLength])),
        (3_000, Fault::WrongByteAt(0)),
    ] {
        let registry = Registry::open().await;
        let (house, layer) = House::cold(&registry, size).await;
        house.disk.fail(Call::Reserve, Errno::NOSPC);
        assert_eq!(house.pulled("a/b", &layer).await, Verdict::Bypass);
        registry.always("/blobs/", fault.clone());
        match house.pull("a/b", &layer.digest).await {
            Ok(Got::Whole(_)) => panic!("{fault:?} was served as whole"),
            Ok(Got::Broken(bytes)) => assert!(bytes.len() < size, "{fault:?}"),
            Err(error) => assert_eq!(error.kind, ErrorKind::UpstreamUnavailable, "{fault:?}"),
        }
        nothing_is_left(&house).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn past_the_cache_a_broken_connection_is_taken_up_and_refusals_are_told_apart() {
    let registry = Registry::open().await;
    let (house, layer) = House::cold(&registry, SIZE).await;
    house.disk.fail(Call::Reserve, Errno::NOSPC);
    assert_eq!(house.pulled("a/b", &layer).await, Verdict::Bypass);
    for faults in [
        vec![Fault::ResetAt(150_000), Fault::CloseAt(100_000)],
        vec![Fault::CloseAt(150_000), Fault::IgnoreRange],
        vec![Fault::ResetBeforeHead, Fault::status(503)],
    ] {
        registry.script("/blobs/", faults);
        assert_eq!(house.pulled("a/b", &layer).await, Verdict::Bypass);
    }
    registry.script("/blobs/", [Fault::status(404)]);
    assert_eq!(house.blob("a/b", &layer.digest, "").await.unwrap_err().kind, ErrorKind::BlobUnknown);
    registry.script("/blobs/", [Fault::answer(429, &[("retry-after", "7")], "")]);
    let error = house.blob("a/b", &layer.digest, "").await.unwrap_err();
    assert_eq!((error.kind, error.retry_after), (ErrorKind::TooManyRequests, Some(Duration::from_secs(7))));
    nothing_is_left(&house).await;
}

/// Others filled the disk since the last look. Before the first waiter is sent past the cache, the account is taken
/// anew and room is made by it; then the blob is kept after all.
#[tokio::test(flavor = "multi_thread")]
async fn room_is_made_out_of_turn_before_anybody_goes_past_the_cache() {
    for call in [Call::Reserve, Call::Write] {
        let registry = Registry::open().await;
        let (house, layer) = House::cold(&registry, SIZE).await;
        house.disk.fail_times(1, call, Errno::NOSPC);
        assert_eq!(house.pulled("a/b", &layer).await, Verdict::Miss, "{call:?}");
        house.rest().await;
        assert_eq!(house.pulled("a/b", &layer).await, Verdict::Hit, "{call:?}");
        assert_eq!(registry.asked(&layer.digest.to_string()).len(), 1, "{call:?}");
        assert_eq!(house.metric("binaryrepo_cache_bypass_total"), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_failures_of_the_disk_refuse_nobody_either() {
    use Verdict::{Bypass, Miss};
    // Once a fill has begun, its client follows it already, or not yet.
    for (call, errno, verdicts) in [
        (Call::Create, Errno::ROFS, &[Bypass][..]),
        (Call::Create, Errno::MFILE, &[Bypass]),
        (Call::Create, Errno::IO, &[Bypass]),
        (Call::Reserve, Errno::DQUOT, &[Bypass]),
        (Call::Reserve, Errno::IO, &[Bypass]),
        (Call::Write, Errno::IO, &[Miss, Bypass]),
        (Call::Write, Errno::FBIG, &[Miss, Bypass]),
        (Call::Rename, Errno::XDEV, &[Miss, Bypass]),
        (Call::Rename, Errno::ACCESS, &[Miss, Bypass]),
        (Call::Rename, Errno::NOSPC, &[Miss, Bypass]),
    ] {
        let registry = Registry::open().await;
        let (house, layer) = House::cold(&registry, SIZE).await;
        house.disk.fail(call, errno);
        let verdict = house.pulled("a/b", &layer).await;
        assert!(verdicts.contains(&verdict), "{call:?} {errno:?}: {verdict:?}");
        nothing_is_left(&house).await;
        assert!(house.files().is_empty(), "{call:?} {errno:?}: nothing is kept");
        house.disk.heal();
        assert_eq!(house.pulled("a/b", &layer).await, Verdict::Miss, "{call:?} {errno:?}");
        house.rest().await;
        assert_eq!(house.pulled("a/b", &layer).await, Verdict::Hit, "{call:?} {errno:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn short_writes_and_signals_are_not_noticed() {
    let registry = Registry::open().await;
    let (house, layer) = House::cold(&registry, SIZE).await;
    house.disk.fail_times(5, Call::Write, Errno::INTR);
    house.disk.short_writes(1_000);
    assert_eq!(house.pulled("a/b", &layer).await, Verdict::Miss);
    house.rest().await;
    assert_eq!(house.pulled("a/b", &layer).await, Verdict::Hit);
}

/// Without descriptors a cached blob cannot be opened. That says nothing about the blob: it stays, and the client is
/// told to come again.
#[tokio::test(flavor = "multi_thread")]
async fn want_of_descriptors_damages_nothing() {
    let registry = Registry::open().await;
    let (house, layer) = House::cold(&registry, SIZE).await;
    assert_eq!(house.pulled("a/b", &layer).await, Verdict::Miss);
    house.rest().await;
    for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM] {
        house.disk.fail(Call::Open, errno);
        let error = house.blob("a/b", &layer.digest, "").await.unwrap_err();
        assert_eq!((error.kind, error.retry_after), (ErrorKind::Overloaded, Some(Duration::from_secs(1))));
        house.disk.heal();
        assert_eq!(house.pulled("a/b", &layer).await, Verdict::Hit);
    }
    assert_eq!(registry.asked(&layer.digest.to_string()).len(), 1);
    assert_eq!(house.set_aside(), 0);
}

/// An upstream that sends a few bytes and breaks off, each time a few bytes further, was asked without end.
#[tokio::test(flavor = "multi_thread")]
async fn a_few_bytes_further_are_no_progress() {
    let registry = Registry::open().await;
    let (house, layer) = House::cold(&registry, SIZE).await;
    registry.always("/blobs/", Fault::CloseAt(1_000));
    let got = house.pull("a/b", &layer.digest).await.unwrap().broken();
    assert_eq!(got, layer.bytes[..3_000]);
    assert_eq!(registry.asked(&layer.digest.to_string()).len(), 3);
    nothing_is_left(&house).await;
}

/// It was logged where it arose, and once more by the task that met it.
#[test]
fn a_failure_of_the_disk_is_logged_by_who_ends_its_way() {
    let log = Log::default();
    let listening = log.listen();
    let failure = std::io::Error::from_raw_os_error(Errno::IO.raw_os_error());
    let (shown, error) = (failure.to_string(), EngineError::from(failure));
    assert_eq!(log.text(), "");
    // A task shows the error itself; no client sees the cause.
    assert_eq!(error.to_string(), format!("the file storage failed: {shown}"));
    assert!(!error.message.contains(&shown), "{}", error.message);
    error.report();
    drop(listening);
    let text = log.text();
    assert!(text.lines().count() == 1 && text.contains("the file storage failed"), "{text}");
    assert!(text.contains(&shown), "{text}");
}
