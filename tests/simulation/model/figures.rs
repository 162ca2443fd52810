//! Owns the sums over the account, and the comparison with the coordinator's own.

use binaryrepo::cache::{Coordinator, Key, Lane, LastUse, Source};

use super::{Copy, Model, Waiting};
use crate::names::{Name, Via};

impl Model {
    /// Every limit is kept, or nothing is left that could go.
    pub fn limits_are_kept(&self) -> bool {
        let scopes = self.shares.keys().map(|upstream| Some(*upstream)).chain([None]);
        scopes.into_iter().all(|scope| {
            let kept = self.limit_of(scope).is_none_or(|limit| self.kept(scope) <= limit);
            kept || self.oldest(scope).is_none()
        })
    }

    /// The coordinator's figures against ours.
    pub fn compare(&self, machine: &Coordinator<Name, Via>) -> Result<(), String> {
        let counts = machine.counts();
        let sum = |pinned, evicting| -> u64 {
            let ours = self.copies.values().filter(|copy| copy.pinned == pinned && copy.evicting == evicting);
            ours.map(|copy| copy.size).sum()
        };
        let ours = (
            self.flights.len(),
            self.waiting.len(),
            sum(false, false),
            sum(false, true),
            sum(true, false) + sum(true, true),
            self.flights.values().filter_map(|flight| flight.reserved).sum::<u64>(),
            self.copies.values().filter(|copy| !copy.evicting).count(),
        );
        let theirs = (
            counts.flights,
            counts.waiters,
            counts.present_bytes,
            counts.evicting_bytes,
            counts.pinned_bytes,
            counts.reserved_bytes,
            counts.present,
        );
        must!(
            ours == theirs,
            "flights, waiters, bytes present, evicting, pinned, reserved, keys: {theirs:?} instead of {ours:?}"
        );
        for (key, copy) in &self.copies {
            must!(machine.is_present(key) != copy.evicting, "{key:?}: present or not");
        }
        Ok(())
    }

    pub(super) fn is_candidate(&self, key: Name) -> bool {
        let free = self.copies.get(&key).is_some_and(|copy| !copy.pinned && !copy.evicting);
        free && self.claims.values().all(|(claimed, _)| *claimed != key)
            && self.flights.values().all(|flight| flight.key != key)
    }

    pub(super) fn is_oversized(&self, key: Name) -> bool {
        let copy = &self.copies[&key];
        copy.size > self.limit || self.shares.get(&copy.upstream).is_some_and(|share| copy.size > *share)
    }

    pub(super) fn limit_of(&self, scope: Option<u64>) -> Option<u64> {
        match scope {
            None => Some(self.limit),
            Some(upstream) => self.shares.get(&upstream).copied(),
        }
    }

    pub(super) fn kept(&self, scope: Option<u64>) -> u64 {
        let limit = self.limit_of(scope).unwrap_or(u64::MAX);
        let within = |upstream: u64| scope.is_none_or(|scope| scope == upstream);
        let copies =
            self.copies.values().filter(|copy| !copy.pinned && !copy.evicting && within(copy.upstream));
        let flights = self.flights.values().filter(|flight| within(flight.upstream));
        let reserved = flights.filter_map(|flight| flight.reserved).filter(|size| *size <= limit);
        copies.map(|copy| copy.size).sum::<u64>() + reserved.sum::<u64>()
    }

    pub(super) fn oldest(&self, scope: Option<u64>) -> Option<LastUse> {
        let within = |copy: &Copy| scope.is_none_or(|scope| scope == copy.upstream);
        let candidates = self.copies.iter().filter(|(key, copy)| within(copy) && self.is_candidate(**key));
        candidates.map(|(_, copy)| copy.used).min()
    }

    pub(super) fn lane_limits(&self, lane: Lane) -> (usize, usize) {
        match lane {
            Lane::Content => (self.limits.content_fills, self.limits.content_fills_per_upstream),
            Lane::Pointer => (self.limits.pointer_fills, self.limits.pointer_fills_per_upstream),
        }
    }

    pub(super) fn running(&self, lane: Lane, upstream: u64) -> (usize, usize) {
        let in_lane = self.flights.values().filter(|flight| flight.key.lane() == lane);
        let here = in_lane.clone().filter(|flight| flight.upstream == upstream);
        (in_lane.count(), here.count())
    }

    /// It waits for a slot, and whichever source its key stands in the queue for, there is one.
    pub(super) fn could_start(&self, waiting: &Waiting) -> bool {
        let key = waiting.key;
        if self.copies.contains_key(&key) || self.flights.values().any(|flight| flight.key == key) {
            return false;
        }
        let (limit, limit_here) = self.lane_limits(key.lane());
        let sources = self.waiting.values().filter(|other| other.key == key).map(|other| other.source);
        sources
            .map(|source| self.running(key.lane(), source.upstream()))
            .all(|(total, here)| total < limit && here < limit_here && !self.late.contains(&key))
    }
}
