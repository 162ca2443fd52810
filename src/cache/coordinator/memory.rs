//! Owns what failed a moment ago, so that it is not tried again at once by everybody who asks.
//! Must not know: flights, waiters.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::planted::{Bug, Planted};
use super::super::{Failure, Key, Source};
use crate::clock::Millis;

const TRANSPORT: Duration = Duration::from_secs(2);
const MISMATCH: Duration = Duration::from_secs(60);
/// An upstream may ask for hours; we ask again after this long.
const RATE_LIMITED_AT_MOST: Duration = Duration::from_secs(300);
/// A scanner that asks for names that do not exist must not fill the memory: past this the oldest are dropped.
const CAPACITY: usize = 65_536;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Memory<K, S> {
    failures: BTreeMap<(K, S), (Failure, Millis)>,
    expiries: BTreeSet<(Millis, (K, S))>,
    planted: Planted,
}

impl<K: Key, S: Source> Memory<K, S> {
    pub(super) fn new() -> Self {
        Self { failures: BTreeMap::new(), expiries: BTreeSet::new(), planted: Planted::default() }
    }

    #[cfg(feature = "planted-bugs")]
    pub(super) fn plant(&mut self, planted: Planted) {
        self.planted = planted;
    }

    pub(super) fn remember(&mut self, now: Millis, key: &K, source: &S, failure: Failure, negative_ms: u64) {
        let Some(span) = span(failure, negative_ms) else { return };
        if span.is_zero() || self.planted.is(Bug::FailureNotRemembered) {
            return;
        }
        let until = now.after(span);
        let about = (key.clone(), source.clone());
        if let Some((_, former)) = self.failures.insert(about.clone(), (failure, until)) {
            self.expiries.remove(&(former, about.clone()));
        }
        self.expiries.insert((until, about));
        self.forget_expired(now);
        if self.failures.len() > CAPACITY {
            self.forget_first();
        }
    }

    /// The failure that still counts. A rate limit is told with the time that is left of it.
    pub(super) fn recall(&self, now: Millis, key: &K, source: &S) -> Option<Failure> {
        let (failure, until) = *self.failures.get(&(key.clone(), source.clone()))?;
        if until <= now && !self.planted.is(Bug::MemoryNeverExpires) {
            return None;
        }
        Some(match failure {
            Failure::RateLimited { .. } => {
                Failure::RateLimited { retry_after_ms: until.0.saturating_sub(now.0) }
            }
            other => other,
        })
    }

    pub(super) fn forget_expired(&mut self, now: Millis) {
        while self.expiries.first().is_some_and(|(until, _)| *until <= now)
            && !self.planted.is(Bug::MemoryNeverExpires)
        {
            self.forget_first();
        }
    }

    pub(super) fn is_consistent(&self) -> bool {
        let matches = self
            .expiries
            .iter()
            .all(|(until, about)| self.failures.get(about).is_some_and(|(_, at)| at == until));
        matches && self.failures.len() == self.expiries.len() && self.failures.len() <= CAPACITY
    }

    fn forget_first(&mut self) {
        if let Some((_, about)) = self.expiries.pop_first() {
            self.failures.remove(&about);
        }
    }
}

/// How long a failure counts. `None`: it says nothing about the next try.
fn span(failure: Failure, negative_ms: u64) -> Option<Duration> {
    match failure {
        Failure::Transport => Some(TRANSPORT),
        Failure::NotFound | Failure::Forbidden => Some(Duration::from_millis(negative_ms)),
        Failure::RateLimited { retry_after_ms } => {
            Some(Duration::from_millis(retry_after_ms).min(RATE_LIMITED_AT_MOST))
        }
        Failure::Mismatch => Some(MISMATCH),
        Failure::NoSpace | Failure::Died => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::Lane;
    use super::*;

    #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    struct Name(usize);

    impl Key for Name {
        fn lane(&self) -> Lane {
            Lane::Pointer
        }
    }

    impl Source for Name {
        fn upstream(&self) -> u64 {
            0
        }
    }

    #[test]
    fn is_bounded_and_drops_what_expires_first() {
        let mut memory = Memory::new();
        for name in 0..=CAPACITY {
            let negative_ms = if name == 7 { 1 } else { 1_000 };
            memory.remember(Millis(0), &Name(name), &Name(0), Failure::NotFound, negative_ms);
        }
        assert!(memory.is_consistent());
        assert_eq!(memory.failures.len(), CAPACITY);
        assert_eq!(memory.recall(Millis(0), &Name(7), &Name(0)), None);
        assert_eq!(memory.recall(Millis(0), &Name(8), &Name(0)), Some(Failure::NotFound));
    }

    #[test]
    fn a_later_failure_replaces_the_earlier_one() {
        let mut memory = Memory::new();
        memory.remember(Millis(0), &Name(1), &Name(1), Failure::Mismatch, 0);
        memory.remember(Millis(10), &Name(1), &Name(1), Failure::Transport, 0);
        assert!(memory.is_consistent());
        assert_eq!(memory.recall(Millis(2_009), &Name(1), &Name(1)), Some(Failure::Transport));
        assert_eq!(memory.recall(Millis(2_010), &Name(1), &Name(1)), None);
    }
}
