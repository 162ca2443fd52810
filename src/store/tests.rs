//! What the store promises, tried on a real file system.

#![expect(clippy::disallowed_methods, reason = "these tests plant and damage files behind the store's back")]

use std::collections::BTreeSet;
use std::fs;
use std::future::poll_fn;
use std::io;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::*;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

struct House {
    store: FsStore,
    dir: TempDir,
}

impl House {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        Self { store: FsStore::open(dir.path()).unwrap(), dir }
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

#[tokio::test]
async fn the_last_byte_waits_for_the_publishing() {
    let house = House::new();
    let content = content(300 * KIB);
    let draft = house.filled(1, &content).await;
    let mut reader = draft.tail().reader(0, None);
    let mut before = Vec::new();
    while before.len() < content.len() - 1 {
        before.extend_from_slice(&next(&mut reader).await.unwrap().unwrap());
    }
    assert!(poll(&mut reader).is_pending() && reader.is_waiting());
    assert_eq!(reader.remaining(), Some(1));
    let mut range = draft.tail().reader(content.len() as u64 - 1, Some(content.len() as u64));
    assert!(poll(&mut range).is_pending());

    draft.publish(&digest(&content), Durability::Relaxed).await.unwrap();
    let rest = read_whole(reader).await;
    assert_eq!(
        (before, rest),
        (content[..content.len() - 1].to_vec(), content[content.len() - 1..].to_vec())
    );
    assert_eq!(read_whole(range).await, content[content.len() - 1..]);
}

#[tokio::test]
async fn a_small_or_unmeasured_blob_waits_as_a_whole() {
    let house = House::new();
    for (id, size, announced) in [(1, 64 * KIB, true), (2, 300 * KIB, false), (3, 0, true)] {
        let content = content(size);
        let mut draft = house.draft(id);
        draft.announce(announced.then_some(size as u64));
        draft.append(vec![Bytes::from(content.clone())]).await.unwrap();
        let mut reader = draft.tail().reader(0, None);
        assert!(poll(&mut reader).is_pending() && reader.is_waiting());
        assert_eq!(draft.tail().progress().readable, 0);
        draft.publish(&digest(&content), Durability::Relaxed).await.unwrap();
        assert_eq!(read_whole(reader).await, content);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn five_hundred_readers_see_the_same_bytes_while_they_arrive() {
    let house = House::new();
    let content = Arc::new(content(3 * MIB + 17));
    let mut draft = house.draft(1);
    draft.announce(Some(content.len() as u64));
    let mut readers = JoinSet::new();
    let mut join = |tail: Tail, number: usize| {
        let content = Arc::clone(&content);
        let start = if number.is_multiple_of(5) { number * 5000 } else { 0 };
        let end = if number.is_multiple_of(7) { content.len() - number } else { content.len() };
        readers.spawn(async move {
            let bytes = read_whole(tail.reader(start as u64, Some(end as u64))).await;
            assert!(bytes == content[start..end], "reader {number}");
        });
    };
    for (number, piece) in content.chunks(37_000).enumerate() {
        (number * 6..(number + 1) * 6).filter(|n| *n < 500).for_each(|n| join(draft.tail(), n));
        draft.append(piece.chunks(10_000).map(Bytes::copy_from_slice).collect()).await.unwrap();
    }
    draft.publish(&digest(&content), Durability::Relaxed).await.unwrap();
    assert_eq!(readers.len(), 500);
    while let Some(joined) = readers.join_next().await {
        joined.unwrap();
    }
}

#[tokio::test]
async fn a_late_reader_gets_what_is_there_at_once_and_a_far_one_waits() {
    let house = House::new();
    let content = content(400 * KIB);
    let mut draft = house.draft(1);
    draft.announce(Some(content.len() as u64));
    draft.append(vec![Bytes::copy_from_slice(&content[..200 * KIB])]).await.unwrap();

    let mut late = draft.tail().reader(0, None);
    assert!(!late.is_waiting());
    let first = next(&mut late).await.unwrap().unwrap();
    assert_eq!(first, content[..first.len()]);

    let mut far = draft.tail().reader(300 * KIB as u64, Some(350 * KIB as u64));
    assert!(poll(&mut far).is_pending() && far.is_waiting());
    draft.append(vec![Bytes::copy_from_slice(&content[200 * KIB..])]).await.unwrap();
    assert!(!far.is_waiting(), "asked before it is polled again");
    assert_eq!(read_whole(far).await, content[300 * KIB..350 * KIB], "a middle part needs no publishing");
}

#[tokio::test]
async fn a_failed_draft_breaks_its_readers_off() {
    let house = House::new();
    let content = content(200 * KIB);
    let draft = house.filled(1, &content).await;
    let (mut tail, reader) = (draft.tail(), draft.tail().reader(0, None));
    let path = house.draft_path(1);
    assert!(path.exists());
    draft.fail("wrong digest".into());
    let (bytes, end) = read(reader).await;
    assert_eq!(bytes, content[..content.len() - 1]);
    assert_eq!(end.unwrap_err().to_string(), "wrong digest");
    assert_eq!(tail.size().await.unwrap_err().as_ref(), "wrong digest");
    house.gone(&path).await;
}

#[tokio::test]
async fn a_dropped_draft_is_a_failed_one() {
    let house = House::new();
    let draft = house.draft(1);
    let mut waiting = draft.tail();
    let (size, ()) = tokio::join!(waiting.size(), async {
        tokio::task::yield_now().await;
        drop(draft);
    });
    assert_eq!(size.unwrap_err().as_ref(), "the fill died");
    assert!(read(waiting.reader(0, None)).await.1.is_err());
    house.gone(&house.draft_path(1)).await;
}

#[tokio::test]
async fn bytes_beyond_the_announced_size_and_a_wrong_digest_are_refused() {
    let house = House::new();
    let mut draft = house.filled(1, &content(100)).await;
    let error = draft.append(vec![Bytes::from_static(b"x")]).await.unwrap_err();
    assert_eq!((error.kind(), draft.len()), (io::ErrorKind::InvalidData, 100));

    let reader = draft.tail().reader(0, None);
    let error = draft.publish(&digest(b"other"), Durability::Relaxed).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(read(reader).await.1.is_err());
    assert!(house.store.open(&digest(b"other")).unwrap().is_none());

    let mut short = house.draft(2);
    short.announce(Some(10));
    short.append(vec![Bytes::from_static(b"five!")]).await.unwrap();
    let reader = short.tail().reader(0, None);
    short.complete_unpublished();
    assert!(read(reader).await.1.is_err());
}

#[tokio::test]
async fn proven_bytes_go_out_even_where_they_cannot_be_kept() {
    let house = House::new();
    let content = content(100 * KIB);
    fs::create_dir(house.blob_path(&digest(&content))).unwrap();
    let draft = house.filled(1, &content).await;
    let reader = draft.tail().reader(0, None);
    draft.publish(&digest(&content), Durability::Relaxed).await.unwrap_err();
    assert_eq!(read_whole(reader).await, content);
    house.gone(&house.draft_path(1)).await;

    let draft = house.filled(2, &content).await;
    let reader = draft.tail().reader(0, None);
    draft.complete_unpublished();
    assert_eq!(read_whole(reader).await, content);
    house.gone(&house.draft_path(2)).await;
}

#[tokio::test]
async fn an_append_nobody_waits_for_counts_whole() {
    let house = House::new();
    let mut draft = house.draft(1);
    let mut abandoned = Box::pin(draft.append(vec![Bytes::from_static(b"first ")]));
    let _ = abandoned.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    drop(abandoned);
    draft.append(vec![Bytes::from_static(b"second")]).await.unwrap();
    assert_eq!(draft.digest(), digest(b"first second"));
    let blob = draft.publish(&digest(b"first second"), Durability::Relaxed).await.unwrap();
    assert_eq!(blob.read_all().unwrap(), "first second");
}

#[tokio::test]
async fn a_kept_draft_is_taken_up_at_its_last_sound_checkpoint() {
    let house = House::new();
    let content = content(300 * KIB);
    let mut draft = house.draft(1);
    draft.announce(Some(content.len() as u64));
    let mut checkpoints = Vec::new();
    for piece in content[..200 * KIB].chunks(50 * KIB) {
        draft.append(vec![Bytes::copy_from_slice(piece)]).await.unwrap();
        checkpoints.push(draft.checkpoint());
    }
    let reader = draft.tail().reader(0, None);
    assert_eq!(draft.keep("stopping".into()).await.unwrap(), checkpoints[3]);
    assert_eq!(read(reader).await.1.unwrap_err().to_string(), "stopping");

    // The third quarter is damaged, so the first two are what is left.
    let mut bytes = fs::read(house.draft_path(1)).unwrap();
    bytes[120 * KIB] ^= 1;
    fs::write(house.draft_path(1), bytes).unwrap();
    let again = house.store.reopen_draft(DraftId(1), Algorithm::Sha256, &checkpoints).unwrap();
    let mut again = again.unwrap();
    assert_eq!(again.checkpoint(), checkpoints[1]);
    assert_eq!(fs::metadata(house.draft_path(1)).unwrap().len(), 100 * KIB as u64);

    again.announce(Some(content.len() as u64));
    assert_eq!(again.tail().progress().readable, 100 * KIB as u64);
    again.append(vec![Bytes::copy_from_slice(&content[100 * KIB..])]).await.unwrap();
    let blob = again.publish(&digest(&content), Durability::Durable).await.unwrap();
    assert_eq!(blob.read_all().unwrap(), content);
}

#[tokio::test]
async fn a_draft_without_a_sound_checkpoint_is_removed() {
    let house = House::new();
    let foreign = Checkpoint { len: 3, prefix: digest(b"xyz") };
    let beyond = Checkpoint { len: 99, prefix: digest(b"abc") };
    let other_algorithm = Checkpoint { len: 3, prefix: Digest::of(Algorithm::Sha512, b"abc") };
    fs::write(house.draft_path(1), "abc").unwrap();
    let points = [foreign, beyond, other_algorithm];
    assert!(house.store.reopen_draft(DraftId(1), Algorithm::Sha256, &points).unwrap().is_none());
    assert!(!house.draft_path(1).exists());
    assert!(house.store.reopen_draft(DraftId(1), Algorithm::Sha256, &points).unwrap().is_none());
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

    fs::write(&path, "torn").unwrap();
    house.published(4, &content).await;
    assert_eq!(fs::read(&path).unwrap(), content, "what a power cut left is replaced");
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

    assert!(house.store.quarantine(&digest).unwrap());
    assert!(!house.store.quarantine(&digest).unwrap());
    assert!(house.store.open(&digest).unwrap().is_none());
    assert_eq!(fs::read_dir(house.dir.path().join("quarantine")).unwrap().count(), 1);
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
        Scan::Draft { id, len } => {
            assert_eq!((*id, *len), (DraftId(7), 4));
            false
        }
        Scan::Foreign(_) => true,
    });
    let found: BTreeSet<_> = found
        .into_iter()
        .filter_map(|scan| if let Scan::Foreign(path) = scan { Some(path) } else { None })
        .collect();
    assert_eq!(found, BTreeSet::from(foreign));
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

/// The kernel's memory file system refuses a reservation larger than itself before it takes any of it.
#[tokio::test]
async fn a_reservation_beyond_the_disk_says_that_it_is_full() {
    let shared_memory = Path::new("/dev/shm");
    assert!(shared_memory.is_dir(), "this test needs a tmpfs at {}", shared_memory.display());
    let dir = TempDir::new_in(shared_memory).unwrap();
    let store = FsStore::open(dir.path()).unwrap();
    let mut draft = store.create_draft(DraftId(1), Algorithm::Sha256).unwrap();
    let total = store.space().unwrap().total;
    let error = draft.reserve(total + MIB as u64).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    draft.reserve(MIB as u64).await.unwrap();
    draft.append(vec![Bytes::from_static(b"goes on")]).await.unwrap();
    assert_eq!(draft.publish(&digest(b"goes on"), Durability::Durable).await.unwrap().size(), 7);
}

#[tokio::test]
async fn a_full_disk_leaves_the_draft_as_it_was() {
    let house = House::new();
    let device = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut draft = house.store.draft_over(DraftId(1), device);
    let error = draft.append(vec![Bytes::from_static(b"no room")]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!((draft.len(), draft.digest()), (0, digest(b"")));
}

#[tokio::test]
async fn stalled_readers_hold_no_buffer() {
    let house = House::new();
    let content = content(MIB);
    let draft = house.filled(1, &content).await;
    let at_rest = house.store.buffer_holders();
    let mut readers: Vec<_> = (0..500).map(|_| draft.tail().reader(0, None)).collect();
    for reader in &mut readers {
        let bytes = next(reader).await.unwrap().unwrap();
        assert_eq!(house.store.buffer_holders(), at_rest + 1, "the chunk itself is the loan");
        drop(bytes);
    }
    assert_eq!(house.store.buffer_holders(), at_rest);
    assert!(size_of::<Reader>() <= 192, "{}", size_of::<Reader>());
}
