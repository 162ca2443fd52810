//! Owns which evictions run and which wait for their turn, and that each of them is reported.
//! Must not know: why the cache chose a victim, how a file is removed.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::mpsc::OwnedPermit;

use super::actor::Report;
use super::shared::Shared;
use super::sweep::{self, Eviction, Why};
use crate::names::Digest;

/// At once: each takes a thread of the pool that bodies are read on, and a lower limit may ask for very many.
const MOST: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Sweeps {
    /// No more than blobs lie here: each is chosen once until it is reported.
    waiting: VecDeque<(Digest, Why)>,
    running: usize,
}

impl Sweeps {
    pub fn add(&mut self, digest: Digest, why: Why) {
        self.waiting.push_back((digest, why));
    }

    /// The next that may start; it counts as running until `ended`.
    pub fn next(&mut self) -> Option<(Digest, Why)> {
        if self.running == MOST {
            return None;
        }
        let next = self.waiting.pop_front()?;
        self.running += 1;
        Some(next)
    }

    /// It could not be started.
    pub fn put_back(&mut self, digest: Digest, why: Why) {
        self.ended();
        self.waiting.push_front((digest, why));
    }

    pub fn ended(&mut self) {
        self.running = self.running.saturating_sub(1);
    }
}

/// One removal. Dropped without a word (a panic, an abort) it reports that the file may still be there: otherwise
/// its key would be on its way out for ever.
pub(super) struct SweepGuard {
    digest: Digest,
    permit: Option<OwnedPermit<Report>>,
}

impl SweepGuard {
    pub fn new(digest: Digest, permit: OwnedPermit<Report>) -> Self {
        Self { digest, permit: Some(permit) }
    }

    pub async fn run(mut self, shared: Arc<Shared>, why: Why) {
        let eviction = sweep::evict(&shared, &self.digest, why).await;
        self.send(eviction);
    }

    fn send(&mut self, eviction: Eviction) {
        if let Some(permit) = self.permit.take() {
            permit.send(Report::Swept { digest: self.digest, eviction });
        }
    }
}

impl Drop for SweepGuard {
    fn drop(&mut self) {
        self.send(Eviction::Stays);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Algorithm;

    #[test]
    fn a_hundred_thousand_victims_take_their_turns() {
        let mut sweeps = Sweeps::default();
        let digest = |n: u32| Digest::of(Algorithm::Sha256, &n.to_be_bytes());
        (0..100).for_each(|n| sweeps.add(digest(n), Why::Chosen));
        let next = |sweeps: &mut Sweeps| sweeps.next().map(|(digest, _)| digest);
        let first: Vec<_> = std::iter::from_fn(|| next(&mut sweeps)).collect();
        assert_eq!(first, (0..8).map(digest).collect::<Vec<_>>());
        sweeps.ended();
        assert_eq!(next(&mut sweeps), Some(digest(8)));
        sweeps.put_back(digest(8), Why::Chosen);
        assert_eq!((next(&mut sweeps), next(&mut sweeps)), (Some(digest(8)), None));
    }
}
