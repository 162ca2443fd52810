//! Owns a counter that many threads move at once without waiting for each other: each adds in a place of its own, and
//! who reads adds up. Must not know: what is counted.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// More threads than this share places.
const PLACES: usize = 8;

/// What only goes up. Cheap to clone; the clones are one counter.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally(Arc<[Place; PLACES]>);

/// What one processor's cache holds in one piece.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Place(AtomicU64);

impl Tally {
    pub fn inc(&self) {
        self.inc_by(1);
    }

    pub fn inc_by(&self, more: u64) {
        self.0[own()].0.fetch_add(more, Ordering::Relaxed);
    }

    fn sum(&self) -> u64 {
        self.0.iter().map(|place| place.0.load(Ordering::Relaxed)).fold(0, u64::wrapping_add)
    }
}

/// The place of this thread: threads get theirs in turn.
fn own() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static OWN: Cell<Option<usize>> = const { Cell::new(None) };
    }
    OWN.get().unwrap_or_else(|| {
        let own = NEXT.fetch_add(1, Ordering::Relaxed) % PLACES;
        OWN.set(Some(own));
        own
    })
}

impl TypedMetric for Tally {
    const TYPE: MetricType = MetricType::Counter;
}

impl EncodeMetric for Tally {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_counter::<NoLabelSet, _, u64>(&self.sum(), None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn what_many_threads_count_adds_up() {
        let tally = Tally::default();
        thread::scope(|scope| {
            for _ in 0..3 * PLACES {
                scope.spawn(|| (0..1_000).for_each(|_| tally.clone().inc_by(2)));
            }
        });
        tally.inc();
        assert_eq!(tally.sum(), 3 * PLACES as u64 * 2_000 + 1);
        let used = tally.0.iter().filter(|place| place.0.load(Ordering::Relaxed) > 0).count();
        assert!(used > 1, "all threads counted in one place");
    }
}
