//! Disks that fail: what was answered is kept, and the store comes back by itself.

use super::*;

/// redb refuses every write after a failed one, even once the disk has room again: the store must open
/// the file anew by itself, keep reading meanwhile, and lose nothing that it has answered.
#[tokio::test]
async fn after_a_failed_write_reads_go_on_and_writes_come_back() {
    for fault in [Fault::Full, Fault::Broken] {
        let disk = Disk::new();
        let (meta, opened) = disk.start();
        meta.apply(put(Durability::Durable, 1, 10)).await.expect("applied");
        meta.apply(put(Durability::Relaxed, 2, 20)).await.expect("applied");

        disk.set_fault(Some(fault));
        for n in [3, 4] {
            let refused = meta.apply(put(Durability::Durable, n, 30)).await;
            assert!(matches!(refused, Err(MetaError::WriteDead(_))), "{fault:?}: {refused:?}");
            assert_eq!((size_of(&meta, 1), size_of(&meta, 2)), (Some(10), Some(20)), "{fault:?}");
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!((size_of(&meta, 1), size_of(&meta, 2)), (Some(10), Some(20)), "{fault:?}");

        disk.set_fault(None);
        eventually("writes come back", async || meta.apply(put(Durability::Durable, 3, 31)).await.is_ok())
            .await;
        assert_eq!((size_of(&meta, 1), size_of(&meta, 3)), (Some(10), Some(31)), "{fault:?}");
        assert_eq!(size_of(&meta, 2), Some(20), "{fault:?}: an answered batch is lost");
        meta.close().await.expect("closed");

        let (_, again) = disk.start();
        assert_eq!((again.clean, again.epoch), (true, opened.epoch + 1));
    }
}

/// A commit that is reported as failed may be in the file. Older batches that are applied again must
/// not then overwrite a part of it.
#[tokio::test]
async fn a_failed_commit_is_there_whole_or_not_at_all() {
    let disk = Disk::new();
    let (meta, _) = disk.start();
    let both = |durability, number| {
        let mut batch = put(durability, 1, number);
        batch.put(&digest(2), &content(number));
        batch
    };
    meta.apply(both(Durability::Durable, 10)).await.expect("applied");
    meta.apply(put(Durability::Relaxed, 1, 11)).await.expect("applied");
    disk.set_fault(Some(Fault::BrokenSoon));
    let failed = meta.apply(both(Durability::Durable, 12)).await;
    assert!(matches!(failed, Err(MetaError::WriteDead(_))), "{failed:?}");
    let before_or_after = [(Some(11), Some(10)), (Some(12), Some(12))];
    assert!(before_or_after.contains(&(size_of(&meta, 1), size_of(&meta, 2))));
    disk.set_fault(None);
    eventually("writes come back", async || meta.apply(put(Durability::Durable, 3, 1)).await.is_ok()).await;
    assert!(before_or_after.contains(&(size_of(&meta, 1), size_of(&meta, 2))));
}

/// redb latches a failed read as it does a failed write: nothing that is not cached can be read any more.
#[tokio::test]
async fn after_a_failed_read_reads_come_back() {
    let disk = Disk::new();
    let (meta, _) = disk.start();
    meta.apply(put(Durability::Durable, 1, 10)).await.expect("applied");
    meta.apply(put(Durability::Relaxed, 2, 20)).await.expect("applied");
    disk.set_fault(Some(Fault::Unreadable));
    let failed = meta.get::<ContentRow>(&digest(1));
    assert!(matches!(failed, Err(MetaError::Io(_))), "{failed:?}");
    disk.set_fault(None);
    eventually("reads come back", async || meta.get::<ContentRow>(&digest(1)).is_ok()).await;
    assert_eq!((size_of(&meta, 1), size_of(&meta, 2)), (Some(10), Some(20)));
    eventually("writes too", async || meta.apply(put(Durability::Durable, 3, 30)).await.is_ok()).await;
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "stands in the probe's way")]
async fn a_real_file_is_opened_anew_too_with_and_without_an_overlay() {
    let home = Home::new();
    let (meta, _) = home.open().expect("a new store");
    meta.apply(put(Durability::Durable, 1, 10)).await.expect("applied");
    meta.apply(put(Durability::Relaxed, 2, 20)).await.expect("applied");
    let probe = home.path.with_extension("redb.probe");
    fs::create_dir_all(&probe).expect("the probe cannot write");
    meta.tell_writer(0);
    eventually("the file is open under the overlay", async || {
        meta.shared.openings.load(Ordering::Relaxed) == 1
    })
    .await;
    assert!(matches!(meta.apply(put(Durability::Durable, 3, 30)).await, Err(MetaError::WriteDead(_))));
    assert_eq!((size_of(&meta, 1), size_of(&meta, 2), size_of(&meta, 3)), (Some(10), Some(20), None));
    assert!(matches!(home.open(), Err(MetaError::InUse(_))), "the overlay keeps the lock");

    fs::remove_dir(&probe).expect("the probe can write again");
    eventually("writes come back", async || meta.apply(put(Durability::Durable, 3, 30)).await.is_ok()).await;
    meta.close().await.expect("closed");
    let (meta, opened) = home.open().expect("the store again");
    assert!(opened.clean);
    assert_eq!((size_of(&meta, 1), size_of(&meta, 2), size_of(&meta, 3)), (Some(10), Some(20), Some(30)));
    assert!(!probe.exists());
}

/// Writers with ever greater numbers under keys of their own, two rows a batch, on a disk that keeps
/// failing: no answered batch is lost, none is there by half, at any time, for any reader.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_fails_answers_are_kept_and_batches_are_whole() {
    let disk = Disk::new();
    let (meta, _) = disk.start();
    let meta = Arc::new(meta);
    let mut writers = JoinSet::new();
    for writer in 0..8_u32 {
        let (meta, disk) = (meta.clone(), disk.clone());
        writers.spawn(async move {
            let rows = |meta: &RedbMeta| (size_of(meta, writer), size_of(meta, writer + 100));
            let mut kept = (0, 0);
            let mut failures = 0;
            for number in 1..=150 {
                let durability = if number % 3 == 0 { Durability::Durable } else { Durability::Relaxed };
                let mut batch = put(durability, writer, number);
                batch.put(&digest(writer + 100), &content(number));
                match meta.apply(batch).await {
                    Ok(()) if number % 3 == 0 => kept = (number, number),
                    Ok(()) => kept.0 = number,
                    Err(MetaError::WriteDead(_)) => failures += 1,
                    Err(other) => panic!("{other}"),
                }
                let (one, other) = rows(&meta);
                assert_eq!(one, other, "half a batch");
                assert!(one.unwrap_or(0) >= kept.0, "{one:?} after {kept:?}");
                if number % 30 == u64::from(writer) {
                    let (one, other) = rows(&disk.after_power_loss().start().0);
                    assert_eq!(one, other, "half a batch after a loss of power");
                    assert!(one.unwrap_or(0) >= kept.1, "{one:?} after {kept:?}, power lost");
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            failures
        });
    }
    let mut failures = 0;
    let mut turn = 0_u32;
    while !writers.is_empty() {
        let fault = [None, Some(Fault::Full), None, Some(Fault::Broken)][turn as usize % 4];
        disk.set_fault(fault);
        turn += 1;
        let pause = tokio::time::sleep(Duration::from_millis(if fault.is_none() { 60 } else { 20 }));
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => break,
                Some(count) = writers.join_next() => failures += count.expect("no panic"),
                else => break,
            }
        }
    }
    assert!(failures > 0, "no write has failed, so nothing was shown");
    disk.set_fault(None);
}

#[tokio::test]
async fn a_store_that_cannot_write_is_not_closed_in_good_order() {
    let disk = Disk::new();
    let (meta, _) = disk.start();
    disk.set_fault(Some(Fault::Broken));
    assert!(matches!(meta.close().await, Err(MetaError::WriteDead(_))));
    drop(meta);
    disk.set_fault(None);
    assert!(!disk.start().1.clean);
}
