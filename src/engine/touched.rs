//! Owns which blobs and documents were used since the last note, for the order of eviction.
//! Must not know: what is evicted.

use dashmap::DashMap;

use crate::clock::UnixMillis;
use crate::names::Digest;

/// A use within this span of the last one is not told again.
pub(super) const QUIET_MS: u64 = 5_000;
/// More than this many between two notes, and the rest go unnoted: they only age a little.
const MOST: usize = 100_000;

#[derive(Default)]
pub(super) struct Touched {
    blobs: DashMap<Digest, UnixMillis>,
    documents: DashMap<Digest, UnixMillis>,
}

impl Touched {
    /// Whether this use is news enough to be told to the actor.
    pub fn blob(&self, digest: Digest, now: UnixMillis) -> bool {
        note(&self.blobs, digest, now)
    }

    pub fn document(&self, digest: Digest, now: UnixMillis) {
        note(&self.documents, digest, now);
    }

    pub fn take_blobs(&self) -> Vec<(Digest, UnixMillis)> {
        take(&self.blobs)
    }

    pub fn take_documents(&self) -> Vec<(Digest, UnixMillis)> {
        take(&self.documents)
    }
}

fn note(used: &DashMap<Digest, UnixMillis>, digest: Digest, now: UnixMillis) -> bool {
    if let Some(last) = used.get(&digest)
        && now.0.saturating_sub(last.0) < QUIET_MS
    {
        return false;
    }
    if used.len() < MOST {
        used.insert(digest, now);
    }
    true
}

fn take(used: &DashMap<Digest, UnixMillis>) -> Vec<(Digest, UnixMillis)> {
    let taken: Vec<_> = used.iter().map(|entry| (*entry.key(), *entry.value())).collect();
    for (digest, at) in &taken {
        // What was used again meanwhile stays for the next note.
        used.remove_if(digest, |_, last| last == at);
    }
    taken
}
