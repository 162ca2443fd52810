//! Owns how a draft grows: the writer thread writes and hashes one piece after the other, and a piece counts from the
//! moment that it is both. Must not know: how a draft ends.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use super::draft::Checkpoint;
use super::file::StoreFile;
use super::tail::Progress;
use super::writer::Lane;
use crate::names::{Algorithm, Hasher};
use crate::planted::Bug;

/// From here on a piece is hashed while it is written: it takes as long as another thread needs to wake up.
const HASHED_BESIDE: usize = 64 << 10;

/// What the writer thread changes.
#[derive(Debug)]
pub(super) struct Growth {
    written: Mutex<Written>,
    pub(super) progress: watch::Sender<Progress>,
}

#[derive(Clone, Debug)]
pub(super) struct Written {
    pub(super) len: u64,
    pub(super) hasher: Hasher,
}

/// A part of a draft, to be written behind what came before.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) at: u64,
    pub(super) size: usize,
    pub(super) chunks: Vec<Bytes>,
}

impl Growth {
    pub(super) fn new(written: Written) -> Self {
        Self { written: Mutex::new(written), progress: watch::Sender::default() }
    }

    pub(super) fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs on the writer thread, where a draft's appends come one after the other. What is written counts only
    /// at the end, so a failure or a panic on the way leaves the draft as it was.
    pub(super) fn append(&self, file: &StoreFile, piece: Piece, lane: &Lane) -> io::Result<()> {
        let Piece { at, size, chunks } = piece;
        let Written { len: before, hasher } = self.written().clone();
        if at != before {
            return Err(io::Error::other("what comes before it was not written"));
        }
        let len = before + size as u64;
        let announced = self.progress.borrow().size;
        if let Some(size) = announced.filter(|size| len > *size) {
            let message = format!("{len} bytes came, {size} were announced");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let hasher = if size < HASHED_BESIDE {
            file.write_all(&chunks, before)?;
            hash_all(hasher, &chunks)
        } else {
            let same = chunks.clone();
            let (hasher, wrote) =
                lane.both(move || hash_all(hasher, &same), || file.write_all(&chunks, before))?;
            wrote?;
            hasher
        };
        *self.written() = Written { len, hasher };
        self.progress.send_if_modified(|progress| {
            let before = progress.readable;
            progress.advance(len);
            progress.readable > before
        });
        Ok(())
    }
}

fn hash_all(mut hasher: Hasher, chunks: &[Bytes]) -> Hasher {
    for chunk in chunks {
        hasher.update(chunk);
    }
    hasher
}

pub(super) fn hash(file: &StoreFile, algorithm: Algorithm, len: u64) -> io::Result<Hasher> {
    let mut hasher = Hasher::new(algorithm);
    file.read_each(0, len, |bytes| hasher.update(bytes))?;
    Ok(hasher)
}

/// Hashes the file from its start and looks at each checkpoint on the way.
pub(super) fn longest_match(
    file: &StoreFile,
    algorithm: Algorithm,
    checkpoints: &[Checkpoint],
) -> io::Result<Option<Written>> {
    let there = file.len()?;
    let mut within: Vec<_> = checkpoints.iter().filter(|point| (1..=there).contains(&point.len)).collect();
    within.sort_by_key(|point| point.len);
    let mut hasher = Hasher::new(algorithm);
    let (mut at, mut longest) = (0, None);
    for point in within {
        file.read_each(at, point.len, |bytes| hasher.update(bytes))?;
        at = point.len;
        if hasher.clone().finish() == point.prefix || Bug::LeftoverNotCompared.is_planted() {
            longest = Some(Written { len: at, hasher: hasher.clone() });
        }
    }
    Ok(longest)
}
