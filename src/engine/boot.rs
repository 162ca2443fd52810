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
use crate::clock::UnixMillis;
use crate::meta::{Batch, ContentRow, CopyRow, DraftRow, Durability, MetaError, MetaExt as _};
use crate::names::Digest;
use crate::store::{Checkpoint, Scan};

/// A draft that nobody asked for again within this time goes.
const DRAFT_LIFE: Duration = Duration::from_secs(24 * 3600);
/// After the file storage could not be listed.
const LIST_AGAIN: Duration = Duration::from_secs(30);

/// What the scan of the file storage found. `true`: pushed, never evicted.
#[derive(Default)]
struct Found {
    present: Vec<(Digest, CopyRow, bool)>,
    /// Files without a row: adopted as suspects, without links, first to be evicted.
    adopted: Vec<(Digest, CopyRow, bool)>,
    /// Rows without a file.
    missing: Vec<(Digest, CopyRow, bool)>,
}

/// Blobs that are told to the cache before its other messages get their turn.
const AT_ONCE: usize = 1_000;

/// Makes the drafts of earlier runs known, before the first request. Those of nobody are removed, and so are rows
/// without a draft. What goes wrong here costs no more than a fetch from the beginning.
pub(super) async fn take_stock_of_drafts(shared: &Arc<Shared>) {
    let taken = shared.read(sort_drafts).await;
    match taken {
        Ok(rows) => forget_drafts(shared, &rows).await,
        Err(error) => tracing::warn!(%error, "the drafts of earlier runs cannot be listed"),
    }
}

/// Answers the rows that say nothing any more.
fn sort_drafts(shared: &Shared) -> Result<Vec<u64>, EngineError> {
    let mut known = HashMap::new();
    shared.meta.each::<DraftRow, EngineError>(&(), |id, row| {
        known.insert(id, row);
        Ok(())
    })?;
    let uploads = uploads::take_stock(shared)?;
    let oldest = oldest_draft(shared);
    let (mut remove, mut rows) = (Vec::new(), Vec::new());
    shared.store.scan_drafts(&mut |id, size| match known.remove(&id.0) {
        Some(row) if row.created_ms >= oldest.0 => {
            let (digest, noted) = (row.digest, UnixMillis(row.created_ms));
            let checkpoints = row
                .checkpoints
                .iter()
                .filter_map(|(len, prefix)| Some(Checkpoint { len: *len, prefix: prefix.parse().ok()? }));
            let leftover = Leftover { id, checkpoints: checkpoints.collect(), noted };
            remove.extend(shared.drafts.leave(digest, leftover).map(|other| (other.id, true)));
        }
        row => match uploads.get(&id) {
            Some(session) => session.left(size),
            None => remove.push((id, row.is_some())),
        },
    })?;
    rows.extend(known.into_keys());
    for (id, has_row) in &remove {
        match shared.store.remove_draft(*id) {
            Ok(_) => rows.extend(has_row.then_some(id.0)),
            Err(error) => tracing::warn!(%error, "a draft of an earlier run stays"),
        }
    }
    if !remove.is_empty() {
        tracing::info!(drafts = remove.len(), "removed drafts of an earlier run");
    }
    Ok(rows)
}

/// Removes the drafts that nobody asked for again.
pub(super) async fn drop_old_drafts(shared: &Arc<Shared>) {
    let old = shared.drafts.take_older(oldest_draft(shared));
    drop_drafts(shared, old, "removed drafts that nobody asked for again").await;
}

async fn drop_drafts(shared: &Arc<Shared>, drafts: Vec<Leftover>, why: &str) {
    if drafts.is_empty() {
        return;
    }
    let ids: Vec<_> = drafts.iter().map(|leftover| leftover.id).collect();
    let removed = shared
        .read(move |shared| {
            let removed = ids.into_iter().filter(|id| shared.store.remove_draft(*id).is_ok());
            Ok(removed.map(|id| id.0).collect::<Vec<_>>())
        })
        .await;
    if let Ok(rows) = removed {
        tracing::info!(drafts = rows.len(), "{why}");
        forget_drafts(shared, &rows).await;
    }
}

fn oldest_draft(shared: &Shared) -> UnixMillis {
    let life = u64::try_from(DRAFT_LIFE.as_millis()).unwrap_or(u64::MAX);
    UnixMillis(shared.clock.wall().0.saturating_sub(life))
}

async fn forget_drafts(shared: &Shared, rows: &[u64]) {
    for rows in rows.chunks(sweep::ROWS) {
        let mut batch = Batch::new(Durability::Relaxed);
        for id in rows {
            batch.delete::<DraftRow>(id);
        }
        if let Err(error) = shared.meta.apply(batch).await {
            tracing::warn!(%error, "rows of drafts stay until the next start");
        }
    }
}

/// Tells the coordinator what lies here, oldest use first. In the background, and again if it cannot be read: until
/// then nothing is evicted.
pub(super) async fn load_index(shared: Arc<Shared>, coordination: Coordination) {
    let found = loop {
        match shared.read(scan).await {
            Ok(found) => break found,
            Err(error) => {
                tracing::error!(%error, "the file storage cannot be listed: nothing is evicted yet")
            }
        }
        tokio::select! {
            () = tokio::time::sleep(LIST_AGAIN) => {}
            () = shared.tasks.stopping() => return,
        }
    };
    let Found { mut present, adopted, missing } = found;
    let adopted = note(&shared, adopted, &missing).await;
    tracing::info!(
        blobs = present.len(),
        adopted = adopted.len(),
        missing = missing.len(),
        "the index of the file storage is loaded"
    );
    present.extend(adopted);
    let whole = present.iter().filter_map(|(digest, ..)| shared.drafts.take(digest)).collect();
    drop_drafts(&shared, whole, "removed drafts of what lies here whole").await;
    present.sort_by_key(|(_, row, _)| row.last_used_ms);
    for (number, (digest, row, pinned)) in present.into_iter().enumerate() {
        if number % AT_ONCE == 0 {
            // An answer means that everything told so far was taken: requests get their turn in between.
            coordination.counts().await;
        }
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
/// row: the promise stands, and whoever brings the bytes again fulfils it. Answers what was adopted.
async fn note(
    shared: &Shared,
    adopted: Vec<(Digest, CopyRow, bool)>,
    missing: &[(Digest, CopyRow, bool)],
) -> Vec<(Digest, CopyRow, bool)> {
    let mut noted = Vec::new();
    for (digest, row, pushed) in adopted {
        let mut batch = Batch::new(Durability::Relaxed);
        batch.require_absent::<CopyRow>(&digest).put(&digest, &row);
        match shared.meta.apply(batch).await {
            Ok(()) => noted.push((digest, row, pushed)),
            // Fetched meanwhile: the fill has counted it.
            Err(MetaError::Conflict(_)) => {}
            Err(error) => tracing::warn!(%digest, %error, "a file without a row cannot be adopted"),
        }
    }
    for (digest, row, pushed) in missing {
        let mut batch = Batch::new(Durability::Relaxed);
        batch.require_equal::<CopyRow>(digest, row).delete::<CopyRow>(digest);
        match shared.meta.apply(batch).await {
            // Fetched, or pushed, meanwhile.
            Err(MetaError::Conflict(_)) => continue,
            Err(error) => tracing::warn!(%digest, %error, "a row without a file stays"),
            Ok(()) => {}
        }
        if *pushed {
            tracing::error!(%digest, size = row.size, "a pushed blob's file is missing: it must be pushed again");
        }
    }
    noted
}

async fn count_documents(shared: &Arc<Shared>) {
    if let Err(error) = shared.read(documents::count).await {
        tracing::warn!(%error, "the documents cannot be counted");
    }
}

fn scan(shared: &Shared) -> Result<Found, EngineError> {
    let mut rows = HashMap::new();
    shared.meta.each::<CopyRow, EngineError>(&(), |digest, row| {
        rows.insert(digest, row);
        Ok(())
    })?;
    let mut pushed = HashSet::new();
    shared.meta.each::<ContentRow, EngineError>(&(), |digest, row| {
        if row.pushed {
            pushed.insert(digest);
        }
        Ok(())
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
