//! Owns [`RedbMeta`]: reads on the caller's thread, batches handed to the one writer thread.
//! Must not know: the meaning of rows, and who waits for what.

mod commit;
mod copy;
#[cfg(test)]
mod disk;
mod file;
#[cfg(test)]
mod fixture;
mod layout;
mod overlay;
#[cfg(test)]
mod tests;
mod upgrade;
mod writer;

use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{io, mem};

use redb::{
    Database, ReadOnlyDatabase, ReadOnlyTable, ReadableDatabase, ReadableTableMetadata as _, TableDefinition,
    TableError,
};
use tokio::sync::{Semaphore, oneshot};

pub use self::copy::{CopyFile, remove_leftovers};
use self::file::{FileMedium, Medium, Opening};
pub use self::upgrade::SCHEMA;
use self::writer::{Message, Reply, Writer};
use super::record::decode_row;
use super::{Applying, Batch, Meta, MetaError, Pair, Row, Table};

/// How many batches may wait for the writer; who comes then waits before handing over its own.
const QUEUE: usize = 1024;

/// How long a read waits for the file to be opened anew.
const PATIENCE: Duration = Duration::from_secs(2);

/// How to open the store.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Upper limit of redb's page cache.
    pub cache_bytes: usize,
    /// Before an upgrade the file is kept as it is, beside itself, for who wants to go back.
    pub keep_older: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { cache_bytes: 48 << 20, keep_older: true }
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
///
/// Dropping it without [`Meta::close`] finishes the batches at hand and releases the file, but the next
/// opening will find that the stop was not orderly.
pub struct RedbMeta {
    shared: Arc<Shared>,
    queue: SyncSender<Message>,
    /// One for every place in the queue, but for two: one for the end, one for [`Message::ReadFailed`].
    places: Arc<Semaphore>,
    writer: Option<JoinHandle<()>>,
}

/// What readers and the writer thread both hold.
struct Shared {
    state: RwLock<State>,
    commits: AtomicU64,
    /// How often the file has been opened anew. Changes only while `state` is locked.
    openings: AtomicU64,
    /// For those who wait until it has been.
    waiting: Mutex<()>,
    opened: Condvar,
    /// There is a [`Message::ReadFailed`] in the queue.
    writer_told: AtomicBool,
}

enum State {
    Open(Database),
    /// Closed after a failure, and it could not be opened again so far; why.
    Down(String),
    Closed,
}

impl RedbMeta {
    /// Opens the file, or makes a new one where there is none. Whatever else is at `path` is left as it is.
    pub fn open(path: &Path, options: Options) -> Result<(Self, Opened), MetaError> {
        let medium = FileMedium::new(path, options);
        let created = medium.create_if_absent()?;
        Self::start(medium, created)
    }

    fn start(medium: impl Medium, created: bool) -> Result<(Self, Opened), MetaError> {
        let database = medium.open(Opening::First)?;
        let found = layout::schema(&database)?;
        if found < SCHEMA {
            medium.keep(found).map_err(|error| MetaError::NotKept { found, known: SCHEMA, error })?;
        }
        let (opened, sequence) = layout::begin(&database, found, created)?;
        if found < SCHEMA {
            tracing::warn!(
                from = found,
                to = SCHEMA,
                "the metadata was upgraded: versions that know only the older schema will refuse it"
            );
        }
        let shared = Arc::new(Shared::new(database));
        let (queue, inbox) = sync_channel(QUEUE + 2);
        let writer = Writer::new(shared.clone(), inbox, medium, sequence);
        let thread = thread::Builder::new().name("meta-writer".to_owned()).spawn(move || writer.run())?;
        let places = Arc::new(Semaphore::new(QUEUE));
        Ok((Self { shared, queue, places, writer: Some(thread) }, opened))
    }

    /// Hands over the message that `make` wraps the reply channel in, and waits for the answer.
    fn send(&self, make: impl FnOnce(Reply) -> Message + Send + 'static) -> Applying {
        let (queue, places) = (self.queue.clone(), self.places.clone());
        Box::pin(async move {
            let place = places.acquire_owned().await.map_err(|_| MetaError::Closed)?;
            let (sender, answer) = oneshot::channel();
            let message = make(Reply::new(sender, place));
            queue.try_send(message).map_err(|_| MetaError::Closed)?;
            answer.await.unwrap_or(Err(MetaError::Closed))
        })
    }

    /// After a failure redb reads nothing more from the disk: the writer opens the file anew, and a
    /// read that met an earlier failure is done again then.
    fn read<T>(
        &self,
        table: Table,
        read: impl Fn(&RawReadTable) -> Result<T, redb::Error>,
    ) -> Result<T, MetaError> {
        let (mut result, opening) = self.shared.read(table, &read);
        if matches!(result, Err(redb::Error::Io(_) | redb::Error::PreviousIo)) {
            self.tell_writer(opening);
        }
        if matches!(result, Err(redb::Error::PreviousIo)) {
            self.shared.wait_for_opening_after(opening);
            (result, _) = self.shared.read(table, &read);
        }
        result.map_err(read_error)
    }

    fn tell_writer(&self, opening: u64) {
        if !self.shared.writer_told.swap(true, Ordering::Relaxed) {
            // Refused only if the writer is gone.
            let _ = self.queue.try_send(Message::ReadFailed { opening });
        }
    }
}

impl Meta for RedbMeta {
    fn get_raw(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, MetaError> {
        self.read(table, |table| Ok(table.get(key)?.map(|value| value.value().to_vec())))
    }

    fn scan_raw(
        &self,
        table: Table,
        after: Option<&[u8]>,
        prefix: &[u8],
        limit: usize,
    ) -> Result<Vec<Pair>, MetaError> {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        self.read(table, |table| {
            let mut rows = Vec::new();
            for row in table.range::<&[u8]>((start, Bound::Unbounded))?.take(limit) {
                let (key, value) = row?;
                if !key.value().starts_with(prefix) {
                    break;
                }
                rows.push((key.value().to_vec(), value.value().to_vec()));
            }
            Ok(rows)
        })
    }

    fn apply(&self, batch: Batch) -> Applying {
        self.send(move |reply| Message::Apply(batch, reply))
    }

    fn copy_into(&self, dir: &Path, stamp: u64, go_on: &dyn Fn() -> bool) -> Result<CopyFile, MetaError> {
        // Only the beginning holds the lock: a reopening need not wait for the end, and ends the copy.
        let transaction = self.shared.state().database().map_err(read_error)?.begin_read();
        copy::copy(&transaction.map_err(read_error)?, dir, stamp, go_on)
    }

    fn close(&self) -> Applying {
        let (shared, closing) = (self.shared.clone(), self.send(Message::Close));
        Box::pin(async move {
            match closing.await {
                Err(MetaError::Closed) if matches!(*shared.state(), State::Closed) => Ok(()),
                other => other,
            }
        })
    }

    fn commits(&self) -> u64 {
        self.shared.commits.load(Ordering::Relaxed)
    }
}

impl Drop for RedbMeta {
    /// Waits for the writer, so that the file is free afterwards.
    fn drop(&mut self) {
        // Refused only if the writer is gone already.
        let _ = self.queue.try_send(Message::Abandon);
        if let Some(writer) = self.writer.take() {
            // A panic of the writer has been reported by its own thread.
            let _ = writer.join();
        }
    }
}

impl Shared {
    fn new(database: Database) -> Self {
        Self {
            state: RwLock::new(State::Open(database)),
            commits: AtomicU64::new(0),
            openings: AtomicU64::new(0),
            waiting: Mutex::new(()),
            opened: Condvar::new(),
            writer_told: AtomicBool::new(false),
        }
    }

    // A poisoned lock is as good as another: the state is replaced in one step.
    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends this opening; reads are refused from here on.
    fn close(&self) -> Result<(), MetaError> {
        match mem::replace(&mut *self.state_mut(), State::Closed) {
            State::Open(database) => database.close().map_err(read_error),
            State::Down(why) => Err(MetaError::WriteDead(why)),
            State::Closed => Ok(()),
        }
    }

    /// Also tells in which opening. The guard is held to the end of the read, so that no reopening pulls
    /// the file away under it.
    fn read<T>(
        &self,
        table: Table,
        read: impl Fn(&RawReadTable) -> Result<T, redb::Error>,
    ) -> (Result<T, redb::Error>, u64) {
        let state = self.state();
        let open = || -> Result<RawReadTable, redb::Error> {
            Ok(state.database()?.begin_read()?.open_table(definition(table))?)
        };
        (open().and_then(|table| read(&table)), self.openings.load(Ordering::Acquire))
    }

    /// The file has been opened anew, or cannot be.
    fn note_opening(&self) {
        self.openings.fetch_add(1, Ordering::Release);
        drop(self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        self.opened.notify_all();
    }

    fn wait_for_opening_after(&self, opening: u64) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |_: &mut ()| self.openings.load(Ordering::Acquire) == opening;
        // Whether it came or the time is over, the next read tells.
        drop(self.opened.wait_timeout_while(waiting, PATIENCE, same));
    }
}

impl State {
    fn database(&self) -> Result<&Database, redb::Error> {
        match self {
            Self::Open(database) => Ok(database),
            Self::Down(why) => Err(redb::Error::Io(io::Error::other(why.clone()))),
            Self::Closed => Err(redb::Error::DatabaseClosed),
        }
    }
}

type RawReadTable = ReadOnlyTable<&'static [u8], &'static [u8]>;

/// Reads all of a file that nobody has open, and compares it with its checksums: whether a server could start on it, and
/// go on.
pub fn check(path: &Path) -> Result<(), MetaError> {
    let database = FileMedium::new(path, Options::default()).open(Opening::Doubted)?;
    layout::schema(&database)?;
    database.close().map_err(read_error)
}

/// Whether one of these tables of a file that nobody has open holds a row. Changes nothing in it: after a kill, where it
/// would have to be repaired first, that is an error.
pub fn has_rows(path: &Path, tables: &[Table]) -> Result<bool, MetaError> {
    let database = ReadOnlyDatabase::open(path).map_err(read_error)?;
    let transaction = database.begin_read().map_err(read_error)?;
    for table in tables {
        match transaction.open_table(definition(*table)) {
            Ok(table) if table.is_empty().map_err(read_error)? => {}
            Ok(_) => return Ok(true),
            // Of before there were any.
            Err(TableError::TableDoesNotExist(_)) => {}
            Err(error) => return Err(read_error(error)),
        }
    }
    Ok(false)
}

/// The rows of a table, as [`has_rows`] looks.
pub fn rows<R: Row>(path: &Path) -> Result<Vec<R>, MetaError> {
    let transaction = ReadOnlyDatabase::open(path).map_err(read_error)?.begin_read().map_err(read_error)?;
    let table = match transaction.open_table(definition(R::TABLE)) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        Err(error) => return Err(read_error(error)),
    };
    let mut found = Vec::new();
    for row in table.range::<&[u8]>(..).map_err(read_error)? {
        let (key, value) = row.map_err(read_error)?;
        found.push(decode_row(key.value(), value.value())?);
    }
    Ok(found)
}

const fn definition(table: Table) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
    TableDefinition::new(table.name())
}

fn read_error(error: impl Into<redb::Error>) -> MetaError {
    match error.into() {
        redb::Error::DatabaseClosed => MetaError::Closed,
        redb::Error::Io(error) => MetaError::Io(error),
        redb::Error::PreviousIo => MetaError::Io(io::Error::other("an earlier read or write failed")),
        other => MetaError::Corrupt(other.to_string()),
    }
}
