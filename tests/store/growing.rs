//! Drafts while they grow, and every end they can come to.

use super::*;

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

/// Pieces wait for each other at the writer thread: where one finds no room, none behind it may be written.
#[tokio::test]
async fn what_comes_behind_a_failed_piece_is_not_written() {
    // A small one, and one that is hashed while it is written.
    for size in [10, 100 * KIB] {
        let writes = AtomicUsize::new(0);
        let house = House::with(Faults::new(move |call| {
            let second = call == Call::Write && writes.fetch_add(1, Ordering::Relaxed) == 1;
            second.then_some(Strike::Fail(28))
        }));
        let mut draft = house.draft(1);
        let pieces = [1, 2, 3].map(|byte: u8| Bytes::from(vec![byte; size]));
        let mut errors = Vec::new();
        for piece in &pieces {
            errors.extend(draft.append_behind(vec![piece.clone()]).await.err());
        }
        errors.extend(draft.settle().await.err());
        assert_eq!(errors[0].kind(), io::ErrorKind::StorageFull);
        assert_eq!((draft.len(), draft.digest()), (size as u64, digest(&pieces[0])));
        for piece in &pieces[1..] {
            draft.append_behind(vec![piece.clone()]).await.unwrap();
        }
        let whole = digest(&pieces.concat());
        // Who publishes waits for what is on its way.
        let blob = draft.publish(&whole, Durability::Durable).await.unwrap();
        assert_eq!(digest(&blob.read_all().unwrap()), whole);
    }
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
