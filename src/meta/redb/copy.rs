//! Owns copies of the store for backups: all rows as they were at one moment, in a file of its own, while the store
//! goes on.
//! Must not know: what the rows mean, where the copy is taken to.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use redb::{Durability, ReadTransaction, ReadableTable as _};

use super::file::{FileMedium, Medium as _, Opening, rename};
use super::{Options, definition, layout, read_error};
use crate::meta::{MetaError, Table};

/// A copy is called so, and by the moment it was made.
const NAME: &str = "backup-";
/// Microseconds after which nobody is about to take a copy away any more: who asked for it was killed.
const FORGOTTEN: u64 = 3600 * 1_000_000;
/// Rows, and bytes of them, that go into one transaction of the copy.
const ROWS: usize = 10_000;
const BYTES: usize = 8 << 20;

/// A copy of the store: its file goes with this, unless it is handed over.
#[derive(Debug)]
pub struct CopyFile {
    path: PathBuf,
    handed_over: bool,
}

impl CopyFile {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// It stays, under this name in the same directory: durably, and only once it is whole on the disk.
    pub(in crate::meta) fn keep_as(self, path: &Path) -> io::Result<()> {
        sync(&self.path)?;
        rename(&self.path, path)?;
        self.hand_over();
        Ok(())
    }

    /// Somebody else takes the file away.
    pub fn hand_over(mut self) -> PathBuf {
        self.handed_over = true;
        std::mem::take(&mut self.path)
    }
}

impl Drop for CopyFile {
    fn drop(&mut self) {
        if !self.handed_over {
            // The next copy removes what stays.
            let _ = remove(&self.path);
        }
    }
}

/// Writes a copy into `dir`. `stamp` is now, in microseconds since 1970, and never
/// the same twice; `go_on` is asked now and then.
pub(super) fn copy(
    from: &ReadTransaction,
    dir: &Path,
    stamp: u64,
    go_on: &dyn Fn() -> bool,
) -> Result<CopyFile, MetaError> {
    remove_forgotten(dir, stamp)?;
    let path = dir.join(format!("{NAME}{stamp}.redb"));
    let medium = FileMedium::new(&path, Options::default());
    if !medium.create_if_absent()? {
        return Err(io::Error::from(io::ErrorKind::AlreadyExists).into());
    }
    let file = CopyFile { path, handed_over: false };
    let database = medium.open(Opening::First)?;
    for table in Table::ALL {
        copy_table(from, &database, table, go_on)?;
    }
    if !go_on() {
        return Err(MetaError::Closed);
    }
    layout::mark_clean(&database)?;
    database.close().map_err(read_error)?;
    Ok(file)
}

fn copy_table(
    from: &ReadTransaction,
    to: &redb::Database,
    table: Table,
    go_on: &dyn Fn() -> bool,
) -> Result<(), MetaError> {
    let source = from.open_table(definition(table)).map_err(read_error)?;
    let mut rows = source.iter().map_err(read_error)?.peekable();
    while rows.peek().is_some() {
        if !go_on() {
            return Err(MetaError::Closed);
        }
        let mut transaction = to.begin_write().map_err(read_error)?;
        // The mark of an orderly stop is committed at the end, and all before with it.
        transaction.set_durability(Durability::None).map_err(read_error)?;
        let mut copied = (0, 0);
        {
            let mut target = transaction.open_table(definition(table)).map_err(read_error)?;
            while copied.0 < ROWS && copied.1 < BYTES {
                let Some(row) = rows.next() else { break };
                let (key, value) = row.map_err(read_error)?;
                target.insert(key.value(), value.value()).map_err(read_error)?;
                copied = (copied.0 + 1, copied.1 + value.value().len());
            }
        }
        transaction.commit().map_err(read_error)?;
    }
    Ok(())
}

/// Removes what interrupted copies left in a directory that only the caller copies into.
pub fn remove_leftovers(dir: &Path) -> io::Result<()> {
    remove_forgotten(dir, u64::MAX)
}

#[expect(clippy::disallowed_methods, reason = "copies of the metadata file are this module's")]
fn remove_forgotten(dir: &Path, now: u64) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let stamp = name.to_str().and_then(|name| name.strip_prefix(NAME)?.split('.').next()?.parse().ok());
        if stamp.is_some_and(|stamp: u64| stamp.saturating_add(FORGOTTEN) < now) {
            remove(&dir.join(name))?;
        }
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "copies of the metadata file are this module's")]
fn sync(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}

#[expect(clippy::disallowed_methods, reason = "copies of the metadata file are this module's")]
fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path)
}
