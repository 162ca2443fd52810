//! Owns backups: a directory with the metadata of one moment, the blobs that belong to it, and a manifest that is
//! written last. What has no manifest is no backup; what the manifest says is compared with what lies there.
//! Must not know: where the metadata was copied from, HTTP, how progress is shown.
//!
//! ```text
//! DIR/backup.json            what belongs to it; replaced in one step when all the rest is on the disk
//! DIR/metadata-<n>.redb      the rows
//! DIR/blobs-<n>.txt          digest and size, a line each
//! DIR/cas/...                the blobs, as in a data directory
//! ```
//!
//! The next backup into the same directory brings only the blobs that are new, beside the last one, which stays whole
//! until its manifest is replaced.

mod files;
mod form;
mod recover;
mod restore;
mod take;

pub use recover::{RecoverError, Recovered, is_damage, recover};
pub use restore::{UNFINISHED, Whole};
pub use take::{How, Snapshot, take};

use std::future::poll_fn;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::names::Digest;
use crate::store::{DraftId, Durability, FsStore, Store as _};

/// Bytes read at once.
const CHUNK: usize = 1 << 20;
/// Damaged things that a message names; one is enough to know that the backup is none.
const NAMED: usize = 5;

/// Why there is no backup, or none was brought back.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("{} is no whole backup: {why}", dir.display())]
    None { dir: PathBuf, why: String },
    #[error("the backup in {} is damaged: {}", dir.display(), told(what))]
    Damaged { dir: PathBuf, what: Vec<String> },
    #[error("{} is not empty{more}", dir.display())]
    NotEmpty { dir: PathBuf, more: &'static str },
    #[error("another backup into {} is under way", .0.display())]
    InUse(PathBuf),
    #[error("the snapshot cannot be understood: {0}")]
    Snapshot(String),
    #[error("{what}: {error}")]
    Io { what: String, error: io::Error },
}

fn told(what: &[String]) -> String {
    let named = what.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
    match what.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named}; and {more} more"),
    }
}

/// What a backup holds, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    pub taken: String,
    pub repositories: u64,
    pub tags: u64,
    pub manifests: u64,
    pub blobs: u64,
    pub bytes: u64,
    /// Blobs that were not there before.
    pub copied: u64,
    pub copied_bytes: u64,
    /// What should be in it, and was missing or damaged where it was taken from: its digest, and what is wrong.
    pub missing: Vec<String>,
}

/// How far it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub blobs: u64,
    pub bytes: u64,
    pub all_blobs: u64,
    pub all_bytes: u64,
}

impl Progress {
    fn of<'a>(sizes: impl Iterator<Item = &'a u64>) -> Self {
        sizes.fold(Self::default(), |all, size| Self {
            all_blobs: all.all_blobs + 1,
            all_bytes: all.all_bytes.saturating_add(*size),
            ..all
        })
    }

    fn passed(&mut self, size: u64) {
        self.blobs += 1;
        self.bytes = self.bytes.saturating_add(size);
    }
}

/// What became of one blob that was to be copied.
enum Copied {
    Whole,
    /// Where it comes from it is missing, or not what its name says.
    Bad(&'static str),
}

/// Copies one blob durably, and hashes it on the way.
async fn copy_blob(
    from: &FsStore,
    to: &FsStore,
    id: u64,
    (digest, size): (&Digest, u64),
) -> Result<Copied, io::Error> {
    let blob = match from.open(digest) {
        Ok(Some(blob)) if blob.size() == size => blob,
        Ok(Some(_)) => return Ok(Copied::Bad("has another size")),
        Ok(None) => return Ok(Copied::Bad("is missing")),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(Copied::Bad("is no file")),
        Err(error) => return Err(error),
    };
    let mut draft = to.create_draft(DraftId(id), digest.algorithm())?;
    let mut reader = blob.reader(0, size);
    while let Some(chunk) = poll_fn(|cx| reader.poll_chunk(cx, CHUNK)).await {
        let Ok(chunk) = chunk else { return Ok(Copied::Bad("cannot be read")) };
        draft.append(vec![chunk]).await?;
    }
    if draft.digest() != *digest {
        return Ok(Copied::Bad("has other bytes than its digest says"));
    }
    draft.publish(digest, Durability::Durable).await?;
    Ok(Copied::Whole)
}

fn store(dir: &Path) -> Result<FsStore, BackupError> {
    FsStore::open(dir).map_err(|error| io_error("the directory cannot be used", error))
}

fn io_error(what: impl Into<String>, error: io::Error) -> BackupError {
    BackupError::Io { what: what.into(), error }
}
