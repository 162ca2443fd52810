//! Owns blobs as files: drafts that grow, tails that read them meanwhile, publishing, opening, unlinking.
//! Must not know: the cache's decisions, the metadata, HTTP.

mod buffer;
mod draft;
mod faults;
mod file;
mod fs;
mod growth;
mod layout;
mod reader;
mod tail;
mod trouble;
mod writer;

pub use draft::{Asleep, Checkpoint, Draft, Length, Resting};
#[cfg(feature = "planted-bugs")]
pub use faults::{Call, Faults, Strike};
pub use file::SendError;
pub use fs::{Aside, FsStore, Scan, Space};
pub use reader::{Blob, Reader, Window};
pub use tail::{End, Progress, Tail};
pub use trouble::Trouble;

use std::io;

use crate::names::{Algorithm, Digest};

/// The number of a draft: its file name under `tmp/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DraftId(pub u64);

/// Whether a published blob must survive a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Cached: renamed, not synced. Suspect after an unclean stop.
    Relaxed,
    /// Pushed: file synced, renamed, directory synced, before the call returns.
    Durable,
}

/// Where blobs lie. Calls block; the engine decides on which thread. The contract:
/// - A digest that `open` finds has all its bytes, apart from what a power cut left (see `Durability`).
/// - `publish` is atomic: before it the digest is absent, after it whole. Publishing what is there already is no
///   error. A relaxed publish keeps what is there if its bytes are right, and replaces it if they are not; a
///   durable one puts the synced bytes in its place.
/// - What lies under a digest's name but is no regular file (a symbolic link, say) is an `InvalidData` error of
///   `open`, never followed.
/// - `unlink` of an absent digest answers `false`. Who holds a `Blob` reads on undisturbed.
pub trait Store: Send + Sync + 'static {
    fn open(&self, digest: &Digest) -> io::Result<Option<Blob>>;
    /// A new empty draft that hashes with `algorithm`.
    fn create_draft(&self, id: DraftId, algorithm: Algorithm) -> io::Result<Draft>;
    /// A draft that an earlier run left: re-hashed and cut to the longest of `checkpoints` that matches.
    fn reopen_draft(
        &self,
        id: DraftId,
        algorithm: Algorithm,
        checkpoints: &[Checkpoint],
    ) -> io::Result<Option<Draft>>;
    /// A draft that an earlier run left, with all bytes that lie there. Who sent them says in the end what their
    /// digest is.
    fn resume_draft(&self, id: DraftId, algorithm: Algorithm) -> io::Result<Option<Draft>>;
    /// A draft of this run that was put to rest. `None`: its file is gone.
    fn wake_draft(&self, resting: Box<Resting>) -> Result<Option<Draft>, Asleep>;
    fn unlink(&self, digest: &Digest) -> io::Result<bool>;
    /// Sets a damaged file aside, out of every reader's way. With `damaged`, only that very file: what was published
    /// since it was opened stays.
    fn quarantine(&self, digest: &Digest, damaged: Option<&Blob>) -> io::Result<bool>;
    /// What was set aside and lies there still. What a person put beside it is not listed.
    fn list_aside(&self) -> io::Result<Vec<Aside>>;
    /// Removes what was set aside under `digest`. It may be the only copy that is left, and intact where just its disk
    /// failed for a while: the caller knows whether it may go.
    fn remove_aside(&self, digest: &Digest) -> io::Result<bool>;
    fn remove_draft(&self, id: DraftId) -> io::Result<bool>;
    /// Lists the blobs, and what is not ours, for the boot.
    fn scan(&self, each: &mut dyn FnMut(Scan)) -> io::Result<()>;
    /// Lists the drafts that earlier runs left, and how large their files are.
    fn scan_drafts(&self, each: &mut dyn FnMut(DraftId, u64)) -> io::Result<()>;
    fn space(&self) -> io::Result<Space>;
    /// Makes everything published so far survive a power cut.
    fn sync_all(&self) -> io::Result<()>;
    /// Syncs one published file and its directory: Relaxed becomes Durable. Where that fails the file is set aside:
    /// nobody knows what the disk has of it, and a second sync would be believed.
    fn promote(&self, digest: &Digest) -> io::Result<bool>;
}
