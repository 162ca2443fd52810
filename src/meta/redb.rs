//! Owns the metadata file: the redb database behind [`Meta`].
//! Must not know: the meaning of rows.

use std::path::Path;

use super::{Applying, Batch, Meta, MetaError, Pair, Table};

/// How to open the store.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Upper limit of redb's page cache.
    pub cache_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { cache_bytes: 48 << 20 }
    }
}

/// What was found at opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The last stop was orderly: nothing that was answered is missing. True in a new store.
    pub clean: bool,
    /// There was no file.
    pub created: bool,
    /// The layout of the tables as found, before an upgrade.
    pub schema: u32,
    /// The number of this opening, from 1.
    pub epoch: u64,
}

/// [`Meta`] in one redb file.
pub struct RedbMeta {}

impl RedbMeta {
    pub fn open(_path: &Path, _options: Options) -> Result<(Self, Opened), MetaError> {
        Err(MetaError::Closed)
    }
}

impl Meta for RedbMeta {
    fn get_raw(&self, _: Table, _: &[u8]) -> Result<Option<Vec<u8>>, MetaError> {
        Err(MetaError::Closed)
    }

    fn scan_raw(&self, _: Table, _: Option<&[u8]>, _: &[u8], _: usize) -> Result<Vec<Pair>, MetaError> {
        Err(MetaError::Closed)
    }

    fn apply(&self, _: Batch) -> Applying {
        Box::pin(async { Err(MetaError::Closed) })
    }

    fn close(&self) -> Applying {
        Box::pin(async { Ok(()) })
    }

    fn commits(&self) -> u64 {
        0
    }
}
