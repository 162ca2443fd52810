//! Owns bringing a backup back: nothing is taken for granted that can be compared with a digest.
//! Must not know: what the rows mean.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::files;
use super::form::{FORMAT, MANIFEST, Manifest, read_list};
use super::{BackupError, Copied, Progress, Summary, copy_blob, io_error, store};
use crate::meta::{self, Meta as _, Options, RedbMeta, SCHEMA};
use crate::names::Digest;
use crate::store::Store as _;

/// Lies in a data directory while a backup is brought back into it: whoever finds it must not serve that.
pub const UNFINISHED: &str = "restore.unfinished";

/// A backup that has all its parts, as far as a look at their sizes tells.
pub struct Whole {
    dir: PathBuf,
    manifest: Manifest,
    blobs: BTreeMap<Digest, u64>,
}

impl Whole {
    /// Looks at a backup: its manifest, metadata and list are compared with their digests, blobs with their sizes.
    pub fn read(dir: &Path) -> Result<Self, BackupError> {
        let manifest = read_manifest(dir)?;
        let bad = |what: String| BackupError::Damaged { dir: dir.to_owned(), what: vec![what] };
        for part in [&manifest.metadata, &manifest.list] {
            if !part.has_plain_name() {
                return Err(bad(format!("{MANIFEST} names {:?}", part.file)));
            }
            let seen =
                files::hash(&dir.join(&part.file)).map_err(|error| bad(format!("{}: {error}", part.file)))?;
            if !part.is(seen) {
                return Err(bad(format!("{} has other bytes than {MANIFEST} says", part.file)));
            }
        }
        let list = files::read(&dir.join(&manifest.list.file));
        let list = list.map_err(|error| bad(format!("{}: {error}", manifest.list.file)))?;
        let blobs =
            read_list(&list).map_err(|line| bad(format!("{} has the line {line:?}", manifest.list.file)))?;
        let this = Self { dir: dir.to_owned(), manifest, blobs };
        this.compare_sizes()?;
        Ok(this)
    }

    fn compare_sizes(&self) -> Result<(), BackupError> {
        let store = store(&self.dir)?;
        let mut bad = Vec::new();
        for (digest, size) in &self.blobs {
            match store.open(digest) {
                Ok(Some(blob)) if blob.size() == *size => {}
                Ok(Some(blob)) => bad.push(format!("{digest} has {} bytes, not {size}", blob.size())),
                Ok(None) => bad.push(format!("{digest} is missing")),
                Err(error) => bad.push(format!("{digest}: {error}")),
            }
        }
        self.sound(bad)
    }

    /// Reads every blob and compares it with its digest.
    pub async fn check(&self, mut progress: impl FnMut(&Progress)) -> Result<Summary, BackupError> {
        let store = store(&self.dir)?;
        let (mut bad, mut done) = (Vec::new(), Progress::of(self.blobs.values()));
        for (digest, size) in &self.blobs {
            progress(&done);
            match store
                .open(digest)
                .and_then(|blob| blob.map(|blob| blob.hash(digest.algorithm())).transpose())
            {
                Ok(Some(found)) if found == *digest => {}
                Ok(Some(_)) => bad.push(format!("{digest} has other bytes than its digest says")),
                Ok(None) => bad.push(format!("{digest} is missing")),
                Err(error) => bad.push(format!("{digest}: {error}")),
            }
            done.passed(*size);
        }
        progress(&done);
        self.sound(bad)?;
        Ok(self.manifest.summary())
    }

    fn sound(&self, bad: Vec<String>) -> Result<(), BackupError> {
        if bad.is_empty() { Ok(()) } else { Err(BackupError::Damaged { dir: self.dir.clone(), what: bad }) }
    }

    /// Brings it back into an empty data directory. After a failure that is empty again.
    pub async fn restore(
        &self,
        data: &Path,
        mut progress: impl FnMut(&Progress),
    ) -> Result<Summary, BackupError> {
        let failed = |error| io_error(format!("{} cannot be used", data.display()), error);
        let in_the_way = |name: &String| name != files::LOST_AND_FOUND;
        if files::names(data).map_err(failed)?.unwrap_or_default().iter().any(in_the_way) {
            let more = ": a backup is brought back into a new data directory";
            return Err(BackupError::NotEmpty { dir: data.to_owned(), more });
        }
        files::create_directory(data).map_err(failed)?;
        files::replace(&data.join(UNFINISHED), b"a backup is brought back into this directory\n")
            .map_err(failed)?;
        let restored = self.fill(data, &mut progress).await;
        match restored {
            Ok(()) => {
                files::remove(&data.join(UNFINISHED)).map_err(failed)?;
                files::sync_directory(data).map_err(failed)?;
                Ok(self.manifest.summary())
            }
            Err(error) => {
                // The mark stays in what cannot be removed.
                if let Err(error) = files::clear(data, UNFINISHED) {
                    tracing::warn!(%error, path = %data.display(), "what was brought back is not removed");
                }
                Err(error)
            }
        }
    }

    async fn fill(&self, data: &Path, progress: &mut impl FnMut(&Progress)) -> Result<(), BackupError> {
        let (from, to) = (store(&self.dir)?, store(data)?);
        let mut done = Progress::of(self.blobs.values());
        for (digest, size) in &self.blobs {
            progress(&done);
            let copied = copy_blob(&from, &to, done.blobs, (digest, *size)).await;
            match copied.map_err(|error| io_error(format!("{digest} cannot be brought back"), error))? {
                Copied::Whole => done.passed(*size),
                Copied::Bad(why) => return self.sound(vec![format!("{digest} {why}")]),
            }
        }
        progress(&done);
        let failed = |error| io_error("the metadata cannot be brought back", error);
        let (source, target) = (self.dir.join(&self.manifest.metadata.file), data.join(meta::FILE));
        let copied = files::open(&source).and_then(|source| files::copy(&source, &target)).map_err(failed)?;
        if !self.manifest.metadata.is(copied) {
            return self.sound(vec![format!("{} has other bytes than before", self.manifest.metadata.file)]);
        }
        // Whether a server could start on it. If it is older it is upgraded; as it was it is still in the backup.
        let opened = RedbMeta::open(&target, Options { keep_older: false, ..Options::default() });
        let closed = match opened {
            Ok((meta, _)) => meta.close().await,
            Err(error) => Err(error),
        };
        match closed {
            Ok(()) => Ok(()),
            Err(error) => self.sound(vec![format!("{}: {error}", self.manifest.metadata.file)]),
        }
    }
}

fn read_manifest(dir: &Path) -> Result<Manifest, BackupError> {
    let none = |why: String| BackupError::None { dir: dir.to_owned(), why };
    let path = dir.join(MANIFEST);
    let text = files::read(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => none(format!(
            "it has no {MANIFEST}, which is written last: it was interrupted, or is something else"
        )),
        _ => none(format!("{MANIFEST}: {error}")),
    })?;
    // A later form may lack what this one has.
    let format =
        serde_json::from_str::<serde_json::Value>(&text).ok().and_then(|value| value.get("format")?.as_u64());
    if let Some(format) = format.filter(|format| *format > u64::from(FORMAT)) {
        return Err(none(format!("it has form {format}, of a newer version; this one knows {FORMAT}")));
    }
    let manifest: Manifest =
        serde_json::from_str(&text).map_err(|error| none(format!("{MANIFEST}: {error}")))?;
    if manifest.schema > SCHEMA {
        let schema = manifest.schema;
        return Err(none(format!(
            "its metadata has schema {schema}, of a newer version; this one knows {SCHEMA}"
        )));
    }
    Ok(manifest)
}
