//! Owns the metadata store's contract: typed rows in tables, pages of them, and atomic batches.
//! Must not know: HTTP, blob files, and what a row means to those who write it.

mod batch;
mod record;
mod redb;
mod snapshots;

use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;

pub use self::redb::{CopyFile, Opened, Options, RedbMeta, SCHEMA, check, has_rows, rows};
pub use batch::{Batch, Durability};
pub use record::{
    AccessTokenRow, AccountRow, ContentRow, CopyRow, DocumentRow, DraftRow, DraftSource, EdgeRow, GrantRow,
    HolderRow, LinkRow, PackageType, Prefix, ReferrerRow, RepositoryRow, RepositoryType, Row, RowKey,
    ScopeRow, SessionRow, SettingKey, SettingRow, TagRow,
};
pub use snapshots::{SnapshotFile, Snapshots};

/// The file in a data directory that holds the metadata.
pub const FILE: &str = "meta.redb";

/// The tables. Each maps bytes to bytes in the order of its keys; a [`Row`] gives them their types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Table {
    Repository,
    Link,
    Content,
    Copy,
    Document,
    Tag,
    Edge,
    Holder,
    Referrer,
    Draft,
    Session,
    Setting,
    Account,
    AccessToken,
    Grant,
}

impl Table {
    pub const ALL: [Self; 15] = [
        Self::Repository,
        Self::Link,
        Self::Content,
        Self::Copy,
        Self::Document,
        Self::Tag,
        Self::Edge,
        Self::Holder,
        Self::Referrer,
        Self::Draft,
        Self::Session,
        Self::Setting,
        Self::Account,
        Self::AccessToken,
        Self::Grant,
    ];

    /// The name in the file and in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Repository => "repository",
            Self::Link => "link",
            Self::Content => "content",
            Self::Copy => "copy",
            Self::Document => "document",
            Self::Tag => "tag",
            Self::Edge => "edge",
            Self::Holder => "holder",
            Self::Referrer => "referrer",
            Self::Draft => "draft",
            Self::Session => "session",
            Self::Setting => "setting",
            Self::Account => "account",
            Self::AccessToken => "access_token",
            Self::Grant => "grant",
        }
    }
}

/// Why the metadata store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum MetaError {
    /// A requirement of the batch did not hold, in this table. Nothing of the batch was applied.
    #[error("the {} table is not in the state that the change requires", .0.name())]
    Conflict(Table),
    #[error(
        "the metadata was written by a newer version (schema {found}; this version knows schema {known}): \
         run that version, or restore a backup from before the upgrade"
    )]
    Newer { found: u32, known: u32 },
    #[error(
        "the metadata has to be upgraded from schema {found} to {known}, and cannot be kept as it is beside that, so \
         nothing was changed: {error}"
    )]
    NotKept { found: u32, known: u32, error: io::Error },
    #[error("the metadata is damaged: {0}")]
    Corrupt(String),
    /// The write failed or could not be tried. A batch answered so may or may not be there after the store
    /// has recovered, which it tries by itself: apply it again, batches are idempotent.
    #[error("the metadata store takes no writes at the moment: {0}")]
    WriteDead(String),
    #[error("another process has the metadata open: {0}")]
    InUse(String),
    #[error("the metadata cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("the metadata store is closed")]
    Closed,
}

/// The answer to [`Meta::apply`] and [`Meta::close`], to be awaited. Owns all it needs.
pub type Applying = Pin<Box<dyn Future<Output = Result<(), MetaError>> + Send>>;

/// A key and its value, as stored.
pub type Pair = (Vec<u8>, Vec<u8>);

/// A transactional store of rows.
///
/// Reads block on the disk, and up to two seconds while a failed file is opened anew: keep them off the async
/// workers. A read sees every batch whose `apply` has
/// returned `Ok`, and never a part of a batch. Reads go on while writes fail.
pub trait Meta: Send + Sync + 'static {
    fn get_raw(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, MetaError>;

    /// At most `limit` rows whose keys start with `prefix` and are greater than `after`, in key order.
    /// Costs as much as the rows that it returns, not as the table holds.
    fn scan_raw(
        &self,
        table: Table,
        after: Option<&[u8]>,
        prefix: &[u8],
        limit: usize,
    ) -> Result<Vec<Pair>, MetaError>;

    /// Applies the batch as one step, in the order of the calls as far as they are awaited one by one.
    ///
    /// `Ok`: a [`Durability::Durable`] batch survives a crash; a [`Durability::Relaxed`] one does so within
    /// a second. Dropping the future before it is first polled applies nothing; later, the batch may
    /// be applied all the same.
    fn apply(&self, batch: Batch) -> Applying;

    /// Writes all rows as they are at one moment into a file of their own in `dir`, which another store can be opened
    /// on. Blocks; readers and writers go on meanwhile. `stamp` is now, in microseconds since 1970,
    /// and never the same twice; `go_on` is asked now and then.
    fn copy_into(&self, dir: &Path, stamp: u64, go_on: &dyn Fn() -> bool) -> Result<CopyFile, MetaError>;

    /// Makes everything durable, marks the stop as orderly and releases the file. Whatever comes
    /// afterwards is answered with [`MetaError::Closed`]; closing twice is no error.
    fn close(&self) -> Applying;

    /// How many commits there were since the start, for metrics: fewer than batches, as those share.
    fn commits(&self) -> u64;
}

/// The same with types. For every [`Meta`], behind `dyn` too.
pub trait MetaExt: Meta {
    fn get<R: Row>(&self, key: &R::Key) -> Result<Option<R>, MetaError> {
        let key = record::encoded(key);
        let value = self.get_raw(R::TABLE, &key)?;
        value.map(|value| record::decode_row(&key, &value)).transpose()
    }

    /// One page: the rows under `prefix` (`&()` is all of them) behind `after`, at most `limit`. For the next
    /// page give the last key of this one as `after`; a page shorter than `limit` is the last.
    fn scan<R: Row>(
        &self,
        prefix: &impl Prefix<R::Key>,
        after: Option<&R::Key>,
        limit: usize,
    ) -> Result<Vec<(R::Key, R)>, MetaError> {
        let mut start = Vec::new();
        prefix.encode_prefix(&mut start);
        let after = after.map(record::encoded);
        let rows = self.scan_raw(R::TABLE, after.as_deref(), &start, limit)?;
        rows.into_iter()
            .map(|(key, value)| Ok((record::decode_key::<R>(&key)?, record::decode_row(&key, &value)?)))
            .collect()
    }

    /// Shows every row under a prefix to `visit`, in the order of their keys, a page at a time. Rows that come or go
    /// meanwhile may be seen or not.
    fn each<R, E>(
        &self,
        prefix: &impl Prefix<R::Key>,
        mut visit: impl FnMut(R::Key, R) -> Result<(), E>,
    ) -> Result<(), E>
    where
        R: Row<Key: Clone>,
        E: From<MetaError>,
    {
        let mut after: Option<R::Key> = None;
        loop {
            let page = self.scan::<R>(prefix, after.as_ref(), R::PAGE)?;
            let last = page.len() < R::PAGE;
            after = page.last().map(|(key, _)| key.clone());
            page.into_iter().try_for_each(|(key, row)| visit(key, row))?;
            if last {
                return Ok(());
            }
        }
    }
}

impl<M: Meta + ?Sized> MetaExt for M {}
