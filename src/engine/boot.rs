//! Owns the start: what lies in store and metadata is told to the coordinator, leftovers are swept, drafts
//! are kept for who asks for them. Pulls work meanwhile.
//! Must not know: what is done with the index afterwards.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::actor::Coordination;
use super::documents;
use super::drafts::Leftover;
use super::flight::FlightKey;
use super::model::EngineError;
use super::shared::Shared;
use super::sweep;
use super::uploads;
use crate::cache::Event;
use crate::meta::{Batch, ContentRow, CopyRow, DraftRow, Durability, MetaError};
use crate::names::Digest;
use crate::store::{Checkpoint, Scan};

/// A draft that nobody asked for again within this time goes.
const DRAFT_LIFE: Duration = Duration::from_secs(24 * 3600);

/// What the scan of the file storage found. `true`: pushed, never evicted.
#[derive(Default)]
struct Found {
    present: Vec<(Digest, CopyRow, bool)>,
    /// Files without a row: adopted as suspects, without links, first to be evicted.
    adopted: Vec<(Digest, CopyRow, bool)>,
    /// Rows without a file.
    missing: Vec<(Digest, CopyRow, bool)>,
}

/// Makes the drafts of earlier runs known, before the first request. Those of nobody are removed.
pub(super) fn take_stock_of_drafts(shared: &Shared) -> Result<(), EngineError> {
    let mut known = HashMap::new();
    sweep::each::<DraftRow>(shared, |id, row| {
        known.insert(id, row);
    })?;
    let uploads: HashSet<_> = uploads::take_stock(shared)?.into_iter().collect();
    let now = shared.clock.wall().0;
    let oldest = now.saturating_sub(u64::try_from(DRAFT_LIFE.as_millis()).unwrap_or(u64::MAX));
    let mut remove = Vec::new();
    shared.store.scan_drafts(&mut |id| match known.remove(&id.0) {
        Some(row) if row.created_ms >= oldest => {
            let checkpoints = row
                .checkpoints
                .iter()
                .filter_map(|(len, prefix)| Some(Checkpoint { len: *len, prefix: prefix.parse().ok()? }));
            shared.drafts.leave(row.digest, Leftover { id, checkpoints: checkpoints.collect() });
        }
        _ if uploads.contains(&id) => {}
        _ => remove.push(id),
    })?;
    for id in &remove {
        shared.store.remove_draft(*id)?;
    }
    // Rows whose file is gone stay until something else removes them: harmless, and few.
    if !remove.is_empty() {
        tracing::info!(drafts = remove.len(), "removed drafts of an earlier run");
    }
    Ok(())
}

/// Tells the coordinator what lies here, oldest use first. In the background.
pub(super) async fn load_index(shared: Arc<Shared>, coordination: Coordination) {
    let found = match shared.read(scan).await {
        Ok(found) => found,
        Err(error) => {
            tracing::error!(%error, "the file storage cannot be listed: nothing will be evicted");
            return;
        }
    };
    let Found { mut present, adopted, missing } = found;
    note(&shared, &adopted, &missing).await;
    tracing::info!(
        blobs = present.len(),
        adopted = adopted.len(),
        missing = missing.len(),
        "the index of the file storage is loaded"
    );
    present.extend(adopted);
    present.sort_by_key(|(_, row, _)| row.last_used_ms);
    for (digest, row, pinned) in present {
        let event = Event::Load {
            key: FlightKey::Content(digest),
            upstream: row.upstream,
            size: row.size,
            used: row.last_used_ms,
            pinned,
        };
        coordination.tell(event).await;
    }
    sweep::space(&shared, &coordination).await;
    coordination.tell(Event::Loaded).await;
    count_documents(&shared).await;
}

/// Each on the condition that nothing happened to the digest since it was looked at. What was pushed keeps its content
/// row: the promise stands, and whoever brings the bytes again fulfils it.
async fn note(shared: &Shared, adopted: &[(Digest, CopyRow, bool)], missing: &[(Digest, CopyRow, bool)]) {
    for (digest, row, _) in adopted {
        let mut batch = Batch::new(Durability::Relaxed);
        batch.require_absent::<CopyRow>(digest).put(digest, row);
        apply(shared, batch).await;
    }
    for (digest, row, pushed) in missing {
        let mut batch = Batch::new(Durability::Relaxed);
        batch.require_equal::<CopyRow>(digest, row).delete::<CopyRow>(digest);
        if apply(shared, batch).await && *pushed {
            tracing::error!(%digest, size = row.size, "a pushed blob's file is missing: it must be pushed again");
        }
    }
}

/// False if the digest was fetched, pushed or evicted meanwhile: that is the newer truth.
async fn apply(shared: &Shared, batch: Batch) -> bool {
    match shared.meta.apply(batch).await {
        Ok(()) => true,
        Err(MetaError::Conflict(_)) => false,
        Err(error) => {
            tracing::warn!(%error, "what the start found cannot be noted");
            true
        }
    }
}

async fn count_documents(shared: &Arc<Shared>) {
    if let Err(error) = shared.read(documents::count).await {
        tracing::warn!(%error, "the documents cannot be counted");
    }
}

fn scan(shared: &Shared) -> Result<Found, EngineError> {
    let mut rows = HashMap::new();
    sweep::each::<CopyRow>(shared, |digest, row| {
        rows.insert(digest, row);
    })?;
    let mut pushed = HashSet::new();
    sweep::each::<ContentRow>(shared, |digest, row| {
        if row.pushed {
            pushed.insert(digest);
        }
    })?;
    let mut found = Found::default();
    shared.store.scan(&mut |scanned| match scanned {
        Scan::Blob { digest, size } => match rows.remove(&digest) {
            Some(row) => found.present.push((digest, row, pushed.contains(&digest))),
            None => {
                let row = CopyRow { size, durable: false, epoch: 0, last_used_ms: 0, upstream: 0 };
                found.adopted.push((digest, row, pushed.contains(&digest)));
            }
        },
        Scan::Foreign(path) => {
            tracing::warn!(path = %path.display(), "a file in the data directory that is not ours: left alone");
        }
    })?;
    let missing = rows.into_iter().map(|(digest, row)| (digest, row, pushed.contains(&digest)));
    found.missing = missing.collect();
    Ok(found)
}
