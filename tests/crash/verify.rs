//! What lies in the data directory when no server runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use binaryrepo::meta::{CopyRow, DraftRow, Meta as _, MetaExt as _, Options, RedbMeta};
use binaryrepo::names::{Algorithm, Digest};

use super::load::World;

/// All published blobs.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let shards = std::fs::read_dir(dir.join("cas/sha256")).unwrap();
    let files = shards.flat_map(|shard| std::fs::read_dir(shard.unwrap().path()).unwrap());
    files.map(|file| file.unwrap().path()).collect()
}

/// Every row has its file, every file its row, every file the bytes that its name says, and no fill left a draft.
pub fn rows_and_files_agree(dir: &Path, world: &World) {
    let (meta, opened) = RedbMeta::open(&dir.join("meta.redb"), Options::default()).unwrap();
    assert!(opened.clean, "the stop was not clean");
    let mut rows = BTreeMap::new();
    let mut after = None;
    loop {
        let page = meta.scan::<CopyRow>(&(), after.as_ref(), 1_000).unwrap();
        let last = page.len() < 1_000;
        after = page.last().map(|(digest, _)| *digest);
        rows.extend(page);
        if last {
            break;
        }
    }
    for path in files(dir) {
        let name = path.file_name().unwrap().to_str().unwrap();
        let digest: Digest = format!("sha256:{name}").parse().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let row = rows.remove(&digest).unwrap_or_else(|| panic!("a file without a row: {digest}"));
        assert_eq!(row.size, bytes.len() as u64, "{digest}");
        // Everything was pulled before the stop, so everything has been looked at.
        if world.is_cached(&digest) || row.durable {
            assert_eq!(Digest::of(Algorithm::Sha256, &bytes), digest);
        }
    }
    assert!(rows.is_empty(), "rows without a file: {rows:?}");
    for (digest, _) in world.promised() {
        assert!(meta.get::<CopyRow>(digest).unwrap().is_some_and(|row| row.durable), "{digest}");
    }
    let drafts = meta.scan::<DraftRow>(&(), None, 100).unwrap();
    assert!(drafts.is_empty(), "drafts that nobody will take up: {drafts:?}");
    // Nothing was written here: the next start finds a clean stop.
    let closing = meta.close();
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(closing)).unwrap();
}
