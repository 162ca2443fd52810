//! Owns what happens to a cached copy that is not what it should be: set aside, its row dropped, the cache told, so
//! that the next request fetches it again.
//! Must not know: who wanted to read it, HTTP.

use std::io;
use std::sync::Arc;

use super::Engine;
use super::flight::FlightKey;
use super::model::EngineError;
use super::shared::Shared;
use crate::cache::Event;
use crate::meta::{Batch, CopyRow, Durability, MetaError, MetaExt as _};
use crate::names::Digest;
use crate::planted::Bug;
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
        if Trouble::of(error) != Trouble::Damage || Bug::DamageStays.is_planted() {
            return;
        }
        self.shared.metrics.disk_error();
        tracing::error!(%digest, %error, "disk_error: a blob cannot be read: it is set aside");
        let row = self.shared.read(move |shared| Ok(shared.meta.get::<CopyRow>(&digest)?)).await;
        let away = match row {
            Ok(row) => put_away(&self.shared, digest, row, Some(blob)).await,
            Err(error) => Err(error),
        };
        if let Err(error) = away {
            tracing::error!(%digest, %error, "a damaged blob cannot be set aside");
        }
        self.lost(&digest).await;
    }

    /// The same, from where nobody can wait for it.
    pub(super) fn report_unreadable(&self, digest: Digest, blob: Blob, error: io::Error) {
        let engine = self.clone();
        self.shared.tasks.spawn(async move { engine.unreadable(digest, blob, &error).await });
    }
}

/// Drops the row of a damaged copy and sets its file aside. A pushed copy's row stays: it says that there should be
/// bytes. Answers whether somebody noted a newer copy meanwhile, which stays too.
pub(super) async fn put_away(
    shared: &Arc<Shared>,
    digest: Digest,
    row: Option<CopyRow>,
    blob: Option<Blob>,
) -> Result<bool, EngineError> {
    let _turn = shared.turns.take(&digest).await;
    if let Some(row) = row.filter(|row| !row.durable) {
        let mut batch = Batch::new(Durability::Relaxed);
        batch.require_equal(&digest, &row).delete::<CopyRow>(&digest);
        match shared.meta.apply(batch).await {
            Ok(()) => {}
            Err(MetaError::Conflict(_)) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
    if let Some(blob) = blob {
        shared.read(move |shared| Ok(shared.store.quarantine(&digest, Some(&blob))?)).await?;
    }
    Ok(false)
}
