//! Owns the file under the database: its making, its mode, its lock, and whether the disk takes writes.
//! Must not know: tables and rows.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::{Database, DatabaseError, StorageError};

use super::overlay::Overlay;
use super::{Options, layout, read_error};
use crate::meta::MetaError;

/// It holds the passwords of upstreams.
const MODE: u32 = 0o600;

/// How much must fit on the disk before writing is tried again after a failure.
static PROBE: [u8; 1 << 16] = [0; 1 << 16];

/// A file up to this size is read through at the start, at about 1 GB/s: redb trusts a file that it has closed
/// itself, and panics over what has rotted since.
const CHECKED: u64 = 128 << 20;

/// Where the bytes of the database lie.
pub(super) trait Medium: Send + 'static {
    /// Opens the database that is there; never makes one.
    fn open(&self, opening: Opening) -> Result<Database, MetaError>;

    /// Fails as long as writes would.
    fn probe(&self) -> io::Result<()>;

    /// Sets a copy of the open database aside, as it is at this schema. Nobody writes meanwhile.
    fn keep(&self, schema: u32) -> io::Result<()>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// By a new process.
    First,
    /// By somebody who doubts it: it is read through, whatever its size.
    Doubted,
    /// After a failure.
    Again,
    /// After a failure, while the disk takes no writes: they go no further than to memory.
    Overlaid,
}

pub(super) struct FileMedium {
    path: PathBuf,
    options: Options,
}

impl FileMedium {
    pub fn new(path: &Path, options: Options) -> Self {
        Self { path: path.to_owned(), options }
    }

    /// Makes a new database if there is no file. It appears under its name complete or not at all, so that an
    /// empty or cut file can only be damage.
    pub fn create_if_absent(&self) -> Result<bool, MetaError> {
        if self.path.try_exists()? {
            return Ok(false);
        }
        let draft = self.beside("new");
        let file = open(OpenOptions::new().read(true).write(true).create(true).truncate(true), &draft)?;
        let database = self.database(file, Opening::First)?;
        layout::create(&database)?;
        database.close().map_err(|error| self.open_error(error))?;
        rename(&draft, &self.path)?;
        Ok(true)
    }

    fn database(&self, file: File, opening: Opening) -> Result<Database, MetaError> {
        let check = match opening {
            Opening::First => file.metadata()?.len() <= CHECKED,
            Opening::Doubted => true,
            Opening::Again | Opening::Overlaid => false,
        };
        let mut builder = Database::builder();
        builder.set_cache_size(self.options.cache_bytes).set_check_integrity_on_open(check);
        let backend = FileBackend::new(file).map_err(|error| self.open_error(error))?;
        let database = match opening {
            Opening::First | Opening::Doubted | Opening::Again => builder.create_with_backend(backend),
            Opening::Overlaid => builder.create_with_backend(Overlay::new(backend)?),
        };
        database.map_err(|error| self.open_error(error))
    }

    fn beside(&self, extension: &str) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(".");
        name.push(extension);
        name.into()
    }

    fn open_error(&self, error: DatabaseError) -> MetaError {
        let path = self.path.display();
        match error {
            DatabaseError::DatabaseAlreadyOpen => MetaError::InUse(path.to_string()),
            DatabaseError::UpgradeRequired(format) => {
                MetaError::Corrupt(format!("{path} is in the unknown file format {format}"))
            }
            DatabaseError::Storage(StorageError::Io(error)) if is_damage(&error) => {
                MetaError::Corrupt(format!("{path}: {error}"))
            }
            DatabaseError::Storage(StorageError::Corrupted(what)) => {
                MetaError::Corrupt(format!("{path}: {what}"))
            }
            other => read_error(other),
        }
    }
}

impl Medium for FileMedium {
    fn open(&self, opening: Opening) -> Result<Database, MetaError> {
        let file = open(OpenOptions::new().read(true).write(true), &self.path)?;
        let metadata = file.metadata()?;
        if metadata.len() == 0 {
            return Err(MetaError::Corrupt(format!("{} is empty", self.path.display())));
        }
        // A restored backup may have come with wider rights.
        if metadata.permissions().mode() & 0o077 != 0 {
            file.set_permissions(Permissions::from_mode(MODE))?;
        }
        self.database(file, opening)
    }

    fn probe(&self) -> io::Result<()> {
        let path = self.beside("probe");
        let written = open(OpenOptions::new().write(true).create(true).truncate(true), &path)
            .and_then(|mut file| file.write_all(&PROBE).and_then(|()| file.sync_all()));
        let removed = remove(&path);
        written.and(removed)
    }

    /// It looks as if the process had been killed, which every version takes up. A copy from an earlier upgrade makes
    /// way: since then somebody went back to it.
    fn keep(&self, schema: u32) -> io::Result<()> {
        if !self.options.keep_older {
            return Ok(());
        }
        let (kept, draft) = (self.beside(&format!("schema-{schema}")), self.beside("kept"));
        copy(&self.path, &draft).and_then(|()| rename(&draft, &kept)).inspect_err(|_| {
            // What is left of it would only take room; the failure is what is told.
            let _ = remove(&draft);
        })
    }
}

/// What redb says of files that are not databases of its own.
fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

#[expect(clippy::disallowed_methods, reason = "the metadata file is this module's")]
fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    options.mode(MODE).open(path)
}

/// Copies mode and all, durably but for the name.
#[expect(clippy::disallowed_methods, reason = "the metadata file is this module's")]
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::copy(from, to)?;
    File::open(to)?.sync_all()
}

/// Renames within a directory, durably.
#[expect(clippy::disallowed_methods, reason = "the metadata file is this module's")]
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    let directory = to.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

#[expect(clippy::disallowed_methods, reason = "the metadata file is this module's")]
fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path)
}
