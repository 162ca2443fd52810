//! Owns the account of cached manifests, and removing them: above their cap, and on request. What was pushed is no
//! cache and is neither counted nor removed here.
//! Must not know: files, who asks for a manifest.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::model::EngineError;
use super::shared::Shared;
use super::sweep::{self, ROWS};
use crate::meta::{Batch, ContentRow, DocumentRow, Durability, LinkRow, MetaError, MetaExt as _, TagRow};
use crate::names::Digest;

/// Documents go down to this share of their cap at once.
const LOW_PERCENT: u64 = 90;

/// Bytes that are counted here rather than in the coordinator.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    documents: AtomicU64,
}

impl Sizes {
    pub fn document_added(&self, bytes: u64) {
        self.documents.fetch_add(bytes, Ordering::Relaxed);
    }

    fn set(&self, bytes: u64) {
        self.documents.store(bytes, Ordering::Relaxed);
    }

    fn documents(&self) -> u64 {
        self.documents.load(Ordering::Relaxed)
    }
}

/// Counts them once, after the start.
pub(super) fn count(shared: &Shared) -> Result<(), EngineError> {
    let mut total = 0;
    each_cached(shared, |_, row| total += row.bytes.len() as u64)?;
    shared.sizes.document_added(total);
    Ok(())
}

/// Removes the least recently used documents above the cap, with the links and tags that rest on them.
pub(super) async fn cap(shared: &Arc<Shared>) -> Result<(), EngineError> {
    let cap = shared.settings.document_cap;
    if shared.sizes.documents() <= cap {
        return Ok(());
    }
    // The rows say how things were some minutes ago.
    sweep::note_document_uses(shared).await;
    let victims = shared.read(move |shared| oldest(shared, cap)).await?;
    if victims.is_empty() {
        return Ok(());
    }
    tracing::info!(documents = victims.len(), "removing the least recently used manifests");
    forget(shared, victims).await
}

/// Which documents must go so that there is room again. Corrects the running count on the way: above the cap it may be,
/// and not they.
fn oldest(shared: &Shared, cap: u64) -> Result<Vec<Digest>, EngineError> {
    let mut all = Vec::new();
    let mut total = 0;
    each_cached(shared, |digest, row| {
        let size = row.bytes.len() as u64;
        total += size;
        all.push((row.last_used_ms, size, digest));
    })?;
    let keep = if total > cap { cap / 100 * LOW_PERCENT } else { total };
    all.sort_unstable();
    let mut victims = Vec::new();
    for (_, size, digest) in all {
        if total <= keep {
            break;
        }
        total -= size;
        victims.push(digest);
    }
    shared.sizes.set(total);
    Ok(victims)
}

fn each_cached(shared: &Shared, mut visit: impl FnMut(Digest, DocumentRow)) -> Result<(), EngineError> {
    shared.meta.each::<DocumentRow, EngineError>(&(), |digest, row| {
        if shared.meta.get::<ContentRow>(&digest)?.is_none() {
            visit(digest, row);
        }
        Ok(())
    })
}

/// Documents, and in every repository the links and tags that name them. Each removal requires that the document
/// was not pushed since it was chosen.
pub(super) async fn forget(shared: &Arc<Shared>, victims: Vec<Digest>) -> Result<(), EngineError> {
    let victims: BTreeSet<Digest> = victims.into_iter().collect();
    let batches = shared
        .read(move |shared| {
            let mut removals = Removals::default();
            shared.meta.each::<TagRow, EngineError>(&(), |key, row| {
                if victims.contains(&row.digest) {
                    removals.next(&row.digest).delete::<TagRow>(&key);
                }
                Ok(())
            })?;
            shared.meta.each::<LinkRow, EngineError>(&(), |key, _| {
                if victims.contains(&key.2) {
                    removals.next(&key.2).delete::<LinkRow>(&key);
                }
                Ok(())
            })?;
            for digest in &victims {
                removals.next(digest).delete::<DocumentRow>(digest);
            }
            Ok(removals.batches)
        })
        .await?;
    for batch in batches {
        match shared.meta.apply(batch).await {
            Ok(()) => {}
            Err(MetaError::Conflict(_)) => {
                tracing::debug!("a manifest was pushed while it was being removed: it and some others stay");
            }
            Err(error) => return Err(error.into()),
        }
    }
    shared.answers.clear();
    shared.resolutions.clear();
    Ok(())
}

#[derive(Default)]
struct Removals {
    batches: Vec<Batch>,
    rows: usize,
}

impl Removals {
    /// Where the next removal on account of `digest` goes.
    fn next(&mut self, digest: &Digest) -> &mut Batch {
        if self.rows.is_multiple_of(ROWS) {
            self.batches.push(Batch::new(Durability::Relaxed));
        }
        self.rows += 1;
        let batch = self.batches.last_mut().expect("one was pushed before the first row");
        batch.require_absent::<ContentRow>(digest)
    }
}
