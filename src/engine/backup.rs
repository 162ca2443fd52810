//! Owns the snapshot for a backup: a copy of the metadata as of one moment, reduced to what a backup can keep, and the
//! blobs that belong to it. What is cached can be fetched again and is left out.
//! Must not know: how a backup looks, where it goes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::Engine;
use super::model::{EngineError, ErrorKind};
use super::sweep::ROWS;
use crate::meta::{
    Batch, ContentRow, CopyRow, DocumentRow, DraftRow, Durability, Meta, MetaError, MetaExt as _, Options,
    RedbMeta, RepositoryRow, SessionRow, TagRow,
};
use crate::names::Digest;

/// The metadata of one moment, and what belongs to it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// A metadata file as an orderly stop leaves it. Whoever asked takes it away.
    pub file: PathBuf,
    /// The layout of its tables.
    pub schema: u32,
    pub taken_ms: u64,
    pub counts: Counts,
    /// All that was pushed, with sizes. A manifest is in the metadata, unless it was pushed as a blob as well.
    pub blobs: BTreeMap<Digest, u64>,
}

/// What the metadata holds, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub repositories: u64,
    pub tags: u64,
    /// Also those of remotes.
    pub manifests: u64,
}

impl Engine {
    /// Takes a snapshot while everything goes on.
    pub async fn snapshot(&self) -> Result<Snapshot, EngineError> {
        let Some(dir) = self.shared.settings.copies.clone() else {
            return Err(EngineError::new(ErrorKind::Unsupported, "this server keeps no files to back up"));
        };
        let engine = self.clone();
        self.to_its_end(async move {
            let taken_ms = engine.shared.clock.wall().0;
            let copied = engine.shared.read(move |shared| {
                let go_on = || !shared.tasks.is_stopping();
                let file = shared.meta.copy_into(&dir, shared.stamp(), &go_on).map_err(not_copied)?;
                let (copy, opened) = RedbMeta::open(file.path(), Options::default()).map_err(not_copied)?;
                Ok((look(&copy)?, copy, file, opened.schema))
            });
            let (Found { counts, blobs, go }, copy, file, schema) = copied.await?;
            for batch in go.batches {
                copy.apply(batch).await.map_err(not_copied)?;
            }
            copy.close().await.map_err(not_copied)?;
            Ok(Snapshot { file: file.hand_over(), schema, taken_ms, counts, blobs })
        })
        .await
    }
}

fn not_copied(error: MetaError) -> EngineError {
    match error {
        MetaError::Closed => error.into(),
        error => EngineError::new(ErrorKind::Overloaded, format!("the metadata cannot be copied: {error}")),
    }
}

/// What a copy holds, and what of it lies nowhere in a backup: uploads and downloads under way, and what is cached.
struct Found {
    counts: Counts,
    blobs: BTreeMap<Digest, u64>,
    go: Going,
}

fn look(copy: &dyn Meta) -> Result<Found, EngineError> {
    let mut counts = Counts::default();
    copy.each::<RepositoryRow, EngineError>(&(), |_, row| {
        counts.repositories += u64::from(!row.retired);
        Ok(())
    })?;
    copy.each::<TagRow, EngineError>(&(), |_, _| {
        counts.tags += 1;
        Ok(())
    })?;
    copy.each::<DocumentRow, EngineError>(&(), |_, _| {
        counts.manifests += 1;
        Ok(())
    })?;
    let (mut blobs, mut go) = (BTreeMap::new(), Going::default());
    copy.each::<CopyRow, EngineError>(&(), |digest, row| {
        if copy.get::<ContentRow>(&digest)?.is_some_and(|content| content.pushed) {
            blobs.insert(digest, row.size);
        } else {
            go.with(|batch| batch.delete::<CopyRow>(&digest));
        }
        Ok(())
    })?;
    copy.each::<ContentRow, EngineError>(&(), |digest, row| {
        // What was pushed and has been lost: its name stands in the list, so that the backup tells.
        if row.pushed && !blobs.contains_key(&digest) && copy.get::<DocumentRow>(&digest)?.is_none() {
            blobs.insert(digest, row.size);
        }
        Ok(())
    })?;
    copy.each::<SessionRow, EngineError>(&(), |key, _| {
        go.with(|batch| batch.delete::<SessionRow>(&key));
        Ok(())
    })?;
    copy.each::<DraftRow, EngineError>(&(), |key, _| {
        go.with(|batch| batch.delete::<DraftRow>(&key));
        Ok(())
    })?;
    Ok(Found { counts, blobs, go })
}

/// Rows that are to be deleted, some at a time.
#[derive(Default)]
struct Going {
    batches: Vec<Batch>,
    in_last: usize,
}

impl Going {
    fn with(&mut self, delete: impl FnOnce(&mut Batch) -> &mut Batch) {
        if self.in_last == 0 || self.in_last == ROWS {
            self.batches.push(Batch::new(Durability::Relaxed));
            self.in_last = 0;
        }
        if let Some(last) = self.batches.last_mut() {
            delete(last);
            self.in_last += 1;
        }
    }
}
