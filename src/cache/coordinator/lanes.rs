//! Owns the queues: how many fills may run at once, and which queued key is next.
//! Must not know: why a key is wanted, and how its fill goes.

use std::collections::BTreeMap;

use super::super::planted::{Bug, Planted};
use super::super::{Key, Lane, Limits};

/// First come, first served, but a key whose upstream is busy lets the others pass.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Lanes<K> {
    content: Queue<K>,
    pointer: Queue<K>,
    next_ticket: u64,
    planted: Planted,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Queue<K> {
    limit: usize,
    limit_per_upstream: usize,
    /// Fills per upstream; no zeros.
    running: BTreeMap<u64, usize>,
    /// Keys per upstream, by ticket; no empty maps.
    waiting: BTreeMap<u64, BTreeMap<u64, K>>,
}

impl<K: Key> Lanes<K> {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            content: Queue::new(limits.content_fills, limits.content_fills_per_upstream),
            pointer: Queue::new(limits.pointer_fills, limits.pointer_fills_per_upstream),
            next_ticket: 0,
            planted: Planted::default(),
        }
    }

    #[cfg(feature = "planted-bugs")]
    pub(super) fn plant(&mut self, planted: Planted) {
        self.planted = planted;
    }

    /// A place behind everybody.
    pub(super) fn ticket(&mut self) -> u64 {
        self.next_ticket += 1;
        self.next_ticket
    }

    pub(super) fn enqueue(&mut self, key: &K, upstream: u64, ticket: u64) {
        let queue = self.queue_mut(key.lane());
        queue.waiting.entry(upstream).or_default().insert(ticket, key.clone());
    }

    pub(super) fn dequeue(&mut self, lane: Lane, upstream: u64, ticket: u64) -> Option<K> {
        let queue = self.queue_mut(lane);
        let waiting = queue.waiting.get_mut(&upstream)?;
        let key = waiting.remove(&ticket);
        if waiting.is_empty() {
            queue.waiting.remove(&upstream);
        }
        key
    }

    /// Takes out the next key that may start now. Its fill counts as running from here until `finished`.
    pub(super) fn start_next(&mut self, lane: Lane) -> Option<K> {
        let (ticket, upstream) = self.next(lane)?;
        *self.queue_mut(lane).running.entry(upstream).or_default() += 1;
        self.dequeue(lane, upstream, ticket)
    }

    pub(super) fn finished(&mut self, lane: Lane, upstream: u64) {
        let running = &mut self.queue_mut(lane).running;
        let Some(count) = running.get_mut(&upstream) else { return };
        *count -= 1;
        if *count == 0 {
            running.remove(&upstream);
        }
    }

    pub(super) fn has_startable(&self, lane: Lane) -> bool {
        self.queue(lane).next().is_some()
    }

    pub(super) fn queued(&self, lane: Lane) -> usize {
        self.queue(lane).waiting.values().map(BTreeMap::len).sum()
    }

    /// Whether this key stands in its queue at this place.
    pub(super) fn stands(&self, key: &K, upstream: u64, ticket: u64) -> bool {
        let waiting = self.queue(key.lane()).waiting.get(&upstream);
        waiting.and_then(|waiting| waiting.get(&ticket)) == Some(key)
    }

    pub(super) fn running(&self, lane: Lane) -> &BTreeMap<u64, usize> {
        &self.queue(lane).running
    }

    pub(super) fn within_limits(&self, lane: Lane) -> bool {
        let queue = self.queue(lane);
        queue.total() <= queue.limit && queue.running.values().all(|count| *count <= queue.limit_per_upstream)
    }

    fn next(&self, lane: Lane) -> Option<(u64, u64)> {
        let queue = self.queue(lane);
        let next = queue.next()?;
        let blocked = self.planted.is(Bug::BlockedUpstreamBlocksAll) && queue.oldest() != Some(next)
            || self.planted.is(Bug::IdleSlotUnused) && queue.total() > 0;
        (!blocked).then_some(next)
    }

    fn queue(&self, lane: Lane) -> &Queue<K> {
        match lane {
            Lane::Content => &self.content,
            Lane::Pointer => &self.pointer,
        }
    }

    fn queue_mut(&mut self, lane: Lane) -> &mut Queue<K> {
        match lane {
            Lane::Content => &mut self.content,
            Lane::Pointer => &mut self.pointer,
        }
    }
}

impl<K> Queue<K> {
    fn new(limit: usize, limit_per_upstream: usize) -> Self {
        Self { limit, limit_per_upstream, running: BTreeMap::new(), waiting: BTreeMap::new() }
    }

    fn total(&self) -> usize {
        self.running.values().sum()
    }

    /// Ticket and upstream of the oldest key whose upstream has a slot.
    fn next(&self) -> Option<(u64, u64)> {
        if self.waiting.is_empty() || self.total() >= self.limit {
            return None;
        }
        let open = self.waiting.iter().filter(|(upstream, _)| {
            self.running.get(upstream).is_none_or(|count| *count < self.limit_per_upstream)
        });
        open.filter_map(|(upstream, keys)| Some((*keys.first_key_value()?.0, *upstream))).min()
    }

    fn oldest(&self) -> Option<(u64, u64)> {
        let firsts =
            self.waiting.iter().filter_map(|(upstream, keys)| Some((*keys.first_key_value()?.0, *upstream)));
        firsts.min()
    }
}
