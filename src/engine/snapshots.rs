//! Owns the snapshots of the metadata that the server takes by itself: when one is due, and whether there is room.
//! Must not know: where they lie, how many are kept, who needs one.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::shared::Shared;
use crate::meta::{MetaError, SnapshotFile, Snapshots};

/// One that is overdue is taken when a start has had the time for its own work, and tried again after a failure.
const SOON: Duration = Duration::from_secs(60);

/// What became of a snapshot that was due.
enum Came {
    Taken(SnapshotFile),
    /// The disk is short, and others need it more.
    NoRoom,
    /// The server is stopping.
    Stopped,
}

/// Takes them until the stop, each only if something was committed since the last one.
pub(super) async fn regularly(shared: Arc<Shared>) {
    let (Some(data), Some(every)) = (shared.settings.copies.as_deref(), shared.settings.snapshots) else {
        return;
    };
    let snapshots = Snapshots::of(data);
    let mut wait = first(&shared, &snapshots, every).await;
    let (mut seen, mut told) = (None, false);
    loop {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = shared.tasks.stopping() => return,
        }
        wait = every;
        let commits = shared.meta.commits();
        if seen == Some(commits) {
            continue;
        }
        match take(&shared, &snapshots).await {
            Ok(Came::Taken(taken)) => {
                (seen, told) = (Some(commits), false);
                shared.metrics.snapshot_of(taken.taken_ms() / 1_000);
                tracing::debug!(path = %taken.path.display(), "took a snapshot of the metadata");
                continue;
            }
            Ok(Came::Stopped) => return,
            Ok(Came::NoRoom) if told => {}
            Ok(Came::NoRoom) => {
                told = true;
                tracing::warn!("the disk is short: no snapshot of the metadata is taken until there is room");
            }
            Err(error) => tracing::warn!(error, "a snapshot of the metadata cannot be taken"),
        }
        shared.metrics.snapshot_failed();
        wait = every.min(SOON);
    }
}

/// How long until the first one of this run, by the newest there is.
async fn first(shared: &Arc<Shared>, snapshots: &Snapshots, every: Duration) -> Duration {
    let listed = snapshots.clone();
    let newest = blocking(shared, move |_| {
        listed.clear()?;
        Ok(listed.list()?.into_iter().next())
    });
    let soon = every.min(SOON);
    match newest.await {
        Ok(Some(newest)) => {
            shared.metrics.snapshot_of(newest.taken_ms() / 1_000);
            let age = Duration::from_millis(shared.clock.wall().0.saturating_sub(newest.taken_ms()));
            every.saturating_sub(age).max(soon)
        }
        Ok(None) => soon,
        Err(error) => {
            tracing::warn!(error, "the snapshots of the metadata cannot be listed");
            soon
        }
    }
}

async fn take(shared: &Arc<Shared>, snapshots: &Snapshots) -> Result<Came, String> {
    let snapshots = snapshots.clone();
    let work = move |shared: &Shared| {
        if !has_room(shared, &snapshots)? {
            return Ok(Came::NoRoom);
        }
        let go_on = || !shared.tasks.is_stopping();
        match snapshots.take(shared.meta.as_ref(), shared.stamp(), &go_on) {
            Err(MetaError::Closed) if shared.tasks.is_stopping() => Ok(Came::Stopped),
            taken => taken.map(Came::Taken),
        }
    };
    blocking(shared, work).await
}

/// `Err` says why, to whoever reads the log.
async fn blocking<T, F>(shared: &Arc<Shared>, work: F) -> Result<T, String>
where
    T: Send + 'static,
    F: FnOnce(&Shared) -> Result<T, MetaError> + Send + 'static,
{
    match shared.read(move |shared| Ok(work(shared))).await {
        Ok(Err(MetaError::Io(error))) => Err(error.to_string()),
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(error) => Err(error.message),
    }
}

/// A cache that is full has its disk filled up to what it leaves to others, so half of that may be used: the cache makes
/// room again.
fn has_room(shared: &Shared, snapshots: &Snapshots) -> io::Result<bool> {
    let space = shared.store.space()?;
    let kept = shared.settings.keep_free(space.total) / 2;
    let left = space.free.checked_sub(snapshots.size()?);
    Ok(!shared.room.is_short() && left.is_some_and(|left| left >= kept))
}
