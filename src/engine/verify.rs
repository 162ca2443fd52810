//! Owns the check of a file that an unclean stop made suspect.
//! Must not know: who asks, and what becomes of a damaged blob's readers.

use std::sync::Arc;

use super::model::EngineError;
use super::shared::Shared;
use crate::meta::{Batch, CopyRow, Durability, MetaError, MetaExt as _};
use crate::names::Digest;

/// Hashes the file. One that is as it should be is suspect no more; another one is set aside and its row goes.
/// Answers whether to look again; what is pushed meanwhile is the newer truth.
pub(super) async fn verify(shared: &Arc<Shared>, digest: &Digest) -> Result<bool, EngineError> {
    let digest = *digest;
    let seen = shared
        .read(move |shared| {
            let Some(copy) = shared.meta.get::<CopyRow>(&digest)? else { return Ok(None) };
            let whole = match shared.store.open(&digest)? {
                Some(blob) => blob.size() == copy.size && blob.hash(digest.algorithm())? == digest,
                None => false,
            };
            Ok(Some((copy, whole)))
        })
        .await?;
    let Some((copy, whole)) = seen else { return Ok(false) };
    let _turn = shared.turns.take(&digest).await;
    let mut batch = Batch::new(Durability::Relaxed);
    batch.require_equal(&digest, &copy);
    if whole {
        batch.put(&digest, &CopyRow { epoch: shared.epoch, ..copy });
    } else {
        batch.delete::<CopyRow>(&digest);
    }
    match shared.meta.apply(batch).await {
        Ok(()) => {}
        Err(MetaError::Conflict(_)) => return Ok(true),
        Err(error) => return Err(error.into()),
    }
    if !whole {
        tracing::warn!(%digest, "a cached blob was damaged by an unclean stop: set aside");
        shared.read(move |shared| Ok(shared.store.quarantine(&digest)?)).await?;
    }
    Ok(whole)
}
