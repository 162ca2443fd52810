//! What the store promises, through its public face, on a real file system.

#![expect(clippy::disallowed_methods, reason = "these tests plant and damage files behind the store's back")]

use std::collections::BTreeSet;
use std::fs;
use std::future::poll_fn;
use std::io;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tokio::task::JoinSet;

use binaryrepo::clock::{Clock, UnixMillis};
use binaryrepo::names::{Algorithm, Digest};
use binaryrepo::store::*;

mod growing;
mod resting;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

struct House {
    store: FsStore,
    dir: TempDir,
}

impl House {
    fn new() -> Self {
        Self::with(Faults::default())
    }

    fn with(faults: Faults) -> Self {
        let dir = TempDir::new().unwrap();
        Self { store: FsStore::open_with(dir.path(), faults).unwrap(), dir }
    }

    fn draft(&self, id: u64) -> Draft {
        self.store.create_draft(DraftId(id), Algorithm::Sha256).unwrap()
    }

    /// A draft that holds all of `content`, unpublished.
    async fn filled(&self, id: u64, content: &[u8]) -> Draft {
        let mut draft = self.draft(id);
        draft.announce(Some(content.len() as u64));
        draft.append(vec![Bytes::copy_from_slice(content)]).await.unwrap();
        draft
    }

    async fn published(&self, id: u64, content: &[u8]) -> (Digest, Blob) {
        let draft = self.filled(id, content).await;
        let digest = draft.digest();
        (digest, draft.publish(&digest, Durability::Relaxed).await.unwrap())
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.dir.path().join("cas").join(digest.algorithm().as_str()).join(&hex[..2]).join(hex)
    }

    fn draft_path(&self, id: u64) -> PathBuf {
        self.dir.path().join("tmp").join(id.to_string())
    }

    /// Removal is left to the writer threads.
    async fn gone(&self, path: &Path) {
        for _ in 0..500 {
            if !path.exists() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} is still there", path.display());
    }

    fn listed(&self) -> Vec<Scan> {
        let mut found = Vec::new();
        self.store.scan(&mut |scan| found.push(scan)).unwrap();
        found
    }
}

/// Bytes that differ from place to place.
fn content(len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(len as u64);
    (0..len).map(|_| random.u8(..)).collect()
}

fn digest(content: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, content)
}

async fn read(mut reader: Reader) -> (Vec<u8>, io::Result<()>) {
    let mut all = Vec::new();
    let before = reader.sent();
    loop {
        match poll_fn(|cx| reader.poll_chunk(cx, 64 * KIB)).await {
            Some(Ok(bytes)) => all.extend_from_slice(&bytes),
            Some(Err(error)) => return (all, Err(error)),
            None => return (all, Ok(())),
        }
        assert_eq!(reader.sent() - before, all.len() as u64);
    }
}

async fn read_whole(reader: Reader) -> Vec<u8> {
    let (bytes, end) = read(reader).await;
    end.unwrap();
    bytes
}

async fn next(reader: &mut Reader) -> Option<io::Result<Bytes>> {
    poll_fn(|cx| reader.poll_chunk(cx, MIB)).await
}

fn poll(reader: &mut Reader) -> Poll<Option<io::Result<Bytes>>> {
    reader.poll_chunk(&mut Context::from_waker(Waker::noop()), MIB)
}

/// A power cut would take the directory, with all that was synced in it.
#[cfg(feature = "planted-bugs")]
#[test]
fn a_data_directory_that_is_made_is_synced_by_name() {
    use std::sync::atomic::{AtomicUsize, Ordering};

    let dir = TempDir::new().unwrap();
    let synced = |path: &Path| {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let count_syncs = move |call| {
            counted.fetch_add(usize::from(call == Call::SyncDirectory), Ordering::Relaxed);
            None
        };
        FsStore::open_with(path, Faults::new(count_syncs)).unwrap();
        count.load(Ordering::Relaxed)
    };
    let there = synced(dir.path());
    let new = dir.path().join("a/b");
    assert_eq!(synced(&new), there + 2, "a in its parent, and b in a");
    assert_eq!(synced(&new), there);
}

#[tokio::test]
async fn publishing_what_is_there_is_no_error() {
    let house = House::new();
    let content = content(100 * KIB);
    let (digest, _) = house.published(1, &content).await;
    let path = house.blob_path(&digest);
    let first = fs::metadata(&path).unwrap().ino();

    let (_, blob) = house.published(2, &content).await;
    assert_eq!(fs::metadata(&path).unwrap().ino(), first, "a relaxed publish keeps what is there");
    assert_eq!(blob.read_all().unwrap(), content);
    assert!(!house.draft_path(2).exists());

    let draft = house.filled(3, &content).await;
    draft.publish(&digest, Durability::Durable).await.unwrap();
    assert_ne!(fs::metadata(&path).unwrap().ino(), first, "a durable one puts synced bytes there");

    for torn in [b"torn".to_vec(), vec![0; content.len()]] {
        fs::write(&path, torn).unwrap();
        house.published(4, &content).await;
        assert_eq!(fs::read(&path).unwrap(), content, "what a power cut left is replaced");
    }
    assert!(house.store.promote(&digest).unwrap());
    house.store.sync_all().unwrap();
}

#[tokio::test]
async fn who_reads_a_blob_is_not_disturbed_by_its_removal() {
    let house = House::new();
    let content = content(MIB);
    let (digest, blob) = house.published(1, &content).await;
    let mut reader = blob.reader(0, blob.size());
    let first = next(&mut reader).await.unwrap().unwrap();
    assert!(house.store.unlink(&digest).unwrap());
    assert!(!house.store.unlink(&digest).unwrap());
    assert!(house.store.open(&digest).unwrap().is_none());
    assert!(!house.store.promote(&digest).unwrap());
    assert_eq!([first.to_vec(), read_whole(reader).await].concat(), content);
    assert_eq!(blob.hash(Algorithm::Sha256).unwrap(), digest);
}

#[tokio::test]
async fn bytes_that_are_not_in_memory_are_read_all_the_same() {
    let house = House::new();
    let content = content(3 * MIB);
    let (digest, blob) = house.published(1, &content).await;
    assert!(house.store.promote(&digest).unwrap());
    let file = fs::File::open(house.blob_path(&digest)).unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    let mut reader = blob.reader(10, blob.size());
    // Waiting for the disk is not waiting for a fill.
    assert!(!(poll(&mut reader).is_pending() && reader.is_waiting()));
    let mut reader = blob.reader(10, blob.size());
    let first = next(&mut reader).await.unwrap().unwrap();
    assert_eq!([first.to_vec(), read_whole(reader).await].concat(), content[10..]);
}

#[tokio::test]
async fn a_blob_cut_short_breaks_its_reader_off() {
    let house = House::new();
    let (digest, blob) = house.published(1, &content(100 * KIB)).await;
    let file = fs::OpenOptions::new().write(true).open(house.blob_path(&digest)).unwrap();
    file.set_len(60 * KIB as u64).unwrap();
    let (bytes, end) = read(blob.reader(0, blob.size())).await;
    assert_eq!((bytes.len(), end.unwrap_err().kind()), (60 * KIB, io::ErrorKind::UnexpectedEof));
    assert_eq!(blob.read_all().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);

    assert!(house.store.quarantine(&digest, Some(&blob)).unwrap());
    assert!(!house.store.quarantine(&digest, Some(&blob)).unwrap());
    assert!(!house.store.quarantine(&digest, None).unwrap());
    assert!(house.store.open(&digest).unwrap().is_none());
    assert_eq!(fs::read_dir(house.dir.path().join("quarantine")).unwrap().count(), 1);
}

#[tokio::test]
async fn what_was_set_aside_is_listed_with_its_time() {
    let house = House::new();
    let (digest, _) = house.published(1, &content(100 * KIB)).await;
    assert!(house.store.quarantine(&digest, None).unwrap());
    fs::write(house.dir.path().join("quarantine/notes"), "a person's").unwrap();
    let now = Clock::new().wall().0;
    let listed = house.store.list_aside().unwrap();
    let [Aside { digest: of, size, at: UnixMillis(at) }] = listed[..] else { panic!("{listed:?}") };
    assert_eq!((of, size), (digest, 100 * KIB as u64));
    let minute = 60_000;
    assert!((now - minute..now + minute).contains(&at), "{at}, and now it is {now}");
    assert!(house.store.remove_aside(&digest).unwrap());
    assert!(!house.store.remove_aside(&digest).unwrap());
    assert!(house.store.list_aside().unwrap().is_empty());
}

/// Somebody finds a blob damaged; before they set it aside, a push puts synced bytes in its place. Moving whatever
/// has the name would take the pushed ones away, which nobody can fetch again.
#[tokio::test]
async fn only_the_damaged_file_is_set_aside() {
    let house = House::new();
    let content = content(100 * KIB);
    let (digest, _) = house.published(1, &content).await;
    let damaged = house.store.open(&digest).unwrap().unwrap();
    house.filled(2, &content).await.publish(&digest, Durability::Durable).await.unwrap();
    assert!(!house.store.quarantine(&digest, Some(&damaged)).unwrap());
    let pushed = house.store.open(&digest).unwrap().unwrap();
    assert_eq!(pushed.read_all().unwrap(), content);
    assert!(house.store.quarantine(&digest, Some(&pushed)).unwrap());
}

#[tokio::test]
async fn a_planted_link_is_not_followed() {
    let house = House::new();
    let secret = house.dir.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    let digest = digest(b"secret");
    symlink(&secret, house.blob_path(&digest)).unwrap();
    symlink(&secret, house.draft_path(1)).unwrap();

    assert_eq!(house.store.open(&digest).unwrap_err().kind(), io::ErrorKind::InvalidData);
    assert!(house.store.promote(&digest).is_err());
    assert!(house.store.create_draft(DraftId(1), Algorithm::Sha256).is_err());
    let checkpoint = Checkpoint { len: 6, prefix: digest };
    assert!(house.store.reopen_draft(DraftId(1), Algorithm::Sha256, &[checkpoint]).is_err());
    assert!(house.listed().iter().all(|scan| matches!(scan, Scan::Foreign(_))));

    // Publishing puts the real bytes in the link's place.
    house.published(2, b"secret").await;
    assert!(fs::symlink_metadata(house.blob_path(&digest)).unwrap().is_file());
    assert!(house.store.remove_draft(DraftId(1)).unwrap());
    assert_eq!(fs::read(&secret).unwrap(), b"secret");
}

#[tokio::test]
async fn the_scan_finds_blobs_drafts_and_what_is_not_ours() {
    let house = House::new();
    let (digest, _) = house.published(1, b"blob").await;
    fs::write(house.draft_path(7), "half").unwrap();
    let root = house.dir.path();
    let wrong_shard = root.join("cas/sha256/00").join("11".repeat(32));
    let foreign = [root.join("tmp/007"), root.join("cas/notes"), root.join("cas/sha512/zz"), wrong_shard];
    foreign.iter().for_each(|path| fs::write(path, "").unwrap());

    let mut found = house.listed();
    found.retain(|scan| match scan {
        Scan::Blob { digest: found, size } => {
            assert_eq!((*found, *size), (digest, 4));
            false
        }
        Scan::Foreign(_) => true,
    });
    let found: BTreeSet<_> = found
        .into_iter()
        .filter_map(|scan| if let Scan::Foreign(path) = scan { Some(path) } else { None })
        .collect();
    assert_eq!(found, BTreeSet::from(foreign));
    let mut drafts = Vec::new();
    house.store.scan_drafts(&mut |id, size| drafts.push((id, size))).unwrap();
    assert_eq!(drafts, [(DraftId(7), "half".len() as u64)]);
}

#[tokio::test]
async fn opening_again_finds_everything_and_a_file_in_the_way_is_named() {
    let house = House::new();
    let (digest, _) = house.published(1, b"blob").await;
    let again = FsStore::open(house.dir.path()).unwrap();
    assert_eq!(again.open(&digest).unwrap().unwrap().read_all().unwrap(), "blob");
    let space = again.space().unwrap();
    assert!(space.free > 0 && space.free <= space.total);

    let other = TempDir::new().unwrap();
    fs::write(other.path().join("quarantine"), "").unwrap();
    let error = FsStore::open(other.path()).unwrap_err().to_string();
    assert!(error.ends_with("quarantine is not a directory"), "{error}");
}
