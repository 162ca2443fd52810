//! Owns the snapshots that a data directory keeps of its metadata: where they lie, their names, how many there are.
//! Must not know: when one is due, what is done with one.
//!
//! ```text
//! DIR/meta.redb                    the metadata
//! DIR/snapshots/meta-<when>.redb   as of an earlier moment, in microseconds since 1970
//! ```

use std::cmp::Reverse;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::redb::remove_leftovers;
use super::{FILE, Meta, MetaError};

const DIRECTORY: &str = "snapshots";
/// Passwords of upstreams are in the metadata.
const DIRECTORY_MODE: u32 = 0o700;
/// The newest, and one more should that be damaged as well.
const KEPT: usize = 2;

/// The snapshots of one data directory.
#[derive(Clone, Debug)]
pub struct Snapshots {
    data: PathBuf,
    dir: PathBuf,
}

/// A snapshot that was finished: it has its name since it was whole on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotFile {
    pub path: PathBuf,
    stamp: u64,
}

impl SnapshotFile {
    /// In milliseconds since 1970.
    pub fn taken_ms(&self) -> u64 {
        self.stamp / 1_000
    }
}

impl Snapshots {
    pub fn of(data_dir: &Path) -> Self {
        Self { data: data_dir.to_owned(), dir: data_dir.join(DIRECTORY) }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The newest first.
    #[expect(clippy::disallowed_methods, reason = "snapshots of the metadata are this module's")]
    pub fn list(&self) -> io::Result<Vec<SnapshotFile>> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry?.path();
            found.extend(stamp(&path).map(|stamp| SnapshotFile { path, stamp }));
        }
        found.sort_unstable_by_key(|one| Reverse(one.stamp));
        Ok(found)
    }

    /// About the bytes that one more takes.
    pub fn size(&self) -> io::Result<u64> {
        Ok(fs::metadata(self.data.join(FILE))?.len())
    }

    /// Removes what an interrupted one left. Not while one is taken.
    pub fn clear(&self) -> io::Result<()> {
        match remove_leftovers(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Takes one, as [`Meta::copy_into`] does, and removes those that are kept no longer. Blocks.
    pub fn take(
        &self,
        meta: &dyn Meta,
        now: u64,
        go_on: &dyn Fn() -> bool,
    ) -> Result<SnapshotFile, MetaError> {
        self.create()?;
        let newest = self.list()?.first().map_or(0, |newest| newest.stamp);
        // Under a clock that was set back, too, the last one is the newest.
        let stamp = now.max(newest + 1);
        let path = self.dir.join(format!("meta-{stamp}.redb"));
        meta.copy_into(&self.dir, stamp, go_on)?.keep_as(&path)?;
        for old in self.list()?.into_iter().skip(KEPT) {
            remove(&old.path)?;
        }
        Ok(SnapshotFile { path, stamp })
    }

    /// Durably: what is synced in it shall be found after a power cut.
    fn create(&self) -> io::Result<()> {
        match DirBuilder::new().mode(DIRECTORY_MODE).create(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other.and_then(|()| sync(&self.data)),
        }
    }
}

/// Of a finished one, in the one spelling that is written.
fn stamp(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("meta-")?.strip_suffix(".redb")?.parse().ok()
}

#[expect(clippy::disallowed_methods, reason = "snapshots of the metadata are this module's")]
fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[expect(clippy::disallowed_methods, reason = "snapshots of the metadata are this module's")]
fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::{Options, RedbMeta};

    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "looks at the directory from outside")]
    async fn the_newest_stay_under_any_clock_and_one_that_is_given_up_leaves_nothing() {
        let data = tempfile::tempdir().expect("a directory");
        let (meta, _) = RedbMeta::open(&data.path().join(FILE), Options::default()).expect("metadata");
        let snapshots = Snapshots::of(data.path());
        assert_eq!(snapshots.list().expect("there are none"), []);
        let stamps =
            [5_000, 4_000, 9_000].map(|now| snapshots.take(&meta, now, &|| true).expect("taken").stamp);
        assert_eq!(stamps, [5_000, 5_001, 9_000]);
        let kept: Vec<_> = snapshots.list().expect("listed").iter().map(|one| one.stamp).collect();
        assert_eq!(kept, [9_000, 5_001]);
        let given_up = snapshots.take(&meta, 10_000, &|| false);
        assert!(matches!(given_up, Err(MetaError::Closed)), "{given_up:?}");
        let names = fs::read_dir(snapshots.dir()).expect("there").count();
        assert_eq!(names, 2, "whatever it had begun is gone");
    }
}
