//! Owns taking a backup: blobs that are not there yet, then the metadata, then the manifest, then what the last backup
//! had alone goes.
//! Must not know: how the snapshot is asked for.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::files;
use super::form::{FORMAT, LOCK, MANIFEST, Manifest, Part, list_name, metadata_name, number, write_list};
use super::{BackupError, Copied, Progress, Summary, copy_blob, io_error, store};
use crate::names::{Algorithm, Digest};
use crate::store::{FsStore, Scan, Store as _};

/// Blobs that were removed while they were copied have left the metadata as well: it is asked for anew this often.
const TRIES: usize = 5;

/// How blobs get into the backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Read, hashed and written.
    Copy,
    /// One more name for the same file, on the same file system: nothing is read.
    Link,
}

/// What the server gives: the metadata of one moment, and what belongs to it.
#[derive(Clone, Debug, Deserialize)]
pub struct Snapshot {
    /// Removed as it is taken over.
    metadata: PathBuf,
    schema: u32,
    taken: String,
    repositories: u64,
    tags: u64,
    manifests: u64,
    blobs: Vec<(String, u64)>,
}

/// Takes a backup of the data directory `data` into `dir`. `ask` gets a snapshot, more than once where things are
/// removed meanwhile.
pub async fn take<E: From<BackupError>>(
    data: &Path,
    dir: &Path,
    how: How,
    mut ask: impl AsyncFnMut() -> Result<Snapshot, E>,
    mut progress: impl FnMut(&Progress),
) -> Result<Summary, E> {
    let mut taking = Taking::begin(data, dir, how)?;
    let mut snapshot = Held::new(ask().await?)?;
    let mut lost = taking.bring(&snapshot.blobs, &mut progress).await?;
    for _ in 1..TRIES {
        if lost.is_empty() {
            break;
        }
        snapshot = Held::new(ask().await?)?;
        let still = taking.bring(&snapshot.blobs, &mut progress).await?;
        let was_lost_before = still.keys().all(|digest| lost.contains_key(digest));
        lost = still;
        if was_lost_before {
            break;
        }
    }
    Ok(taking.finish(snapshot, &lost)?)
}

/// A snapshot that is ours alone: its file has no name any more, and so goes with us however we end.
struct Held {
    snapshot: Snapshot,
    metadata: File,
    blobs: BTreeMap<Digest, u64>,
}

impl Held {
    fn new(snapshot: Snapshot) -> Result<Self, BackupError> {
        let metadata = files::open(&snapshot.metadata);
        // The server removes what stays.
        let _ = files::remove(&snapshot.metadata);
        let metadata = metadata.map_err(|error| {
            io_error(format!("the snapshot {} cannot be read", snapshot.metadata.display()), error)
        })?;
        let parsed = |(digest, size): &(String, u64)| Ok((digest.parse()?, *size));
        let blobs = snapshot.blobs.iter().map(parsed).collect::<Result<_, crate::names::DigestError>>();
        let blobs = blobs.map_err(|error| BackupError::Snapshot(error.to_string()))?;
        Ok(Self { snapshot, metadata, blobs })
    }
}

struct Taking {
    dir: PathBuf,
    from: FsStore,
    to: FsStore,
    how: How,
    next_draft: u64,
    copied: (u64, u64),
    _lock: File,
}

impl Taking {
    fn begin(data: &Path, dir: &Path, how: How) -> Result<Self, BackupError> {
        let failed = |error| io_error(format!("{} cannot be used", dir.display()), error);
        let names = files::names(dir).map_err(failed)?.unwrap_or_default();
        if !names.is_empty() && !names.iter().any(|name| name == LOCK) {
            return Err(BackupError::NotEmpty { dir: dir.to_owned(), more: " and holds no backup" });
        }
        files::create_directory(dir).map_err(failed)?;
        let lock = files::lock(&dir.join(LOCK)).map_err(failed)?;
        let lock = lock.ok_or_else(|| BackupError::InUse(dir.to_owned()))?;
        let to = store(dir)?;
        // What an interrupted backup was writing.
        let mut drafts = Vec::new();
        to.scan_drafts(&mut |id, _| drafts.push(id)).map_err(failed)?;
        drafts.iter().try_for_each(|id| to.remove_draft(*id).map(drop)).map_err(failed)?;
        Ok(Self {
            dir: dir.to_owned(),
            from: store(data)?,
            to,
            how,
            next_draft: 0,
            copied: (0, 0),
            _lock: lock,
        })
    }

    /// Brings what is not there yet. Answers what could not be brought, and why.
    async fn bring(
        &mut self,
        blobs: &BTreeMap<Digest, u64>,
        progress: &mut impl FnMut(&Progress),
    ) -> Result<BTreeMap<Digest, &'static str>, BackupError> {
        let (mut lost, mut done) = (BTreeMap::new(), Progress::of(blobs.values()));
        for (digest, size) in blobs {
            progress(&done);
            if let Copied::Bad(why) = self.bring_one(digest, *size).await? {
                lost.insert(*digest, why);
            }
            done.passed(*size);
        }
        progress(&done);
        Ok(lost)
    }

    async fn bring_one(&mut self, digest: &Digest, size: u64) -> Result<Copied, BackupError> {
        let failed = |error| io_error(format!("{digest} cannot be brought into the backup"), error);
        match self.to.open(digest).map_err(failed)? {
            // It got its name when it was whole and on the disk.
            Some(blob) if blob.size() == size => return Ok(Copied::Whole),
            Some(_) => _ = self.to.unlink(digest).map_err(failed)?,
            None => {}
        }
        self.next_draft += 1;
        let copied = match self.how {
            How::Copy => copy_blob(&self.from, &self.to, self.next_draft, (digest, size)).await,
            How::Link => link(&self.from, &self.to, digest, size),
        };
        let copied = copied.map_err(failed)?;
        if matches!(copied, Copied::Whole) {
            self.copied = (self.copied.0 + 1, self.copied.1 + size);
        }
        Ok(copied)
    }

    fn finish(self, held: Held, lost: &BTreeMap<Digest, &str>) -> Result<Summary, BackupError> {
        let failed = |error| io_error("the backup cannot be finished", error);
        let mut blobs = held.blobs.clone();
        blobs.retain(|digest, _| !lost.contains_key(digest));
        let numbers = files::names(&self.dir).map_err(failed)?.unwrap_or_default();
        let number = numbers.iter().filter_map(|name| number(name)).max().unwrap_or(0) + 1;
        let metadata = metadata_name(number);
        let copied = files::copy(&held.metadata, &self.dir.join(&metadata)).map_err(failed)?;
        let list = write_list(&blobs);
        files::write(&self.dir.join(list_name(number)), list.as_bytes()).map_err(failed)?;
        files::sync_directory(&self.dir).map_err(failed)?;
        let part = |file, (bytes, digest): (u64, Digest)| Part { file, bytes, digest: digest.to_string() };
        let listed = (list.len() as u64, Digest::of(Algorithm::Sha256, list.as_bytes()));
        let snapshot = &held.snapshot;
        let manifest = Manifest {
            format: FORMAT,
            binaryrepo: env!("CARGO_PKG_VERSION").to_owned(),
            taken: snapshot.taken.clone(),
            schema: snapshot.schema,
            repositories: snapshot.repositories,
            tags: snapshot.tags,
            manifests: snapshot.manifests,
            blobs: blobs.len() as u64,
            bytes: blobs.values().sum(),
            metadata: part(metadata, copied),
            list: part(list_name(number), listed),
            missing: lost.iter().map(|(digest, why)| format!("{digest} {why}")).collect(),
        };
        let text = serde_json::to_string_pretty(&manifest).map_err(|error| failed(error.into()))?;
        files::replace(&self.dir.join(MANIFEST), format!("{text}\n").as_bytes()).map_err(failed)?;
        self.drop_the_rest(number, &blobs)?;
        Ok(Summary { copied: self.copied.0, copied_bytes: self.copied.1, ..manifest.summary() })
    }

    /// What belonged to the last backup alone.
    fn drop_the_rest(&self, current: u64, blobs: &BTreeMap<Digest, u64>) -> Result<(), BackupError> {
        let failed = |error| io_error("what the last backup had alone cannot be removed", error);
        for name in files::names(&self.dir).map_err(failed)?.unwrap_or_default() {
            if number(&name).is_some_and(|number| number != current) {
                files::remove(&self.dir.join(name)).map_err(failed)?;
            }
        }
        let mut gone = Vec::new();
        let scanned = self.to.scan(&mut |found| match found {
            Scan::Blob { digest, .. } if !blobs.contains_key(&digest) => gone.push(digest),
            Scan::Blob { .. } | Scan::Foreign(_) => {}
        });
        scanned.map_err(failed)?;
        gone.iter().try_for_each(|digest| self.to.unlink(digest).map(drop)).map_err(failed)
    }
}

fn link(from: &FsStore, to: &FsStore, digest: &Digest, size: u64) -> std::io::Result<Copied> {
    match from.open(digest)? {
        Some(blob) if blob.size() == size => match to.link_from(from, digest)? {
            true => Ok(Copied::Whole),
            false => Ok(Copied::Bad("is missing")),
        },
        Some(_) => Ok(Copied::Bad("has another size")),
        None => Ok(Copied::Bad("is missing")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::Whole;
    use crate::store::{DraftId, Durability};

    /// A data directory with these blobs.
    async fn data(contents: &[&'static str]) -> (tempfile::TempDir, Vec<(String, u64)>) {
        let dir = tempfile::tempdir().expect("a directory");
        let store = FsStore::open(dir.path()).expect("a store");
        let mut blobs = Vec::new();
        for (content, id) in contents.iter().zip(1..) {
            let mut draft = store.create_draft(DraftId(id), Algorithm::Sha256).expect("a draft");
            draft.append(vec![content.as_bytes().into()]).await.expect("room");
            let digest = draft.digest();
            draft.publish(&digest, Durability::Durable).await.expect("published");
            blobs.push((digest.to_string(), content.len() as u64));
        }
        (dir, blobs)
    }

    /// The `number`th that was asked for.
    fn snapshot(dir: &Path, number: u64, blobs: &[(String, u64)]) -> Snapshot {
        let metadata = dir.join(format!("metadata-{number}"));
        files::write(&metadata, b"rows").expect("written");
        let blobs = blobs.to_vec();
        let taken = "2026-11-21T19:20:37Z".to_owned();
        Snapshot { metadata, schema: 1, taken, repositories: 1, tags: 2, manifests: 3, blobs }
    }

    /// The metadata of the backup is then that of the second look, which does not name it any more.
    #[tokio::test]
    async fn what_is_removed_while_it_is_saved_is_not_missed() {
        let (dir, blobs) = data(&["one", "two"]).await;
        let gone = (Digest::of(Algorithm::Sha256, b"gone").to_string(), 4);
        let backup = tempfile::tempdir().expect("a directory");
        let mut asked = 0;
        let ask = async || {
            asked += 1;
            let more = if asked == 1 { vec![gone.clone()] } else { Vec::new() };
            Ok::<_, BackupError>(snapshot(dir.path(), asked, &[&blobs[..], &more].concat()))
        };
        let summary = take(dir.path(), backup.path(), How::Copy, ask, |_| ()).await.expect("taken");
        assert_eq!((summary.blobs, summary.bytes, summary.copied), (2, 6, 2));
        assert_eq!((summary.missing, asked), (Vec::new(), 2));
        let whole = Whole::read(backup.path()).expect("a backup");
        whole.check(|_| ()).await.expect("whole");
        // The next one takes along what is gone: what it had alone is removed.
        let ask = async || Ok::<_, BackupError>(snapshot(dir.path(), 9, &blobs[..1]));
        let summary = take(dir.path(), backup.path(), How::Copy, ask, |_| ()).await.expect("taken");
        assert_eq!((summary.blobs, summary.copied), (1, 0));
        let mut names = files::names(backup.path()).expect("listed").expect("there");
        names.retain(|name| name.contains('.'));
        names.sort_unstable();
        assert_eq!(names, ["backup.json", "backup.lock", "blobs-2.txt", "metadata-2.redb"]);
        let mut left = 0;
        store(backup.path()).expect("a store").scan(&mut |_| left += 1).expect("listed");
        assert_eq!(left, 1);
    }

    /// However long it takes, nobody can take its snapshot away; killed at any time, it leaves none behind.
    #[tokio::test]
    async fn its_snapshot_has_no_name_while_it_is_taken() {
        let (dir, blobs) = data(&["one"]).await;
        let backup = tempfile::tempdir().expect("a directory");
        let ask = async || Ok::<_, BackupError>(snapshot(dir.path(), 1, &blobs));
        let (metadata, mut named) = (dir.path().join("metadata-1"), 0);
        let summary =
            take(dir.path(), backup.path(), How::Copy, ask, |_| named += u64::from(metadata.exists())).await;
        assert_eq!((summary.expect("taken").blobs, named), (1, 0));
        assert_eq!(files::read(&backup.path().join("metadata-1.redb")).expect("there"), "rows");
    }

    #[tokio::test]
    async fn what_is_lost_is_named_and_two_at_once_are_not() {
        let (dir, mut blobs) = data(&["one"]).await;
        blobs.push((Digest::of(Algorithm::Sha256, b"lost").to_string(), 4));
        let backup = tempfile::tempdir().expect("a directory");
        let mut asked = 0;
        let ask = async || {
            asked += 1;
            let second = Taking::begin(dir.path(), backup.path(), How::Copy);
            assert!(matches!(second, Err(BackupError::InUse(_))));
            Ok::<_, BackupError>(snapshot(dir.path(), asked, &blobs))
        };
        let summary = take(dir.path(), backup.path(), How::Copy, ask, |_| ()).await.expect("taken");
        assert_eq!((summary.missing, asked), (vec![format!("{} is missing", blobs[1].0)], 2));
    }
}
