//! What only a look from inside can show: the order in which the actor hears.

use std::task::{Context, Poll, Waker};

use tempfile::TempDir;

use super::super::accounts::Accounts;
use super::super::repositories::Repositories;
use super::super::settings::Settings;
use super::super::shared::Parts;
use super::*;
use crate::cache::Refusal;
use crate::clock::Clock;
use crate::meta::{Meta, Options, RedbMeta};
use crate::names::{Algorithm, RepositoryId};
use crate::store::FsStore;
use crate::telemetry::Metrics;

async fn shared(dir: &TempDir) -> Arc<Shared> {
    let (meta, opened) = RedbMeta::open(&dir.path().join("meta.redb"), Options::default()).expect("metadata");
    let meta: Arc<dyn Meta> = Arc::new(meta);
    let (clock, settings) = (Clock::new(), Settings::default());
    Arc::new(Shared::new(Parts {
        repositories: Repositories::load(&meta, &clock, settings.timeouts).expect("no repositories"),
        store: Arc::new(FsStore::open(dir.path()).expect("a store")),
        accounts: Accounts::load(&meta, &clock).await.expect("no accounts"),
        metrics: Metrics::new(),
        epoch: opened.epoch,
        upgraded_from: None,
        trusted_since: opened.epoch,
        clock,
        meta,
        settings,
    }))
}

fn join(name: &[u8]) -> Join {
    Join {
        key: FlightKey::Content(Digest::of(Algorithm::Sha256, name)),
        source: Source { repository: RepositoryId(1), image: "a/b".parse().expect("a name") },
        proven: true,
        negative: Duration::ZERO,
        deadline: None,
    }
}

/// A client that is gone before the actor has heard of it: its Leave comes by the faster inbox and found nobody, and
/// then its Join waited for an answer that nobody wanted.
#[tokio::test]
async fn who_leaves_before_being_heard_is_not_waited_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let shared = shared(&dir).await;
    let coordination = Coordination::start(&shared);
    {
        let joining = coordination.join(join(b"1"));
        let mut joining = std::pin::pin!(joining);
        assert!(matches!(joining.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending));
    }
    let counts = coordination.counts().await;
    assert_eq!((counts.waiters, counts.flights, counts.queued), (0, 0, 0));
    assert_eq!(coordination.reports.capacity(), REPORTS);
}

/// However many wait, the reports of those who serve them find a place.
#[tokio::test]
async fn waiters_leave_room_for_those_who_serve_them() {
    let dir = tempfile::tempdir().expect("a directory");
    let shared = shared(&dir).await;
    let coordination = Coordination::start(&shared);
    let taken = coordination.reports.reserve_many(REPORTS - KEPT + 1).await.expect("an actor");
    assert!(coordination.join(join(b"2")).await.is_err());
    drop(taken);
    // Nobody knows the repository.
    let joined = coordination.join(join(b"2")).await.expect("an answer");
    assert!(matches!(joined, Joined::Refused { why: Refusal::Failed(Failure::NotFound), .. }), "{joined:?}");
}
