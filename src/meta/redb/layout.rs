//! Owns what the store keeps about itself: schema number, epoch, the mark of an orderly stop, and
//! the number of the last commit.
//! Must not know: any other row, and how an older layout becomes this one.

use redb::{Database, ReadableDatabase, TableError, WriteTransaction};
use serde::de::DeserializeOwned;

use super::upgrade::{self, SCHEMA};
use super::{Opened, definition, read_error};
use crate::meta::record;
use crate::meta::{MetaError, SettingKey, SettingRow, Table};

/// Counts commits, so that after a failure it can be told which of them are in the file.
const SEQUENCE: SettingKey = SettingKey::new("sequence");

/// Fills a new database. It looks as if it had been closed in good order.
pub(super) fn create(database: &Database) -> Result<(), MetaError> {
    let transaction = database.begin_write().map_err(read_error)?;
    for table in Table::ALL {
        transaction.open_table(definition(table)).map_err(read_error)?;
    }
    put(&transaction, &SettingKey::SCHEMA, SCHEMA)?;
    put(&transaction, &SettingKey::EPOCH, 0_u64)?;
    put(&transaction, &SettingKey::CLEAN, true)?;
    put(&transaction, &SEQUENCE, 0_u64)?;
    transaction.commit().map_err(read_error)
}

/// The layout that is found; a newer one than this version knows is refused.
pub(super) fn schema(database: &Database) -> Result<u32, MetaError> {
    match get(database, &SettingKey::SCHEMA)? {
        newer if newer > SCHEMA => Err(MetaError::Newer { found: newer, known: SCHEMA }),
        0 => Err(MetaError::Corrupt("no version ever wrote schema 0".to_owned())),
        known => Ok(known),
    }
}

/// Begins an epoch: upgrades an older schema and takes the mark of the orderly stop away, both in one
/// transaction, so that a crash leaves what was found or what was to be. Also says the number of the last commit.
pub(super) fn begin(database: &Database, schema: u32, created: bool) -> Result<(Opened, u64), MetaError> {
    let epoch = get::<u64>(database, &SettingKey::EPOCH)? + 1;
    let opened = Opened { clean: get(database, &SettingKey::CLEAN)?, created, schema, epoch };

    let mut transaction = database.begin_write().map_err(read_error)?;
    transaction.set_quick_repair(true);
    let notes = upgrade::run(&transaction, schema)?;
    put(&transaction, &SettingKey::SCHEMA, SCHEMA)?;
    put(&transaction, &SettingKey::EPOCH, epoch)?;
    put(&transaction, &SettingKey::CLEAN, false)?;
    transaction.commit().map_err(read_error)?;
    for note in notes {
        tracing::warn!("{note}");
    }
    Ok((opened, last_commit(database)?))
}

/// Marks the stop as orderly.
pub(super) fn mark_clean(database: &Database) -> Result<(), MetaError> {
    let mut transaction = database.begin_write().map_err(read_error)?;
    transaction.set_quick_repair(true);
    put(&transaction, &SettingKey::CLEAN, true)?;
    transaction.commit().map_err(read_error)
}

/// The number of the last commit that is in the file.
pub(super) fn last_commit(database: &Database) -> Result<u64, MetaError> {
    get(database, &SEQUENCE)
}

/// The row that numbers a commit, to be written in it.
pub(super) fn commit_row(number: u64) -> (Vec<u8>, Vec<u8>) {
    (record::encoded(&SEQUENCE), record::encode_row(&SettingRow { value: number.into() }))
}

fn put(
    transaction: &WriteTransaction,
    key: &SettingKey,
    value: impl Into<serde_json::Value>,
) -> Result<(), MetaError> {
    let mut table = transaction.open_table(definition(Table::Setting)).map_err(read_error)?;
    let row = record::encode_row(&SettingRow { value: value.into() });
    table.insert(record::encoded(key).as_slice(), row.as_slice()).map_err(read_error)?;
    Ok(())
}

/// Every setting of the store's own is written when the file is made: one that is missing is damage, or
/// somebody else's file.
fn get<T: DeserializeOwned>(database: &Database, key: &SettingKey) -> Result<T, MetaError> {
    let name = key.as_str();
    let transaction = database.begin_read().map_err(read_error)?;
    let table = match transaction.open_table(definition(Table::Setting)) {
        Err(TableError::TableDoesNotExist(_)) => {
            return Err(MetaError::Corrupt("the file was not written by this program".to_owned()));
        }
        other => other.map_err(read_error)?,
    };
    let key = record::encoded(key);
    let value = table.get(key.as_slice()).map_err(read_error)?;
    let value = value.ok_or_else(|| MetaError::Corrupt(format!("the setting {name} is missing")))?;
    let row: SettingRow = record::decode_row(&key, value.value())?;
    serde_json::from_value(row.value)
        .map_err(|error| MetaError::Corrupt(format!("the setting {name} makes no sense: {error}")))
}
