//! The store's contract, on a real file and on a disk that fails on demand.

mod failing;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;

use super::disk::{Disk, Fault};
use super::*;
use crate::meta::{ContentRow, Durability, MetaExt, SettingKey, SettingRow, TagRow};
use crate::names::{Algorithm, Digest, RepositoryId};

fn digest(n: u32) -> Digest {
    Digest::of(Algorithm::Sha256, &n.to_be_bytes())
}

fn content(size: u64) -> ContentRow {
    ContentRow { size, pushed: false }
}

fn put(durability: Durability, n: u32, size: u64) -> Batch {
    let mut batch = Batch::new(durability);
    batch.put(&digest(n), &content(size));
    batch
}

fn size_of(meta: &RedbMeta, n: u32) -> Option<u64> {
    meta.get::<ContentRow>(&digest(n)).expect("reads work").map(|row| row.size)
}

struct Home {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

impl Home {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("meta.redb");
        Self { _directory: directory, path }
    }

    fn open(&self) -> Result<(RedbMeta, Opened), MetaError> {
        RedbMeta::open(&self.path, Options::default())
    }
}

/// Polls until `done` holds; the test ends with a failure after ten seconds.
async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    for _ in 0..500 {
        if done().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never happened: {what}");
}

#[tokio::test]
async fn an_orderly_stop_keeps_everything_and_is_seen_at_the_next_opening() {
    let home = Home::new();
    let (meta, opened) = home.open().expect("a new store");
    assert_eq!(opened, Opened { clean: true, created: true, schema: SCHEMA, epoch: 1 });
    meta.apply(put(Durability::Durable, 1, 10)).await.expect("applied");
    meta.apply(put(Durability::Relaxed, 2, 20)).await.expect("applied");
    assert_eq!((size_of(&meta, 1), size_of(&meta, 2)), (Some(10), Some(20)));
    meta.close().await.expect("closed");

    assert!(matches!(meta.get::<ContentRow>(&digest(1)), Err(MetaError::Closed)));
    assert!(matches!(meta.apply(put(Durability::Durable, 3, 30)).await, Err(MetaError::Closed)));
    meta.close().await.expect("closing twice is no error");

    let (meta, opened) = home.open().expect("the store again, while the closed one still exists");
    assert_eq!(opened, Opened { clean: true, created: false, schema: SCHEMA, epoch: 2 });
    assert_eq!((size_of(&meta, 1), size_of(&meta, 2)), (Some(10), Some(20)));
}

#[tokio::test]
async fn a_stop_without_close_is_seen_as_a_crash() {
    let home = Home::new();
    let (meta, _) = home.open().expect("a new store");
    meta.apply(put(Durability::Durable, 1, 10)).await.expect("applied");
    drop(meta);
    let (meta, opened) = home.open().expect("the file is free once drop returns");
    assert_eq!(opened, Opened { clean: false, created: false, schema: SCHEMA, epoch: 2 });
    assert_eq!(size_of(&meta, 1), Some(10));
}

#[tokio::test]
async fn only_one_process_has_the_file_and_only_its_user_reads_it() {
    let home = Home::new();
    let (meta, _) = home.open().expect("a new store");
    assert!(matches!(home.open(), Err(MetaError::InUse(_))));
    let mode = || fs::metadata(&home.path).expect("the file").permissions().mode() & 0o777;
    assert_eq!(mode(), 0o600);
    meta.close().await.expect("closed");

    fs::set_permissions(&home.path, fs::Permissions::from_mode(0o644)).expect("chmod");
    let _again = home.open().expect("the store again");
    assert_eq!(mode(), 0o600, "a mode that is too wide is narrowed");
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let home = Home::new();
    let (meta, _) = home.open().expect("a new store");
    let mut batch = Batch::new(Durability::Durable);
    batch.put(&SettingKey::SCHEMA, &SettingRow { value: json!(SCHEMA + 1) });
    meta.apply(batch).await.expect("applied");
    meta.close().await.expect("closed");

    for _ in 0..2 {
        let refused = home.open().err().expect("refused");
        let MetaError::Newer { found, known } = refused else { panic!("{refused}") };
        assert_eq!((found, known), (SCHEMA + 1, SCHEMA));
    }
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "looks at the file from outside")]
async fn a_damaged_file_is_reported_and_left_as_it_is() {
    let home = Home::new();
    let (meta, _) = home.open().expect("a new store");
    meta.close().await.expect("closed");
    let good = fs::read(&home.path).expect("the file");
    let mut other_format = good.clone();
    other_format[0] ^= 1;

    let cases: [(&str, &[u8]); 4] = [
        ("empty", b""),
        ("text", b"this is not a database, it only has the name of one"),
        ("cut", &good[..5000]),
        ("other format", &other_format),
    ];
    for (name, bytes) in cases {
        fs::write(&home.path, bytes).expect("written");
        let refused = home.open().err().unwrap_or_else(|| panic!("{name} is opened"));
        assert!(matches!(refused, MetaError::Corrupt(_)), "{name}: {refused:?}");
        assert_eq!(fs::read(&home.path).expect("the file is still there"), bytes, "{name}");
    }
}

#[tokio::test]
async fn a_database_of_somebody_else_is_refused() {
    let home = Home::new();
    drop(Database::create(&home.path).expect("a database without our tables"));
    let refused = home.open().err().expect("refused");
    assert!(matches!(refused, MetaError::Corrupt(_)), "{refused}");
}

#[tokio::test]
async fn a_creation_that_was_cut_short_leaves_nothing_behind_that_matters() {
    let home = Home::new();
    #[expect(clippy::disallowed_methods, reason = "plays an earlier process")]
    fs::write(home.path.with_extension("redb.new"), b"half a database").expect("written");
    let (_, opened) = home.open().expect("a new store");
    assert!(opened.created);
}

#[tokio::test]
async fn a_batch_whose_requirement_fails_changes_nothing() {
    let (meta, _) = Disk::new().start();
    meta.apply(put(Durability::Durable, 1, 10)).await.expect("applied");

    type Require = fn(&mut Batch);
    let cases: [(&str, bool, Require); 7] = [
        ("absent, is absent", true, |batch| _ = batch.require_absent::<ContentRow>(&digest(9))),
        ("absent, is there", false, |batch| _ = batch.require_absent::<ContentRow>(&digest(1))),
        ("present, is there", true, |batch| _ = batch.require_present::<ContentRow>(&digest(1))),
        ("present, is absent", false, |batch| _ = batch.require_present::<ContentRow>(&digest(9))),
        ("equal, is equal", true, |batch| _ = batch.require_equal(&digest(1), &content(10))),
        ("equal, differs", false, |batch| _ = batch.require_equal(&digest(1), &content(11))),
        ("equal, is absent", false, |batch| _ = batch.require_equal(&digest(9), &content(10))),
    ];
    for (name, holds, require) in cases {
        for durability in [Durability::Durable, Durability::Relaxed] {
            let mut batch = put(durability, 2, 20);
            require(&mut batch);
            let applied = meta.apply(batch).await;
            match holds {
                true => assert!(applied.is_ok(), "{name}: {applied:?}"),
                false => assert!(matches!(applied, Err(MetaError::Conflict(Table::Content))), "{name}"),
            }
            assert_eq!(size_of(&meta, 2).is_some(), holds, "{name}");
            let mut clear = Batch::new(Durability::Relaxed);
            clear.delete::<ContentRow>(&digest(2));
            meta.apply(clear).await.expect("deleted");
        }
    }
}

#[tokio::test]
async fn a_requirement_sees_the_batches_before_it_in_the_same_commit() {
    let (meta, _) = Disk::new().start();
    let meta = Arc::new(meta);
    let mut claims = JoinSet::new();
    for claimant in 0..64 {
        let mut batch = put(Durability::Durable, 1, claimant);
        batch.require_absent::<ContentRow>(&digest(1)).put(&digest(100), &content(claimant));
        let applying = meta.apply(batch);
        claims.spawn(async move { (claimant, applying.await) });
    }
    let mut winners = Vec::new();
    while let Some(claim) = claims.join_next().await {
        match claim.expect("no panic") {
            (claimant, Ok(())) => winners.push(claimant),
            (_, refused) => assert!(matches!(refused, Err(MetaError::Conflict(Table::Content)))),
        }
    }
    let [winner] = winners[..] else { panic!("exactly one wins: {winners:?}") };
    assert_eq!((size_of(&meta, 1), size_of(&meta, 100)), (Some(winner), Some(winner)));
}

#[tokio::test]
async fn an_equal_row_in_the_bytes_of_another_version_is_equal() {
    let (meta, _) = Disk::new().start();
    let mut batch = put(Durability::Durable, 1, 10);
    batch.changes[0].value = Some(b"\x01{ \"size\": 10, \"new\": [1] }".to_vec());
    meta.apply(batch).await.expect("applied");
    let mut batch = put(Durability::Durable, 1, 11);
    batch.require_equal(&digest(1), &content(10));
    meta.apply(batch).await.expect("the requirement holds");
}

#[tokio::test]
async fn simultaneous_durable_batches_share_commits() {
    let disk = Disk::new();
    let (meta, _) = disk.start();
    let mut all = JoinSet::new();
    for n in 0..64 {
        all.spawn(meta.apply(put(Durability::Durable, n, u64::from(n))));
    }
    while let Some(applied) = all.join_next().await {
        applied.expect("no panic").expect("applied");
    }
    assert!(meta.commits() <= 32, "{} commits for 64 batches", meta.commits());
    let (after, opened) = disk.after_power_loss().start();
    assert!(!opened.clean);
    assert!((0..64).all(|n| size_of(&after, n) == Some(u64::from(n))));
}

#[tokio::test]
async fn relaxed_batches_are_seen_at_once_and_durable_within_a_second() {
    let disk = Disk::new();
    let (meta, _) = disk.start();
    meta.apply(put(Durability::Relaxed, 1, 10)).await.expect("applied");
    assert_eq!(size_of(&meta, 1), Some(10));
    assert_eq!(size_of(&disk.after_power_loss().start().0, 1), None, "no sync was paid for it");

    tokio::time::sleep(Duration::from_secs(1)).await;
    eventually("durable without another batch", async || {
        size_of(&disk.after_power_loss().start().0, 1) == Some(10)
    })
    .await;
}

#[tokio::test]
async fn a_durable_batch_takes_the_relaxed_ones_before_it_along() {
    let disk = Disk::new();
    let (meta, _) = disk.start();
    meta.apply(put(Durability::Relaxed, 1, 10)).await.expect("applied");
    meta.apply(Batch::new(Durability::Durable)).await.expect("the empty batch is a barrier");
    assert_eq!(size_of(&disk.after_power_loss().start().0, 1), Some(10));
}

/// A server that nobody asks anything leaves its disk alone.
#[tokio::test]
async fn a_durable_batch_that_has_nothing_to_promise_costs_no_commit() {
    let disk = Disk::new();
    let (meta, _) = disk.start();
    let barrier = async || meta.apply(Batch::new(Durability::Durable)).await.expect("nothing is promised");
    barrier().await;
    assert_eq!(meta.commits(), 0);
    meta.apply(put(Durability::Relaxed, 1, 10)).await.expect("applied");
    barrier().await;
    let promised = meta.commits();
    assert_eq!(size_of(&disk.after_power_loss().start().0, 1), Some(10));
    barrier().await;
    assert_eq!(meta.commits(), promised);
}

#[tokio::test]
async fn many_relaxed_batches_do_not_wait_for_the_second() {
    let disk = Disk::new();
    let (meta, _) = disk.start();
    for n in 0..1001 {
        meta.apply(put(Durability::Relaxed, n, 1)).await.expect("applied");
    }
    assert_eq!(size_of(&disk.after_power_loss().start().0, 0), Some(1));
}

#[tokio::test]
async fn a_row_of_an_unknown_version_is_named() {
    let (meta, _) = Disk::new().start();
    let mut batch = put(Durability::Durable, 1, 10);
    batch.changes[0].value = Some(b"\x07{}".to_vec());
    meta.apply(batch).await.expect("applied");
    let message = meta.get::<ContentRow>(&digest(1)).expect_err("refused").to_string();
    for part in ["content", digest(1).to_string().as_str(), "version 7"] {
        assert!(message.contains(part), "{part}: {message}");
    }
}

#[tokio::test]
async fn a_scan_goes_page_by_page_through_its_prefix_alone() {
    let (meta, _) = Disk::new().start();
    let row = TagRow { digest: digest(0), media_type: "a/b".to_owned(), checked_ms: 0, size: 0 };
    let key = |repository, image: &str, tag: &str| {
        (RepositoryId(repository), image.parse().expect("legal"), tag.parse().expect("legal"))
    };
    let mine: Vec<_> = ["1", "2", "3", "4", "5"].map(|tag| key(2, "a", tag)).into();
    let others =
        [key(1, "a", "9"), key(2, "a-b", "0"), key(2, "a/b", "1"), key(2, "b", "1"), key(3, "a", "1")];
    let mut batch = Batch::new(Durability::Relaxed);
    for key in mine.iter().chain(&others) {
        batch.put(key, &row);
    }
    meta.apply(batch).await.expect("applied");

    let prefix = (RepositoryId(2), "a".parse().expect("legal"));
    let page = |after: Option<&_>, limit| -> Vec<_> {
        let rows = meta.scan::<TagRow>(&prefix, after, limit).expect("rows");
        rows.into_iter().map(|(key, _)| key).collect()
    };
    assert_eq!(page(None, 100), mine);
    assert_eq!(page(None, 2), mine[..2]);
    assert_eq!(page(Some(&mine[1]), 2), mine[2..4]);
    assert_eq!(page(Some(&mine[4]), 2), []);
    assert_eq!(page(Some(&others[0]), 2), mine[..2], "from before the prefix is from its start");
    assert_eq!(page(Some(&others[4]), 2), []);
    assert_eq!(page(None, 0), []);
    assert_eq!(meta.scan::<TagRow>(&RepositoryId(2), None, 100).expect("rows").len(), 8);
    assert_eq!(meta.scan::<TagRow>(&(), None, 100).expect("rows").len(), 10);
}
