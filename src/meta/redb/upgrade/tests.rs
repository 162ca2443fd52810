//! Every step, from the fixture of the schema that it starts from, on disks that fail in the middle of it.

use std::fs;

use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableHandle as _};

use super::super::disk::Disk;
use super::super::{Opened, Options, RedbMeta, layout};
use super::*;
use crate::meta::{Meta as _, MetaExt as _, SessionRow, Table};

/// An upload as it was noted before there were owners.
const UNOWNED: &[u8] =
    b"\x01{\"repository\":2,\"image\":\"app\",\"draft\":78,\"algorithm\":\"sha256\",\"used_ms\":5}";
const OWNED: &[u8] = b"\x01{\"repository\":2,\"image\":\"app\",\"owner\":\"anonymous\",\"draft\":79,\
    \"algorithm\":\"sha256\",\"used_ms\":5}";

const SCHEMA_1: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/schema-1/meta.redb"));

fn put_upload(database: &Database, number: u8, row: &[u8]) {
    let transaction = database.begin_write().expect("a transaction");
    let mut key = [0; 18];
    key[17] = number;
    let mut sessions = transaction.open_table(table("session")).expect("a table");
    sessions.insert(&key[..], row).expect("put");
    drop(sessions);
    transaction.commit().expect("committed");
}

/// Schema 1 with the uploads that versions after its first noted in it.
fn old_disk() -> std::sync::Arc<Disk> {
    let disk = Disk::holding(SCHEMA_1.to_vec());
    let database = disk.database();
    put_upload(&database, 1, UNOWNED);
    put_upload(&database, 2, OWNED);
    put_upload(&database, 3, b"\x01{\"owner\":\"\"}");
    put_upload(&database, 4, b"\x07of a version to come");
    drop(database);
    disk
}

/// All rows of all tables.
fn dump(database: &Database) -> Vec<(String, Vec<u8>, Vec<u8>)> {
    let transaction = database.begin_read().expect("a transaction");
    let mut names: Vec<_> =
        transaction.list_tables().expect("tables").map(|one| one.name().to_owned()).collect();
    names.sort_unstable();
    let mut all = Vec::new();
    for name in names {
        let definition = TableDefinition::<&[u8], &[u8]>::new(&name);
        let rows = transaction.open_table(definition).expect("a table");
        all.push((name.clone(), Vec::new(), Vec::new()));
        for row in rows.iter().expect("rows") {
            let (key, value) = row.expect("a row");
            all.push((name.clone(), key.value().to_vec(), value.value().to_vec()));
        }
    }
    all
}

fn tables(database: &Database) -> usize {
    database.begin_read().expect("a transaction").list_tables().expect("tables").count()
}

#[test]
fn what_was_landed_first_has_neither_holders_nor_referrers() {
    let disk = Disk::holding(SCHEMA_1.to_vec());
    assert_eq!(tables(&disk.database()), Table::ALL.len() - 2);
}

#[tokio::test]
async fn uploads_of_nobody_end_and_those_with_an_owner_go_on() {
    let disk = old_disk();
    let before = dump(&disk.database());
    let (meta, opened) = disk.start();
    assert_eq!(opened, Opened { clean: true, created: false, schema: 1, epoch: 2 });
    for table in Table::ALL {
        meta.scan_raw(table, None, b"", 100).unwrap_or_else(|error| panic!("{}: {error}", table.name()));
    }
    let uploads = meta.scan_raw(Table::Session, None, b"", 100).expect("rows");
    let rows: Vec<&[u8]> = uploads.iter().map(|(_, row)| &row[..]).collect();
    assert_eq!(rows, [OWNED, b"\x07of a version to come"], "what is not understood is left alone");
    meta.close().await.expect("closed");

    let after = dump(&disk.database());
    let gone: Vec<_> = before.iter().filter(|row| !after.contains(row)).collect();
    let settings = gone.iter().filter(|(table, ..)| table == "setting").count();
    let ended = gone.iter().filter(|(table, ..)| table == "session").count();
    assert_eq!((settings, ended, gone.len()), (2, 2, 4), "schema, epoch and two uploads: {gone:?}");
    let (_meta, opened) = disk.start();
    assert_eq!((opened.schema, opened.clean, opened.epoch), (SCHEMA, true, 3), "an ordinary file");
}

/// Cut at every write and every sync: by a failure, by a kill, by a loss of power.
#[tokio::test]
async fn an_upgrade_that_is_cut_short_leaves_the_old_file_or_the_new_one() {
    let before = dump(&old_disk().database());
    let (mut old, mut new) = (0, 0);
    for calls in 0.. {
        let disk = old_disk();
        disk.fail_after(calls);
        let started = disk.try_start();
        let done = started.is_ok();
        drop(started);
        for left in [disk.after_power_loss(), disk.after_kill()] {
            let database = left.database();
            let found = layout::schema(&database).expect("a schema");
            match found {
                1 => assert_eq!(dump(&database), before, "cut after {calls}"),
                _ => assert_eq!(tables(&database), Table::ALL.len(), "cut after {calls}"),
            }
            drop(database);
            let (old, new) = if found == 1 { (&mut old, &mut 0) } else { (&mut 0, &mut new) };
            (*old, *new) = (*old + 1, *new + 1);
            let (meta, opened) = left.start();
            assert_eq!(opened.schema, found, "cut after {calls}");
            let uploads = meta.scan_raw(Table::Session, None, b"", 100).expect("rows");
            assert_eq!(uploads.len(), 2, "cut after {calls}");
        }
        if done {
            break;
        }
    }
    assert!(old > 4 && new > 1, "nothing was cut: {old} old, {new} new");
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "lays out and looks at files from outside")]
async fn the_file_as_it_was_is_kept_and_serves_for_going_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("meta.redb");
    let kept = directory.path().join("meta.redb.schema-1");
    fs::write(&path, SCHEMA_1).expect("written");
    fs::write(&kept, b"from an earlier try").expect("written");
    let before = dump(&Database::open(&path).expect("a database"));
    let (meta, _) = RedbMeta::open(&path, Options::default()).expect("opens");
    meta.close().await.expect("closed");
    assert_eq!(dump(&Database::open(&kept).expect("a database")), before);

    // An older version takes it up as it was, and this one again.
    fs::rename(&kept, &path).expect("moved");
    let (meta, opened) = RedbMeta::open(&path, Options::default()).expect("opens");
    assert_eq!((opened.schema, opened.clean, opened.epoch), (1, true, 2));
    assert_eq!(meta.scan::<SessionRow>(&(), None, 10).expect("rows"), []);
    meta.close().await.expect("closed");
    fs::remove_file(&kept).expect("kept again");
    let (_meta, opened) = RedbMeta::open(&path, Options::default()).expect("opens");
    assert_eq!(opened.schema, SCHEMA);
    assert!(!kept.exists(), "without an upgrade there is nothing to keep");
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "lays out and looks at files from outside")]
async fn a_file_that_cannot_be_kept_is_not_upgraded() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("meta.redb");
    fs::write(&path, SCHEMA_1).expect("written");
    // Nothing can be renamed over a directory.
    fs::create_dir(directory.path().join("meta.redb.schema-1")).expect("made");
    let refused = RedbMeta::open(&path, Options::default()).err().expect("refused");
    let text = refused.to_string();
    assert!(text.contains("upgraded from schema 1 to 2") && text.contains("nothing was changed"), "{text}");
    let names = fs::read_dir(directory.path()).expect("listed").count();
    assert_eq!(names, 2, "no half a copy is left");
    assert_eq!(layout::schema(&Database::open(&path).expect("a database")).expect("a schema"), 1);
    let unkept = Options { keep_older: false, ..Options::default() };
    assert_eq!(RedbMeta::open(&path, unkept).expect("opens").1.schema, 1);
}
