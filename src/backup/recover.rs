//! Owns the way back to an earlier state of damaged metadata: the newest snapshot that is whole takes the place of the
//! file, which is kept.
//! Must not know: when snapshots are taken, how a person is told.
//!
//! Killed at any point it can be run again: the snapshots stay where they are, and a data directory with snapshots and
//! without metadata is not served.

use std::io;
use std::path::{Path, PathBuf};

use super::files;
use crate::meta::{
    self, Batch, CopyRow, Durability, Meta as _, MetaError, MetaExt as _, Options, RedbMeta, SettingKey,
    SettingRow, SnapshotFile, Snapshots,
};
use crate::store::Trouble;

/// What is to take the metadata's place is put together under this name.
const DRAFT: &str = "meta.redb.recovered";
/// A damaged file is kept under this name, and the second it was set aside in.
const ASIDE: &str = "meta.redb.damaged-";
/// Rows changed in one commit.
const ROWS: usize = 1_000;

/// The metadata of an earlier moment, in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// When the snapshot was taken, in milliseconds since 1970.
    pub taken_ms: u64,
    /// Where the damaged file lies; `None`: there was none.
    pub kept: Option<PathBuf>,
    /// Newer snapshots that cannot be used, and why.
    pub passed_over: Vec<String>,
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    #[error("the metadata in {} is not damaged: nothing was changed", .0.display())]
    Sound(PathBuf),
    #[error("the data directory {} is in use by another binaryrepo", .0.display())]
    InUse(PathBuf),
    #[error("the metadata in {} cannot be recovered: {why}", dir.display())]
    NoSnapshot { dir: PathBuf, why: String },
    #[error("the metadata in {} cannot be recovered: {error}", dir.display())]
    Failed { dir: PathBuf, error: MetaError },
}

/// Whether a file of metadata is the matter, rather than who reads it or the machine.
pub fn is_damage(error: &MetaError) -> bool {
    match error {
        MetaError::Corrupt(_) => true,
        MetaError::Io(error) => Trouble::of(error) == Trouble::Damage,
        _ => false,
    }
}

/// Puts the newest whole snapshot in the place of damaged metadata, or of none. `now` is in seconds since 1970.
pub async fn recover(data: &Path, now: u64) -> Result<Recovered, RecoverError> {
    let failed = |error: io::Error| RecoverError::Failed { dir: data.to_owned(), error: error.into() };
    let in_use = || RecoverError::InUse(data.to_owned());
    let (metadata, snapshots) = (data.join(meta::FILE), Snapshots::of(data));
    // Before the look: what is good by the time that another one has ended is not set aside.
    let _alone = match files::open(snapshots.dir()).and_then(files::hold) {
        Ok(lock) => Some(lock.ok_or_else(in_use)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(error)),
    };
    let _damaged = match meta::check(&metadata) {
        Ok(()) => return Err(RecoverError::Sound(data.to_owned())),
        Err(MetaError::InUse(_)) => return Err(in_use()),
        Err(MetaError::Io(error)) if error.kind() == io::ErrorKind::NotFound => None,
        // No server starts on it from here on.
        Err(error) if is_damage(&error) => {
            let held = files::open(&metadata).and_then(files::hold).map_err(failed)?;
            Some(held.ok_or_else(in_use)?)
        }
        Err(error) => return Err(RecoverError::Failed { dir: data.to_owned(), error }),
    };
    let mut passed_over = Vec::new();
    for snapshot in snapshots.list().map_err(failed)? {
        match prepare(&snapshot, data).await {
            Ok(()) => {
                let kept = put_in_place(data, now).map_err(failed)?;
                return Ok(Recovered { taken_ms: snapshot.taken_ms(), kept, passed_over });
            }
            Err(error) if is_damage(&error) || matches!(error, MetaError::Newer { .. }) => {
                passed_over.push(format!("{}: {error}", snapshot.path.display()));
            }
            Err(error) => return Err(RecoverError::Failed { dir: data.to_owned(), error }),
        }
    }
    let why = match passed_over.is_empty() {
        true => "there is no snapshot of it".to_owned(),
        false => format!("its snapshots are damaged as well: {}", passed_over.join("; ")),
    };
    Err(RecoverError::NoSnapshot { dir: data.to_owned(), why })
}

/// Makes a file that a server can start on; the snapshot stays as it is. A server finds that the stop was not orderly.
async fn prepare(snapshot: &SnapshotFile, data: &Path) -> Result<(), MetaError> {
    let draft = data.join(DRAFT);
    let made = async {
        files::copy(&files::open(&snapshot.path)?, &draft)?;
        // Whoever recovers may be another user than the server is.
        files::give_to_owner_of(&draft, data)?;
        meta::check(&draft)?;
        let (meta, _) = RedbMeta::open(&draft, Options { keep_older: false, ..Options::default() })?;
        doubt(&meta).await
    };
    let made = made.await;
    if made.is_err() {
        // The next one writes over what stays.
        let _ = files::remove(&draft);
    }
    made
}

/// The files may be younger than their rows, and something has damaged this disk: none is served before it was hashed. And
/// numbers that accounts and repositories got since will be given again, so what was signed for them counts no more.
async fn doubt(meta: &RedbMeta) -> Result<(), MetaError> {
    let mut trusted = Vec::new();
    meta.each::<CopyRow, MetaError>(&(), |digest, row| {
        trusted.extend(row.durable.then_some((digest, row)));
        Ok(())
    })?;
    for some in trusted.chunks(ROWS) {
        let mut batch = Batch::new(Durability::Relaxed);
        for (digest, row) in some {
            batch.put(digest, &CopyRow { durable: false, ..row.clone() });
        }
        meta.apply(batch).await?;
    }
    let mut last = Batch::new(Durability::Durable);
    last.delete::<SettingRow>(&SettingKey::TICKET_KEY);
    meta.apply(last).await
}

/// Two steps, each durable. Between them there is no metadata.
fn put_in_place(data: &Path, now: u64) -> io::Result<Option<PathBuf>> {
    let metadata = data.join(meta::FILE);
    let kept = match metadata.try_exists()? {
        true => {
            let mut names = (now..).map(|second| data.join(format!("{ASIDE}{second}")));
            let free = names.find(|name| !name.exists()).unwrap_or_else(|| data.join(ASIDE));
            files::rename(&metadata, &free)?;
            Some(free)
        }
        // Of one that was killed there.
        false => {
            let names = files::names(data)?.unwrap_or_default();
            let last = names.into_iter().filter(|name| name.starts_with(ASIDE)).max();
            last.map(|name| data.join(name))
        }
    };
    files::rename(&data.join(DRAFT), &metadata)?;
    Ok(kept)
}
