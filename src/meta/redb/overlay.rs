//! Owns the overlay: a database file under which the disk takes no writes can be opened and read all the same.
//! Must not know: what is read.
//!
//! redb writes when it opens a file, and repairs it after a failure. Here these writes stay in memory.

use std::collections::HashMap;
use std::io;
use std::ops::Bound;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use redb::{BackendError, StorageBackend};

const PAGE: usize = 4096;

/// Reads what lies `below`; keeps in memory what is written.
#[derive(Debug)]
pub(super) struct Overlay<B> {
    below: B,
    above: RwLock<Above>,
}

#[derive(Debug)]
struct Above {
    len: u64,
    /// Up to here the storage below still counts; what lies behind was cut off once and is zero.
    visible: u64,
    pages: HashMap<u64, Box<[u8; PAGE]>>,
}

impl<B: StorageBackend> Overlay<B> {
    pub fn new(below: B) -> io::Result<Self> {
        let len = below.len()?;
        Ok(Self { below, above: RwLock::new(Above { len, visible: len, pages: HashMap::new() }) })
    }

    fn above(&self) -> RwLockReadGuard<'_, Above> {
        self.above.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn above_mut(&self) -> RwLockWriteGuard<'_, Above> {
        self.above.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads from below, with zeros where that ends.
    fn read_below(&self, visible: u64, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let there = usize::try_from(visible.saturating_sub(offset)).unwrap_or(usize::MAX);
        let (from_below, zeros) = out.split_at_mut(there.min(out.len()));
        zeros.fill(0);
        if from_below.is_empty() { Ok(()) } else { self.below.read(offset, from_below) }
    }
}

impl<B: StorageBackend> StorageBackend for Overlay<B> {
    fn len(&self) -> io::Result<u64> {
        Ok(self.above().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let above = self.above();
        above.check(offset, out.len())?;
        for (page, within, part) in parts(offset, out.len()) {
            let out = &mut out[part];
            match above.pages.get(&page) {
                Some(bytes) => out.copy_from_slice(&bytes[within..within + out.len()]),
                None => self.read_below(above.visible, page * PAGE as u64 + within as u64, out)?,
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut above = self.above_mut();
        above.check(offset, data.len())?;
        for (page, within, part) in parts(offset, data.len()) {
            let data = &data[part];
            if !above.pages.contains_key(&page) {
                let mut bytes = Box::new([0; PAGE]);
                self.read_below(above.visible, page * PAGE as u64, &mut bytes[..])?;
                above.pages.insert(page, bytes);
            }
            if let Some(bytes) = above.pages.get_mut(&page) {
                bytes[within..within + data.len()].copy_from_slice(data);
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut above = self.above_mut();
        above.len = len;
        above.visible = above.visible.min(len);
        above.pages.retain(|&page, _| page * (PAGE as u64) < len);
        if let Some(last) = above.pages.get_mut(&(len / PAGE as u64)) {
            last[(len % PAGE as u64) as usize..].fill(0);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.below.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.below.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.below.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.below.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.below.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.below.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.below.query_lock_range(start, end)
    }
}

impl Above {
    fn check(&self, offset: u64, len: usize) -> io::Result<()> {
        match offset.checked_add(len as u64) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// Cuts a range of the storage at the borders of pages: page number, where within it, and which part of
/// the range that is.
fn parts(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let within = (at % PAGE as u64) as usize;
        let size = (PAGE - within).min(len - done);
        let part = done..done + size;
        done += size;
        (size > 0).then_some((at / PAGE as u64, within, part))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use redb::backends::InMemoryBackend;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Write(u64, Vec<u8>),
        SetLen(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let write =
            (0..20_000_u64, prop::collection::vec(1..255_u8, 1..9000)).prop_map(|(a, b)| Step::Write(a, b));
        prop::collection::vec(prop_oneof![write, (0..30_000_u64).prop_map(Step::SetLen)], 1..12)
    }

    proptest! {
        #[test]
        fn it_reads_as_if_it_had_written_and_touches_nothing(below: Vec<u8>, steps in steps()) {
            let lower = InMemoryBackend::new();
            let plain = InMemoryBackend::new();
            for backend in [&lower, &plain] {
                backend.set_len(below.len() as u64).expect("memory");
                backend.write(0, &below).expect("memory");
            }
            let overlay = Overlay::new(lower).expect("memory");
            for step in steps {
                match step {
                    Step::Write(at, data) => {
                        let wrote = overlay.write(at, &data);
                        prop_assert_eq!(wrote.is_ok(), plain.write(at, &data).is_ok());
                    }
                    Step::SetLen(len) => {
                        overlay.set_len(len).expect("memory");
                        plain.set_len(len).expect("memory");
                    }
                }
                let len = plain.len().expect("memory");
                prop_assert_eq!(overlay.len().expect("memory"), len);
                let mut seen = [vec![7; len as usize], vec![9; len as usize]];
                overlay.read(0, &mut seen[0]).expect("within");
                plain.read(0, &mut seen[1]).expect("within");
                prop_assert!(seen[0] == seen[1]);
            }
            let mut untouched = vec![0; below.len()];
            overlay.below.read(0, &mut untouched).expect("within");
            prop_assert_eq!(untouched, below);
        }
    }
}
