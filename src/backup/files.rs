//! Owns the files beside the blobs: written durably, hashed while they are copied, replaced in one step.
//! Must not know: what is in them.
#![expect(clippy::disallowed_methods, reason = "a backup's own files are this module's")]

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, chown};
use std::path::Path;

use crate::names::{Algorithm, Digest, Hasher};

/// Passwords of upstreams are in the metadata.
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;
const CHUNK: usize = 1 << 20;

pub(super) fn create_directory(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(dir)
}

/// The names in a directory; `None` where there is no directory.
pub(super) fn names(dir: &Path) -> io::Result<Option<Vec<String>>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
    entries.map(name).collect::<io::Result<_>>().map(Some)
}

/// `None`: somebody else holds it. Held as long as the file is.
pub(super) fn lock(path: &Path) -> io::Result<Option<File>> {
    hold(OpenOptions::new().write(true).create(true).truncate(false).mode(FILE_MODE).open(path)?)
}

/// The same on a file that is there.
pub(super) fn hold(file: File) -> io::Result<Option<File>> {
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

pub(super) fn open(path: &Path) -> io::Result<File> {
    File::open(path)
}

pub(super) fn read(path: &Path) -> io::Result<String> {
    fs::read_to_string(path)
}

/// Writes a new file, or over one that nobody relies on, and syncs it.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Puts a file in the place of another, or of none, in one step that survives a power cut.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("new");
    write(&draft, bytes)?;
    rename(&draft, path)
}

/// Within a directory, in one step that survives a power cut.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_directory(to.parent().unwrap_or(Path::new(".")))
}

/// A file that one user makes for another.
pub(super) fn give_to_owner_of(path: &Path, directory: &Path) -> io::Result<()> {
    let (file, owner) = (fs::metadata(path)?, fs::metadata(directory)?);
    if (file.uid(), file.gid()) == (owner.uid(), owner.gid()) {
        return Ok(());
    }
    chown(path, Some(owner.uid()), Some(owner.gid()))
}

/// Copies and syncs; tells length and digest of what was read.
pub(super) fn copy(from: &File, to: &Path) -> io::Result<(u64, Digest)> {
    let mut target = OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(to)?;
    let seen = read_through(from, |bytes| target.write_all(bytes))?;
    target.sync_all()?;
    Ok(seen)
}

/// Length and digest of a file.
pub(super) fn hash(path: &Path) -> io::Result<(u64, Digest)> {
    read_through(&open(path)?, |_| Ok(()))
}

fn read_through(mut file: &File, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<(u64, Digest)> {
    let (mut buffer, mut hasher, mut length) = (vec![0; CHUNK], Hasher::new(Algorithm::Sha256), 0_u64);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((length, hasher.finish())),
            read => {
                hasher.update(&buffer[..read]);
                each(&buffer[..read])?;
                length += read as u64;
            }
        }
    }
}

pub(super) fn sync_directory(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

pub(super) fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path)
}

/// What a file system of its own comes with, and only its owner removes.
pub(super) const LOST_AND_FOUND: &str = "lost+found";

/// Empties a directory, of `last` at last.
pub(super) fn clear(dir: &Path, last: &str) -> io::Result<()> {
    let mut all = names(dir)?.unwrap_or_default();
    all.retain(|name| name != LOST_AND_FOUND);
    all.sort_by_key(|name| name == last);
    for name in all {
        let path = dir.join(name);
        match fs::symlink_metadata(&path)?.is_dir() {
            true => fs::remove_dir_all(&path)?,
            false => fs::remove_file(&path)?,
        }
    }
    Ok(())
}
