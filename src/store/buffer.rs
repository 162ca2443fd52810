//! Owns the memory that blob bytes are read into: lent for one chunk, taken back when that chunk is sent.
//! Must not know: files, readers, who sends.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// Below this a buffer is made to measure and freed; keeping it would save nothing.
const SMALLEST: usize = 16 << 10;
/// What one read takes at most.
const LARGEST: usize = 256 << 10;
/// One shelf per power of two from `SMALLEST` to `LARGEST`.
const SHELVES: usize = (LARGEST / SMALLEST).ilog2() as usize + 1;
/// What lies unused at most, all shelves together.
const SPARE_BYTES: usize = 8 << 20;

/// How much to read at once for a caller who takes at most `max`: so much that the buffer, which is a power of
/// two, is no larger than `max` either.
pub(super) fn chunk(max: usize) -> usize {
    match max.clamp(1, LARGEST) {
        small if small < SMALLEST => small,
        large => 1 << large.ilog2(),
    }
}

/// Buffers to lend. A recycled one needs no zeroing, which safe code must pay for a new one.
#[derive(Debug, Default)]
pub(super) struct Buffers(Mutex<Spare>);

#[derive(Debug, Default)]
struct Spare {
    /// What lies on the shelves.
    bytes: usize,
    shelves: [Vec<Vec<u8>>; SHELVES],
}

impl Buffers {
    /// A buffer of at least `want` bytes, whatever they are.
    pub(super) fn lend(self: &Arc<Self>, want: usize) -> Buffer {
        let Some(shelf) = shelf(want) else {
            return Buffer { bytes: vec![0; want], home: None };
        };
        let spare = self.spare().take(shelf);
        Buffer {
            bytes: spare.unwrap_or_else(|| vec![0; SMALLEST << shelf]),
            home: Some(Home { buffers: Arc::clone(self), shelf }),
        }
    }

    fn spare(&self) -> MutexGuard<'_, Spare> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Spare {
    fn take(&mut self, shelf: usize) -> Option<Vec<u8>> {
        let bytes = self.shelves[shelf].pop()?;
        self.bytes -= bytes.len();
        Some(bytes)
    }

    fn put(&mut self, shelf: usize, bytes: Vec<u8>) {
        if self.bytes + bytes.len() <= SPARE_BYTES {
            self.bytes += bytes.len();
            self.shelves[shelf].push(bytes);
        }
    }
}

/// `None` for what is not worth keeping.
fn shelf(want: usize) -> Option<usize> {
    let worth = want > SMALLEST / 2 && want <= LARGEST;
    worth.then(|| (want.next_power_of_two().max(SMALLEST) / SMALLEST).ilog2() as usize)
}

/// Memory on loan; goes home when dropped.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    home: Option<Home>,
}

#[derive(Debug)]
struct Home {
    buffers: Arc<Buffers>,
    shelf: usize,
}

impl Buffer {
    pub(super) fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Its first `filled` bytes, for sending. The loan ends when the last handle on them is dropped.
    pub(super) fn into_bytes(mut self, filled: usize) -> Bytes {
        if self.home.is_none() {
            self.bytes.truncate(filled);
            return Bytes::from(std::mem::take(&mut self.bytes));
        }
        // A few bytes that wait for a slow client must not hold a large buffer meanwhile.
        if filled < self.bytes.len() / 4 {
            return Bytes::copy_from_slice(&self.bytes[..filled]);
        }
        Bytes::from_owner(Filled { buffer: self, filled })
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            home.buffers.spare().put(home.shelf, std::mem::take(&mut self.bytes));
        }
    }
}

struct Filled {
    buffer: Buffer,
    filled: usize,
}

impl AsRef<[u8]> for Filled {
    fn as_ref(&self) -> &[u8] {
        &self.buffer.bytes[..self.filled]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_and_its_buffer_stay_within_what_the_caller_takes() {
        let buffers = Arc::new(Buffers::default());
        for max in [0, 1, 100, SMALLEST - 1, SMALLEST, 20_000, 65_536, 100_000, LARGEST, 1 << 30] {
            let chunk = chunk(max);
            assert!(chunk <= max.max(1) && chunk >= 1, "{max}");
            if max >= SMALLEST {
                assert!(buffers.lend(chunk).as_mut().len() <= max, "{max}");
            }
        }
    }

    #[test]
    fn a_buffer_comes_home_when_its_last_slice_is_dropped() {
        let buffers = Arc::new(Buffers::default());
        let bytes = buffers.lend(LARGEST).into_bytes(LARGEST);
        let slice = bytes.slice(10..20);
        drop(bytes);
        assert_eq!(buffers.spare().bytes, 0);
        drop(slice);
        assert_eq!(buffers.spare().bytes, LARGEST);
        let again = buffers.lend(LARGEST);
        assert_eq!((buffers.spare().bytes, again.bytes.len()), (0, LARGEST));
    }

    #[test]
    fn few_bytes_do_not_hold_a_large_buffer() {
        let buffers = Arc::new(Buffers::default());
        let bytes = buffers.lend(LARGEST).into_bytes(100);
        assert_eq!((bytes.len(), buffers.spare().bytes), (100, LARGEST));
    }

    #[test]
    fn what_lies_unused_is_bounded() {
        let buffers = Arc::new(Buffers::default());
        let lent: Vec<_> = (0..100).map(|_| buffers.lend(LARGEST)).collect();
        drop(lent);
        assert_eq!(buffers.spare().bytes, SPARE_BYTES);
    }
}
