//! A disk for tests: it fails on demand and forgets what was not synced.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::{Database, StorageBackend};

use super::file::{Medium, Opening};
use super::overlay::Overlay;
use super::{Opened, RedbMeta, layout, read_error};
use crate::meta::MetaError;

/// A disk in memory: it can refuse writes, and knows what a loss of power would leave.
#[derive(Debug, Default)]
pub(super) struct Disk {
    live: Mutex<Vec<u8>>,
    synced: Mutex<Vec<u8>>,
    fault: Mutex<Option<Fault>>,
    /// How many more writes and syncs there are before everything fails, as if the process had been killed.
    left: Mutex<Option<usize>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fault {
    /// Writes fail with ENOSPC.
    Full,
    /// Syncs fail with EIO.
    Broken,
    /// The next sync goes well, those after it do not: a commit is in the file and reported as failed.
    BrokenSoon,
    /// Reads fail with EIO.
    Unreadable,
}

impl Disk {
    pub fn new() -> Arc<Self> {
        let disk = Arc::new(Self::default());
        let database =
            builder().create_with_backend(Plug(disk.clone())).expect("an empty disk takes a database");
        layout::create(&database).expect("a new database takes tables");
        drop(database);
        disk
    }

    /// What is there after the power was lost now.
    pub fn after_power_loss(&self) -> Arc<Self> {
        Self::holding(locked(&self.synced).clone())
    }

    /// What is there after the process was killed now: the system writes out what it was handed.
    pub fn after_kill(&self) -> Arc<Self> {
        Self::holding(locked(&self.live).clone())
    }

    /// With this file on it.
    pub fn holding(file: Vec<u8>) -> Arc<Self> {
        Arc::new(Self { live: Mutex::new(file.clone()), synced: Mutex::new(file), ..Self::default() })
    }

    /// Every write and sync fails after so many good ones.
    pub fn fail_after(&self, calls: usize) {
        *locked(&self.left) = Some(calls);
    }

    pub fn start(self: &Arc<Self>) -> (RedbMeta, Opened) {
        self.try_start().expect("the store opens")
    }

    pub fn try_start(self: &Arc<Self>) -> Result<(RedbMeta, Opened), MetaError> {
        RedbMeta::start(Plug(self.clone()), false)
    }

    pub fn database(self: &Arc<Self>) -> Database {
        builder().create_with_backend(Plug(self.clone())).expect("a database")
    }

    pub fn set_fault(&self, fault: Option<Fault>) {
        *locked(&self.fault) = fault;
    }

    fn count(&self) -> io::Result<()> {
        match &mut *locked(&self.left) {
            None => Ok(()),
            Some(0) => Err(rustix::io::Errno::IO.into()),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    fn check(&self, fault: Fault) -> io::Result<()> {
        if *locked(&self.fault) != Some(fault) {
            return Ok(());
        }
        let errno = match fault {
            Fault::Full => rustix::io::Errno::NOSPC,
            Fault::Broken | Fault::BrokenSoon | Fault::Unreadable => rustix::io::Errno::IO,
        };
        Err(errno.into())
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One opening of a [`Disk`].
#[derive(Debug)]
struct Plug(Arc<Disk>);

/// With as little cache as there can be, so that reads meet the disk.
fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(0);
    builder
}

impl StorageBackend for Plug {
    fn len(&self) -> io::Result<u64> {
        Ok(locked(&self.0.live).len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.check(Fault::Unreadable)?;
        let start = usize::try_from(offset).expect("small");
        let live = locked(&self.0.live);
        out.copy_from_slice(live.get(start..start + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.count()?;
        self.0.check(Fault::Full)?;
        locked(&self.0.live).resize(usize::try_from(len).expect("small"), 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.count()?;
        self.0.check(Fault::Broken)?;
        if self.0.check(Fault::BrokenSoon).is_err() {
            self.0.set_fault(Some(Fault::Broken));
        }
        locked(&self.0.synced).clone_from(&locked(&self.0.live));
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.count()?;
        self.0.check(Fault::Full)?;
        let start = usize::try_from(offset).expect("small");
        locked(&self.0.live)[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }
}

impl Medium for Plug {
    fn open(&self, opening: Opening) -> Result<Database, MetaError> {
        match opening {
            Opening::First | Opening::Doubted | Opening::Again => {
                builder().create_with_backend(Self(self.0.clone()))
            }
            Opening::Overlaid => builder().create_with_backend(Overlay::new(Self(self.0.clone()))?),
        }
        .map_err(read_error)
    }

    fn probe(&self) -> io::Result<()> {
        self.0.check(Fault::Full)?;
        self.0.check(Fault::Broken)
    }

    fn keep(&self, _schema: u32) -> io::Result<()> {
        Ok(())
    }
}
