//! Owns how rows and keys become bytes: version byte and JSON for rows, order-preserving bytes for keys.
//! Must not know: the database, and what a row means.

mod access;
mod keys;
mod rows;

pub use access::{AccessTokenRow, AccountRow, GrantRow, ScopeRow};
pub use keys::{Prefix, RowKey, SettingKey};
pub use rows::{
    ContentRow, CopyRow, DocumentRow, DraftRow, DraftSource, EdgeRow, HolderRow, LinkRow, PackageType,
    ReferrerRow, RepositoryRow, RepositoryType, SessionRow, SettingRow, TagRow,
};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{MetaError, Table};

/// First byte of every row written by this version.
const VERSION: u8 = 1;

/// A row of one table. Stored as a version byte and JSON; fields that a reader does not know are ignored.
pub trait Row: Serialize + DeserializeOwned {
    const TABLE: Table;
    /// How many are held in memory at once where all are read.
    const PAGE: usize = 1_000;
    type Key: RowKey;

    /// What follows the version byte.
    fn encode(&self, out: &mut Vec<u8>) {
        write_json(self, out);
    }

    /// The row in a stored value, version byte and all; `None` for what no known version wrote.
    fn decode(value: &[u8]) -> Option<Self> {
        match value.split_first()? {
            (&VERSION, json) => serde_json::from_slice(json).ok(),
            _ => None,
        }
    }
}

fn write_json(row: &impl Serialize, out: &mut Vec<u8>) {
    serde_json::to_writer(out, row).expect("rows have only text keys and a Vec takes every write");
}

pub(super) fn encode_row<R: Row>(row: &R) -> Vec<u8> {
    let mut out = vec![VERSION];
    row.encode(&mut out);
    out
}

pub(super) fn encoded(key: &impl RowKey) -> Vec<u8> {
    let mut out = Vec::new();
    key.encode(&mut out);
    out
}

pub(super) fn decode_row<R: Row>(key: &[u8], value: &[u8]) -> Result<R, MetaError> {
    R::decode(value).ok_or_else(|| {
        let table = R::TABLE.name();
        let key = key.escape_ascii();
        MetaError::Corrupt(match value.first() {
            None => format!("the row {key} of table {table} is empty"),
            Some(&VERSION) => format!("the row {key} of table {table} cannot be decoded"),
            Some(other) => format!("the row {key} of table {table} has the unknown version {other}"),
        })
    })
}

pub(super) fn decode_key<R: Row>(key: &[u8]) -> Result<R::Key, MetaError> {
    R::Key::decode(key).ok_or_else(|| {
        MetaError::Corrupt(format!(
            "table {} holds the malformed key {}",
            R::TABLE.name(),
            key.escape_ascii()
        ))
    })
}

#[cfg(test)]
mod tests;
