//! Owns the check of a file that an unclean stop made suspect, before its first byte goes out.
//! Must not know: who asks, and what becomes of a damaged blob's readers.

use std::sync::Arc;

use super::damage;
use super::model::EngineError;
use super::shared::Shared;
use crate::meta::{Batch, CopyRow, Durability, MetaError, MetaExt as _};
use crate::names::Digest;
use crate::store::{Blob, Trouble};

/// What hashing a file showed.
enum Found {
    NoRow,
    Whole(CopyRow),
    /// With the file, where there is one of ours.
    Damaged(CopyRow, Option<Blob>),
}

/// Hashes the file. One that is as it should be is suspect no more; another one is set aside and its row goes.
/// Answers whether to look again; what is pushed meanwhile is the newer truth.
pub(super) async fn verify(shared: &Arc<Shared>, digest: &Digest) -> Result<bool, EngineError> {
    let digest = *digest;
    match shared.read(move |shared| examine(shared, &digest)).await? {
        Found::NoRow => Ok(false),
        Found::Whole(row) => {
            let _turn = shared.turns.take(&digest).await;
            let mut batch = Batch::new(Durability::Relaxed);
            batch.require_equal(&digest, &row);
            batch.put(&digest, &CopyRow { epoch: shared.epoch, ..row });
            match shared.meta.apply(batch).await {
                Ok(()) | Err(MetaError::Conflict(_)) => Ok(true),
                Err(error) => Err(error.into()),
            }
        }
        Found::Damaged(row, blob) => {
            tracing::warn!(%digest, "a cached blob was damaged by an unclean stop: it is set aside");
            damage::put_away(shared, digest, Some(row), blob).await
        }
    }
}

fn examine(shared: &Shared, digest: &Digest) -> Result<Found, EngineError> {
    let Some(row) = shared.meta.get::<CopyRow>(digest)? else { return Ok(Found::NoRow) };
    let blob = match shared.store.open(digest) {
        Ok(Some(blob)) => blob,
        Ok(None) => return Ok(Found::Damaged(row, None)),
        Err(error) if Trouble::of(&error) == Trouble::Shortage => return Err(error.into()),
        // No file of ours, or unreadable: the sweep, or the next copy, takes its place.
        Err(error) => {
            tracing::warn!(%digest, %error, "a cached blob cannot be opened");
            return Ok(Found::Damaged(row, None));
        }
    };
    if blob.size() != row.size {
        return Ok(Found::Damaged(row, Some(blob)));
    }
    match blob.hash(digest.algorithm()) {
        Ok(hash) if hash == *digest => Ok(Found::Whole(row)),
        Err(error) if Trouble::of(&error) == Trouble::Shortage => Err(error.into()),
        Ok(_) | Err(_) => Ok(Found::Damaged(row, Some(blob))),
    }
}
