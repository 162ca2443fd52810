//! Owns the bytes that uploads have announced and not sent yet: no two of them are promised the same room.
//! Must not know: who uploads, how room is made.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Free bytes that uploads leave: the metadata needs some to note anything at all.
const FLOOR: u64 = 64 << 20;

/// What all uploads together have announced.
#[derive(Debug, Default)]
pub(super) struct Announced(Arc<AtomicU64>);

/// What one of them is still to send. Dropped, it takes nobody's room any more.
#[derive(Debug)]
pub(super) struct Announcement {
    all: Arc<AtomicU64>,
    left: u64,
}

impl Announced {
    /// One that announces nothing yet.
    pub fn join(&self) -> Announcement {
        Announcement { all: Arc::clone(&self.0), left: 0 }
    }

    /// What uploads leave to others of so many bytes.
    pub fn leave(&self, bytes: u64) -> u64 {
        match self.0.load(Ordering::Relaxed) {
            0 => bytes,
            all => bytes.saturating_sub(all.saturating_add(FLOOR)),
        }
    }
}

impl Announcement {
    /// Announces `more` bytes, if they fit in `free` beside what others have announced.
    pub fn announce(&mut self, more: u64, free: u64) -> bool {
        let announced = self.all.fetch_update(Ordering::AcqRel, Ordering::Acquire, |all| {
            let others = all - self.left;
            fit(more, free, others).then(|| others + more)
        });
        if announced.is_ok() {
            self.left = more;
        }
        announced.is_ok()
    }

    /// Announces what does not fit yet, so that room is made for it.
    pub fn insist(&mut self, more: u64) {
        self.came(u64::MAX);
        self.all.fetch_add(more, Ordering::AcqRel);
        self.left = more;
    }

    /// Whether `more` bytes fit in `free` beside what others have announced.
    pub fn fits(&self, more: u64, free: u64) -> bool {
        fit(more, free, self.all.load(Ordering::Acquire) - self.left)
    }

    /// How many uploads there are at this time, this one among them.
    pub fn among(&self) -> usize {
        Arc::strong_count(&self.all).saturating_sub(1).max(1)
    }

    /// So many came: they lie on the disk, and are to come no more.
    pub fn came(&mut self, bytes: u64) {
        let came = bytes.min(self.left);
        self.left -= came;
        self.all.fetch_sub(came, Ordering::AcqRel);
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        self.came(u64::MAX);
    }
}

fn fit(more: u64, free: u64, others: u64) -> bool {
    free.saturating_sub(others) >= more.saturating_add(FLOOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn no_two_get_the_same_room() {
        let all = Announced::default();
        let (mut first, mut second) = (all.join(), all.join());
        assert!(first.announce(100 * MIB, 264 * MIB));
        assert!(!second.announce(101 * MIB, 264 * MIB));
        assert!(second.announce(100 * MIB, 264 * MIB));
        assert_eq!(all.leave(300 * MIB), 36 * MIB);
        // One's own room is nobody else's.
        assert!(first.fits(100 * MIB, 264 * MIB) && !first.fits(101 * MIB, 264 * MIB));
        assert!(first.announce(90 * MIB, 264 * MIB));
        second.came(40 * MIB);
        assert_eq!(all.leave(300 * MIB), 86 * MIB);
        second.came(MIB << 20);
        assert_eq!(second.among(), 2);
        drop(first);
        assert_eq!(second.among(), 1);
        assert_eq!(all.leave(300 * MIB), 300 * MIB);
    }

    #[test]
    fn what_is_insisted_on_counts_though_it_does_not_fit() {
        let all = Announced::default();
        let mut one = all.join();
        one.insist(100 * MIB);
        assert!(!one.fits(100 * MIB, 163 * MIB) && one.fits(100 * MIB, 164 * MIB));
        assert_eq!(all.leave(200 * MIB), 36 * MIB);
        one.insist(10 * MIB);
        assert_eq!(all.leave(200 * MIB), 126 * MIB);
    }
}
