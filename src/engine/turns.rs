//! Owns turns: one at a time changes what lies under a digest's name, be it a fill that ends beside a push, a check
//! that sets a damaged file aside, or the sweep.
//! Must not know: what is done in a turn.

use std::hash::{BuildHasher, RandomState};

use tokio::sync::{Mutex, MutexGuard};

use crate::names::Digest;

/// Digests that share a place wait for each other, which does no harm.
const PLACES: usize = 1_024;

pub(super) struct Turns {
    places: Box<[Mutex<()>]>,
    hasher: RandomState,
}

impl Turns {
    pub fn new() -> Self {
        Self { places: (0..PLACES).map(|_| Mutex::default()).collect(), hasher: RandomState::new() }
    }

    /// Waits for this digest's turn. Nobody takes two.
    pub async fn take(&self, digest: &Digest) -> MutexGuard<'_, ()> {
        let place = self.hasher.hash_one(digest) % PLACES as u64;
        self.places[usize::try_from(place).unwrap_or(0)].lock().await
    }
}
