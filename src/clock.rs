//! Owns the only clock. Everything else is handed one, so that tests run in virtual time.
//! Must not know: who asks, and why.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Milliseconds since this clock was made; never goes backwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub u64);

impl Millis {
    /// This moment and `span` later, at most the end of time.
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long ago `earlier` was; zero where it is not earlier.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// Milliseconds since 1970, for rows and logs only: the wall clock may jump.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMillis(pub u64);

/// Reads the time. In a runtime whose time is paused it stands still with that runtime.
#[derive(Clone, Debug)]
pub struct Clock {
    start: Instant,
    start_wall: UnixMillis,
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "this is the one owner of the clock")]
    pub fn new() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            start: Instant::now(),
            start_wall: UnixMillis(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX)),
        }
    }

    /// Monotonic: unaffected by a wall clock that is set.
    #[expect(clippy::disallowed_methods, reason = "this is the one owner of the clock")]
    pub fn now(&self) -> Millis {
        let passed = Instant::now().saturating_duration_since(self.start);
        Millis(u64::try_from(passed.as_millis()).unwrap_or(u64::MAX))
    }

    /// The wall clock as it was at the start plus the monotonic time passed since.
    pub fn wall(&self) -> UnixMillis {
        UnixMillis(self.start_wall.0.saturating_add(self.now().0))
    }

    /// Completes at `deadline`.
    pub async fn sleep_until(&self, deadline: Millis) {
        tokio::time::sleep_until(self.start + Duration::from_millis(deadline.0)).await;
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}
