//! Owns what happens to a cached copy that is not what it should be: set aside, its row dropped, the cache told, so
//! that the next request fetches it again. And the look at suspects, before their first byte goes out.
//! Must not know: who wanted to read it, HTTP.

use std::io;

use super::Engine;
use super::flight::FlightKey;
use super::model::EngineError;
use super::shared::Shared;
use crate::cache::Event;
use crate::meta::{Batch, CopyRow, Durability, MetaError, MetaExt as _};
use crate::names::Digest;
use crate::store::{Blob, Trouble};

impl Engine {
    /// A row without its file, or a file that is none of ours: the sweep looks, in its turn, and then it is fetched
    /// again.
    pub(super) async fn lost(&self, digest: &Digest) {
        tracing::warn!(%digest, "a cached blob's file is missing or damaged: it is fetched again");
        self.coordination.tell(Event::Lost { key: FlightKey::Content(*digest) }).await;
    }

    /// Reading `blob` failed. Nothing is done where that says nothing about its bytes.
    pub(super) async fn unreadable(&self, digest: Digest, blob: Blob, error: &io::Error) {
        if Trouble::of(error) != Trouble::Damage {
            return;
        }
        self.shared.metrics.disk_error();
        tracing::error!(%digest, %error, "disk_error: a cached blob cannot be read: it is set aside");
        let aside = self
            .shared
            .read(move |shared| {
                let row = shared.meta.get::<CopyRow>(&digest)?;
                set_aside(shared, &digest, &blob)?;
                Ok(row)
            })
            .await;
        match aside {
            Ok(row) => {
                if let Err(error) = drop_row(&self.shared, &digest, row).await {
                    tracing::warn!(%digest, %error, "its row stays, until somebody asks for it");
                }
            }
            Err(error) => tracing::error!(%digest, %error, "and cannot be set aside"),
        }
        self.lost(&digest).await;
    }

    /// The same, from where nobody can wait for it.
    pub(super) fn report_unreadable(&self, digest: Digest, blob: Blob, error: io::Error) {
        let engine = self.clone();
        self.shared.tasks.spawn(async move { engine.unreadable(digest, blob, &error).await });
    }
}

/// Only this file: what was published in its place since is not damaged.
fn set_aside(shared: &Shared, digest: &Digest, blob: &Blob) -> Result<(), EngineError> {
    shared.store.quarantine(digest, Some(blob))?;
    Ok(())
}

/// A pushed copy's row stays: it says that there should be bytes.
async fn drop_row(shared: &Shared, digest: &Digest, row: Option<CopyRow>) -> Result<(), MetaError> {
    let Some(row) = row.filter(|row| !row.durable) else { return Ok(()) };
    let mut batch = Batch::new(Durability::Relaxed);
    batch.require_equal(digest, &row).delete::<CopyRow>(digest);
    match shared.meta.apply(batch).await {
        // Somebody noted a newer copy.
        Err(MetaError::Conflict(_)) => Ok(()),
        applied => applied,
    }
}

/// What hashing a suspect showed.
enum Found {
    Whole(CopyRow),
    Damaged(CopyRow),
    /// Evicted, or noted anew by somebody: the next look tells.
    Changed,
}

/// Hashes a file that lay here through an unclean stop. Answers whether it may be served.
pub(super) async fn verify(shared: &std::sync::Arc<Shared>, digest: Digest) -> Result<bool, EngineError> {
    let found = shared.read(move |shared| examine(shared, &digest)).await?;
    match found {
        Found::Whole(row) => {
            let mut batch = Batch::new(Durability::Relaxed);
            let trusted = CopyRow { epoch: shared.epoch, ..row.clone() };
            batch.require_equal(&digest, &row).put(&digest, &trusted);
            match shared.meta.apply(batch).await {
                Ok(()) | Err(MetaError::Conflict(_)) => Ok(true),
                Err(error) => Err(error.into()),
            }
        }
        Found::Damaged(row) => {
            drop_row(shared, &digest, Some(row)).await?;
            Ok(false)
        }
        Found::Changed => Ok(true),
    }
}

fn examine(shared: &Shared, digest: &Digest) -> Result<Found, EngineError> {
    let Some(row) = shared.meta.get::<CopyRow>(digest)? else { return Ok(Found::Changed) };
    if row.durable || row.epoch >= shared.trusted_since {
        return Ok(Found::Changed);
    }
    let blob = match shared.store.open(digest) {
        Ok(Some(blob)) => blob,
        Ok(None) => return Ok(Found::Damaged(row)),
        Err(error) if Trouble::of(&error) == Trouble::Shortage => return Err(error.into()),
        // No file of ours, or unreadable: the sweep, or the next copy, takes its place.
        Err(error) => {
            tracing::warn!(%digest, %error, "a cached blob cannot be opened");
            return Ok(Found::Damaged(row));
        }
    };
    let hashed = if blob.size() == row.size { blob.hash(digest.algorithm()).map(Some) } else { Ok(None) };
    match hashed {
        Ok(Some(hash)) if hash == *digest => Ok(Found::Whole(row)),
        Err(error) if Trouble::of(&error) == Trouble::Shortage => Err(error.into()),
        _ => {
            tracing::warn!(%digest, "a cached blob was damaged by an unclean stop: it is set aside");
            set_aside(shared, digest, &blob)?;
            Ok(Found::Damaged(row))
        }
    }
}
