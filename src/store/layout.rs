//! Owns the directories and every path in them: `tmp/<draft>`, `cas/<algorithm>/<2 hex>/<hex>`, `quarantine/`.
//! Paths are made from digests and draft numbers only, and no symbolic link is followed.
//! Must not know: what lies in the files, readers, writers.

use std::ffi::{CStr, OsStr};
use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;

use super::faults::{Call, Faults};
use super::file::Identity;
use super::trouble::named;
use super::{Aside, DraftId, Scan, Space};
use crate::clock::UnixMillis;
use crate::names::{Algorithm, Digest};

const ALGORITHMS: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Sha512];
const TMP: &str = "tmp";
const CAS: &str = "cas";
const QUARANTINE: &str = "quarantine";

/// Blobs of private repositories are nobody else's business; a group may read, for a web server in front.
const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o750);
const FILE_MODE: Mode = Mode::from_raw_mode(0o640);
/// `NONBLOCK`: a planted FIFO must not hang us before we see what it is.
const OPEN: OFlags = OFlags::CLOEXEC.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK);

/// The data directory, held open: it may be renamed under us.
#[derive(Debug)]
pub(super) struct Layout {
    root: OwnedFd,
    path: PathBuf,
    faults: Faults,
}

impl Layout {
    /// Makes what is missing and syncs the names, so that later only a blob's own shard needs a sync.
    pub(super) fn open(path: &Path, faults: Faults) -> io::Result<Self> {
        make_root(path, &faults)?;
        let failed = |error: Errno| named(error.into(), path, "cannot open");
        let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, directory, Mode::empty()).map_err(failed)?;
        let device = rustix::fs::fstat(&root).map_err(failed)?.st_dev;
        let layout = Self { root, path: path.to_owned(), faults };
        let mut parents = vec![".".to_owned(), CAS.to_owned()];
        for name in [TMP, CAS, QUARANTINE] {
            layout.make_directory(name, device)?;
        }
        for algorithm in ALGORITHMS {
            let parent = format!("{CAS}/{}", algorithm.as_str());
            layout.make_directory(&parent, device)?;
            for shard in 0..=u8::MAX {
                layout.make_directory(&format!("{parent}/{shard:02x}"), device)?;
            }
            parents.push(parent);
        }
        // Also where nothing was made: an earlier start may have been killed before it came here.
        parents.iter().try_for_each(|parent| layout.sync_directory(parent))?;
        Ok(layout)
    }

    /// Publishing renames between these directories, which works inside one file system only.
    fn make_directory(&self, name: &str, device: u64) -> io::Result<()> {
        match rustix::fs::mkdirat(&self.root, name, DIRECTORY_MODE) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(self.named(error, name, "cannot create")),
        }
        let stat = self.stat(name).map_err(|error| self.named(error, name, "cannot look at"))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Err(invalid(format!("{} is not a directory", self.path.join(name).display())));
        }
        if stat.st_dev != device {
            return Err(io::Error::new(
                io::ErrorKind::CrossesDevices,
                format!(
                    "{} lies on another file system than {}; the data directory must be one",
                    self.path.join(name).display(),
                    self.path.display()
                ),
            ));
        }
        Ok(())
    }

    pub(super) fn open_blob(&self, digest: &Digest) -> io::Result<Option<File>> {
        self.open_file(&blob_name(digest), OFlags::RDONLY)
    }

    pub(super) fn create_draft(&self, id: DraftId) -> io::Result<File> {
        let name = draft_name(id);
        let flags = OPEN | OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let created = self.faults.pass(Call::Create);
        let file = created
            .and_then(|()| rustix::fs::openat(&self.root, &name, flags, FILE_MODE))
            .map_err(|error| self.named(error, &name, "cannot create"))?;
        Ok(file.into())
    }

    pub(super) fn open_draft(&self, id: DraftId) -> io::Result<Option<File>> {
        self.open_file(&draft_name(id), OFlags::RDWR)
    }

    fn open_file(&self, name: &str, access: OFlags) -> io::Result<Option<File>> {
        let opened = self.faults.pass(Call::Open);
        let file =
            match opened.and_then(|()| rustix::fs::openat(&self.root, name, OPEN | access, Mode::empty())) {
                Ok(file) => file,
                Err(Errno::NOENT) => return Ok(None),
                Err(Errno::LOOP | Errno::NXIO | Errno::ISDIR) => return Err(self.foreign(name)),
                Err(error) => return Err(self.named(error, name, "cannot open")),
            };
        let stat = rustix::fs::fstat(&file).map_err(|error| self.named(error, name, "cannot look at"))?;
        if is_file(&stat) { Ok(Some(file.into())) } else { Err(self.foreign(name)) }
    }

    /// Gives a draft its digest's name. `false`: something has it already.
    pub(super) fn publish_new(&self, id: DraftId, digest: &Digest) -> io::Result<bool> {
        let draft = draft_name(id);
        match self.rename_new(&draft, &blob_name(digest)) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(error) => Err(self.named(error, &draft, "cannot publish")),
        }
    }

    /// Gives a draft its digest's name, whatever has it. Who reads that reads on.
    pub(super) fn replace(&self, id: DraftId, digest: &Digest) -> io::Result<()> {
        self.rename(&draft_name(id), &blob_name(digest)).map(drop)
    }

    /// Gives a draft, whose bytes are synced, its digest's name for good. What lay there may be unsynced, or
    /// damaged where nobody looked yet, so it makes way; who reads it reads on.
    pub(super) fn publish_durable(&self, id: DraftId, digest: &Digest) -> io::Result<()> {
        self.replace(id, digest)?;
        self.sync_shard(digest)
    }

    /// A rename that replaces nothing. Some file systems know only the older way to say that.
    fn rename_new(&self, from: &str, to: &str) -> Result<(), Errno> {
        self.faults.pass(Call::Rename)?;
        match rustix::fs::renameat_with(&self.root, from, &self.root, to, RenameFlags::NOREPLACE) {
            Err(Errno::INVAL | Errno::NOSYS) => {
                rustix::fs::linkat(&self.root, from, &self.root, to, AtFlags::empty())?;
                rustix::fs::unlinkat(&self.root, from, AtFlags::empty())
            }
            renamed => renamed,
        }
    }

    /// A durable second name for another store's file.
    pub(super) fn link_from(&self, other: &Self, digest: &Digest) -> io::Result<bool> {
        let name = blob_name(digest);
        let linked = rustix::fs::linkat(&other.root, &name, &self.root, &name, AtFlags::empty());
        let linked = found(linked).map_err(|error| self.named(error, &name, "cannot link"))?;
        if linked {
            self.sync_shard(digest)?;
        }
        Ok(linked)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<bool> {
        let call = if to.starts_with(QUARANTINE) { Call::SetAside } else { Call::Rename };
        let passed = self.faults.pass(call);
        found(passed.and_then(|()| rustix::fs::renameat(&self.root, from, &self.root, to)))
            .map_err(|error| self.named(error, from, "cannot move"))
    }

    pub(super) fn remove_blob(&self, digest: &Digest) -> io::Result<bool> {
        self.remove(&blob_name(digest))
    }

    pub(super) fn remove_draft(&self, id: DraftId) -> io::Result<bool> {
        self.remove(&draft_name(id))
    }

    fn remove(&self, name: &str) -> io::Result<bool> {
        let passed = self.faults.pass(Call::Remove);
        found(passed.and_then(|()| rustix::fs::unlinkat(&self.root, name, AtFlags::empty())))
            .map_err(|error| self.named(error, name, "cannot remove"))
    }

    /// The last damaged file of a digest is kept, for a person to look at; an earlier one makes way.
    pub(super) fn quarantine(&self, digest: &Digest, only: Option<Identity>) -> io::Result<bool> {
        let blob = blob_name(digest);
        let aside = aside_name(digest);
        if only.is_some() && self.identity(&blob) != only {
            return Ok(false);
        }
        if !self.rename(&blob, &aside)? {
            return Ok(false);
        }
        if only.is_some() && self.identity(&aside) != only {
            // Published between the look and the move: it goes back, unless yet another one came.
            return match self.rename_new(&aside, &blob) {
                Ok(()) | Err(Errno::EXIST) => self.sync_shard(digest).map(|()| false),
                Err(error) => Err(self.named(error, &aside, "cannot move back")),
            };
        }
        Ok(true)
    }

    pub(super) fn list_aside(&self) -> io::Result<Vec<Aside>> {
        let mut aside = Vec::new();
        self.list(QUARANTINE, |name, _, stat| {
            // What a person has put there is theirs.
            if let Some(digest) = aside_digest(name).filter(|_| is_file(stat)) {
                aside.push(Aside { digest, size: size(stat), at: moved_at(stat) });
            }
        })?;
        Ok(aside)
    }

    pub(super) fn remove_aside(&self, digest: &Digest) -> io::Result<bool> {
        self.remove(&aside_name(digest))
    }

    fn identity(&self, name: &str) -> Option<Identity> {
        let stat = self.stat(name).ok()?;
        Some(Identity { device: stat.st_dev, inode: stat.st_ino })
    }

    pub(super) fn sync_shard(&self, digest: &Digest) -> io::Result<()> {
        self.sync_directory(&shard_name(digest))
    }

    fn sync_directory(&self, name: &str) -> io::Result<()> {
        let passed = self.faults.pass(Call::SyncDirectory);
        passed
            .and_then(|()| self.open_directory(name))
            .and_then(rustix::fs::fsync)
            .map_err(|error| self.named(error, name, "cannot sync"))
    }

    pub(super) fn sync_all(&self) -> io::Result<()> {
        let passed = self.faults.pass(Call::SyncAll);
        passed
            .and_then(|()| rustix::fs::syncfs(&self.root))
            .map_err(|error| named(error.into(), &self.path, "cannot sync the file system of"))
    }

    pub(super) fn space(&self) -> io::Result<Space> {
        let room = self.faults.room(Call::Space);
        let (room, stat) = room
            .and_then(|room| Ok((room as u64, rustix::fs::fstatvfs(&self.root)?)))
            .map_err(|error| named(error.into(), &self.path, "cannot ask for the space in"))?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        // What the file system keeps for the superuser is not ours to fill.
        Ok(Space { total: bytes(stat.f_blocks), free: bytes(stat.f_bavail).min(room) })
    }

    pub(super) fn scan(&self, each: &mut dyn FnMut(Scan)) -> io::Result<()> {
        self.list(TMP, |name, path, stat| {
            if draft_id(name).is_none() || !is_file(stat) {
                each(Scan::Foreign(path));
            }
        })?;
        self.list(CAS, |name, path, _| {
            if !ALGORITHMS.iter().any(|algorithm| name == algorithm.as_str()) {
                each(Scan::Foreign(path));
            }
        })?;
        for algorithm in ALGORITHMS {
            self.scan_algorithm(algorithm, each)?;
        }
        Ok(())
    }

    pub(super) fn scan_drafts(&self, each: &mut dyn FnMut(DraftId, u64)) -> io::Result<()> {
        self.list(TMP, |name, _, stat| {
            if let Some(id) = draft_id(name).filter(|_| is_file(stat)) {
                each(id, size(stat));
            }
        })
    }

    fn scan_algorithm(&self, algorithm: Algorithm, each: &mut dyn FnMut(Scan)) -> io::Result<()> {
        let parent = format!("{CAS}/{}", algorithm.as_str());
        let shards: Vec<_> = (0..=u8::MAX).map(|shard| format!("{shard:02x}")).collect();
        self.list(&parent, |name, path, _| {
            if !shards.iter().any(|shard| name == shard.as_str()) {
                each(Scan::Foreign(path));
            }
        })?;
        for shard in &shards {
            self.list(&format!("{parent}/{shard}"), |name, path, stat| {
                let digest = name.to_str().filter(|hex| hex.starts_with(shard.as_str()));
                let digest = digest.and_then(|hex| format!("{}:{hex}", algorithm.as_str()).parse().ok());
                each(match digest {
                    Some(digest) if is_file(stat) => Scan::Blob { digest, size: size(stat) },
                    _ => Scan::Foreign(path),
                });
            })?;
        }
        Ok(())
    }

    /// Shows each entry of a directory to `each`: its name, its path for people, and what it is itself (not what
    /// a link points at).
    fn list(&self, directory: &str, mut each: impl FnMut(&OsStr, PathBuf, &Stat)) -> io::Result<()> {
        let failed = |error: Errno| self.named(error, directory, "cannot list");
        let passed = self.faults.pass(Call::List);
        let opened = passed.and_then(|()| self.open_directory(directory)).map_err(failed)?;
        for entry in Dir::read_from(&opened).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name: &CStr = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            match rustix::fs::statat(&opened, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => {
                    let name = OsStr::from_bytes(name.to_bytes());
                    each(name, self.path.join(directory).join(name), &stat);
                }
                // Removed since it was listed.
                Err(Errno::NOENT) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }

    fn open_directory(&self, name: &str) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.root, name, flags, Mode::empty())
    }

    fn stat(&self, name: &str) -> Result<Stat, Errno> {
        rustix::fs::statat(&self.root, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    fn named(&self, error: Errno, name: &str, what: &str) -> io::Error {
        named(error.into(), &self.path.join(name), what)
    }

    fn foreign(&self, name: &str) -> io::Error {
        invalid(format!("{} is not a regular file; it was put there by hand", self.path.join(name).display()))
    }
}

/// Makes the data directory, with what is missing on the way to it, and syncs the names that are new: a power cut would
/// take all of it, whatever was synced within.
fn make_root(path: &Path, faults: &Faults) -> io::Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|part| !part.is_dir()).collect();
    DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY_MODE.as_raw_mode())
        .create(path)
        .map_err(|error| named(error, path, "cannot create"))?;
    for made in missing.into_iter().filter(|part| !part.as_os_str().is_empty()) {
        let parent = made.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        faults
            .pass(Call::SyncDirectory)
            .and_then(|()| rustix::fs::open(parent, flags, Mode::empty()))
            .and_then(rustix::fs::fsync)
            .map_err(|error| named(error.into(), parent, "cannot sync"))?;
    }
    Ok(())
}

fn draft_name(id: DraftId) -> String {
    format!("{TMP}/{}", id.0)
}

/// Only the one spelling that `draft_name` writes.
fn draft_id(name: &OsStr) -> Option<DraftId> {
    let name = name.to_str()?;
    let id = name.parse().ok()?;
    (u64::to_string(&id) == name).then_some(DraftId(id))
}

fn shard_name(digest: &Digest) -> String {
    format!("{CAS}/{}/{}", digest.algorithm().as_str(), &digest.hex()[..2])
}

fn blob_name(digest: &Digest) -> String {
    format!("{}/{}", shard_name(digest), digest.hex())
}

fn aside_name(digest: &Digest) -> String {
    format!("{QUARANTINE}/{}-{}", digest.algorithm().as_str(), digest.hex())
}

/// Only what `aside_name` writes.
fn aside_digest(name: &OsStr) -> Option<Digest> {
    let (algorithm, hex) = name.to_str()?.split_once('-')?;
    format!("{algorithm}:{hex}").parse().ok()
}

/// A move leaves the time of the last write as it was, and changes that of the inode.
fn moved_at(stat: &Stat) -> UnixMillis {
    let millis = |seconds: u64| seconds.saturating_mul(1_000).saturating_add(stat.st_ctime_nsec / 1_000_000);
    UnixMillis(u64::try_from(stat.st_ctime).map(millis).unwrap_or_default())
}

fn is_file(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or_default()
}

/// Whether there was something to act on.
fn found(done: Result<(), Errno>) -> Result<bool, Errno> {
    match done {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}
