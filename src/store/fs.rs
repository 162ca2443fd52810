//! Owns the store on a local file system: one data directory, its writer threads, its read buffers.
//! Must not know: the cache's decisions, the metadata, HTTP.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::buffer::Buffers;
use super::draft::{Asleep, Checkpoint, Draft, Parts, Resting};
use super::faults::Faults;
use super::file::StoreFile;
use super::layout::Layout;
use super::reader::Blob;
use super::writer::Writers;
use super::{DraftId, Store, Trouble};
use crate::clock::UnixMillis;
use crate::names::{Algorithm, Digest};

/// How much room there is on the disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    pub total: u64,
    /// What an ordinary process may still fill.
    pub free: u64,
}

/// A damaged file that was set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aside {
    pub digest: Digest,
    pub size: u64,
    pub at: UnixMillis,
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

    fn wake_draft(&self, resting: Box<Resting>) -> Result<Option<Draft>, Asleep> {
        let id = resting.id();
        match self.layout.open_draft(id) {
            Ok(file) => Ok(file.map(|file| resting.wake(self.parts(id, file)))),
            Err(error) => Err(Asleep { resting, error }),
        }
    }

    fn unlink(&self, digest: &Digest) -> io::Result<bool> {
        self.layout.remove_blob(digest)
    }

    fn quarantine(&self, digest: &Digest, damaged: Option<&Blob>) -> io::Result<bool> {
        self.layout.quarantine(digest, damaged.map(Blob::identity).transpose()?)
    }

    fn list_aside(&self) -> io::Result<Vec<Aside>> {
        self.layout.list_aside()
    }

    fn remove_aside(&self, digest: &Digest) -> io::Result<bool> {
        self.layout.remove_aside(digest)
    }

    fn remove_draft(&self, id: DraftId) -> io::Result<bool> {
        self.layout.remove_draft(id)
    }

    fn scan(&self, each: &mut dyn FnMut(Scan)) -> io::Result<()> {
        self.layout.scan(each)
    }

    fn scan_drafts(&self, each: &mut dyn FnMut(DraftId, u64)) -> io::Result<()> {
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
        let file = self.file(file);
        let bytes = file.sync_data();
        // A write that was lost is told of once, by the sync of the bytes, in whatever words the device had for it.
        let of_bytes = bytes.is_err();
        let synced = bytes.and_then(|()| self.layout.sync_shard(digest));
        // Only the directory is opened for it: being short of what that takes says nothing about the file.
        let passes = |error: &io::Error| !of_bytes && Trouble::of(error) == Trouble::Shortage;
        if let Some(error) = synced.as_ref().err().filter(|error| !passes(error)) {
            tracing::error!(%digest, %error, "a blob cannot be made durable: it is set aside");
            let aside = file.identity().and_then(|only| self.layout.quarantine(digest, Some(only)));
            if let Err(error) = aside {
                tracing::error!(%digest, %error, "it cannot be set aside either");
            }
        }
        synced.map(|()| true)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use bytes::Bytes;

    use super::*;
    use crate::store::Reader;

    const MIB: usize = 1 << 20;

    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "a device stands for the full disk")]
    async fn a_full_disk_leaves_the_draft_as_it_was() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = FsStore::open(dir.path()).expect("a store");
        let device = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("the device");
        let mut draft = Draft::new(store.parts(DraftId(1), device), Algorithm::Sha256);
        let error = draft.append(vec![Bytes::from_static(b"no room")]).await.expect_err("a full disk");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!((draft.len(), draft.digest()), (0, Digest::of(Algorithm::Sha256, b"")));
    }

    #[tokio::test]
    async fn stalled_readers_hold_no_buffer() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = FsStore::open(dir.path()).expect("a store");
        // One for the store, one for each open file, one for each chunk that is still alive.
        let holders = || Arc::strong_count(&store.buffers);
        let mut draft = store.create_draft(DraftId(1), Algorithm::Sha256).expect("a draft");
        draft.announce(Some(MIB as u64));
        draft.append(vec![Bytes::from(vec![7; MIB])]).await.expect("room");
        let at_rest = holders();
        let mut readers: Vec<_> = (0..500).map(|_| draft.tail().reader(0, None)).collect();
        for reader in &mut readers {
            let bytes = poll_fn(|cx| reader.poll_chunk(cx, 64 << 10)).await.expect("a chunk").expect("whole");
            assert_eq!(holders(), at_rest + 1, "the chunk itself is the loan");
            drop(bytes);
        }
        assert_eq!(holders(), at_rest);
        assert!(size_of::<Reader>() <= 192, "{}", size_of::<Reader>());
    }
}
