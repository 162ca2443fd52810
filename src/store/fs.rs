//! Owns the store on a local file system: one data directory, its writer threads, its read buffers.
//! Must not know: the cache's decisions, the metadata, HTTP.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::buffer::Buffers;
use super::draft::{Checkpoint, Draft, Parts, Resting};
use super::faults::Faults;
use super::file::StoreFile;
use super::layout::Layout;
use super::reader::Blob;
use super::writer::Writers;
use super::{DraftId, Store};
use crate::names::{Algorithm, Digest};

/// How much room there is on the disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    pub total: u64,
    /// What an ordinary process may still fill.
    pub free: u64,
}

/// One thing that lies in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scan {
    Blob {
        digest: Digest,
        size: u64,
    },
    /// Not of our making.
    Foreign(PathBuf),
}

/// Blobs as files of one directory.
#[derive(Debug)]
pub struct FsStore {
    layout: Arc<Layout>,
    writers: Writers,
    buffers: Arc<Buffers>,
    faults: Faults,
}

impl FsStore {
    /// Makes what is missing in `dir`. Refused where it is not all one file system.
    pub fn open(dir: &Path) -> io::Result<Self> {
        Self::start(dir, Faults::default())
    }

    /// The same, with system calls that fail when the test says so.
    #[cfg(feature = "planted-bugs")]
    pub fn open_with(dir: &Path, faults: Faults) -> io::Result<Self> {
        Self::start(dir, faults)
    }

    fn start(dir: &Path, faults: Faults) -> io::Result<Self> {
        let layout = Arc::new(Layout::open(dir, faults.clone())?);
        Ok(Self { layout, writers: Writers::start()?, buffers: Arc::default(), faults })
    }

    /// Gives a blob of another store, on the same file system and synced there, a name here. `false`: it is not there.
    pub fn link_from(&self, other: &Self, digest: &Digest) -> io::Result<bool> {
        self.layout.link_from(&other.layout, digest)
    }

    fn file(&self, file: std::fs::File) -> Arc<StoreFile> {
        Arc::new(StoreFile::new(file, Arc::clone(&self.buffers), self.faults.clone()))
    }

    fn parts(&self, id: DraftId, file: std::fs::File) -> Parts {
        Parts { id, file: self.file(file), layout: Arc::clone(&self.layout), lane: self.writers.lane(id.0) }
    }
}

impl Store for FsStore {
    fn open(&self, digest: &Digest) -> io::Result<Option<Blob>> {
        let Some(file) = self.layout.open_blob(digest)? else { return Ok(None) };
        let file = self.file(file);
        let size = file.len()?;
        Ok(Some(Blob::new(file, size)))
    }

    fn create_draft(&self, id: DraftId, algorithm: Algorithm) -> io::Result<Draft> {
        let file = self.layout.create_draft(id)?;
        Ok(Draft::new(self.parts(id, file), algorithm))
    }

    fn reopen_draft(
        &self,
        id: DraftId,
        algorithm: Algorithm,
        checkpoints: &[Checkpoint],
    ) -> io::Result<Option<Draft>> {
        let Some(file) = self.layout.open_draft(id)? else { return Ok(None) };
        Draft::resume(self.parts(id, file), algorithm, checkpoints)
    }

    fn resume_draft(&self, id: DraftId, algorithm: Algorithm) -> io::Result<Option<Draft>> {
        let Some(file) = self.layout.open_draft(id)? else { return Ok(None) };
        Draft::resume_all(self.parts(id, file), algorithm).map(Some)
    }

    fn wake_draft(&self, resting: Resting) -> io::Result<Option<Draft>> {
        let id = resting.id();
        let Some(file) = self.layout.open_draft(id)? else { return Ok(None) };
        Ok(Some(resting.wake(self.parts(id, file))))
    }

    fn unlink(&self, digest: &Digest) -> io::Result<bool> {
        self.layout.remove_blob(digest)
    }

    fn quarantine(&self, digest: &Digest, damaged: Option<&Blob>) -> io::Result<bool> {
        self.layout.quarantine(digest, damaged.map(Blob::identity).transpose()?)
    }

    fn remove_draft(&self, id: DraftId) -> io::Result<bool> {
        self.layout.remove_draft(id)
    }

    fn scan(&self, each: &mut dyn FnMut(Scan)) -> io::Result<()> {
        self.layout.scan(each)
    }

    fn scan_drafts(&self, each: &mut dyn FnMut(DraftId)) -> io::Result<()> {
        self.layout.scan_drafts(each)
    }

    fn space(&self) -> io::Result<Space> {
        self.layout.space()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.layout.sync_all()
    }

    fn promote(&self, digest: &Digest) -> io::Result<bool> {
        let Some(file) = self.layout.open_blob(digest)? else { return Ok(false) };
        self.file(file).sync_data()?;
        self.layout.sync_shard(digest)?;
        Ok(true)
    }
}

#[cfg(test)]
impl FsStore {
    /// A draft that writes to `file`, wherever that lies.
    pub(super) fn draft_over(&self, id: DraftId, file: std::fs::File) -> Draft {
        Draft::new(self.parts(id, file), Algorithm::Sha256)
    }

    /// One for the store, one for each open file, one for each chunk that is still alive.
    pub(super) fn buffer_holders(&self) -> usize {
        Arc::strong_count(&self.buffers)
    }
}
