//! Owns the time-outs that the HTTP library sets for each request of a connection, and that are hardly ever reached.
//! One timer serves them all: it is set anew when it fires, not at each request. Must not know: what they are for.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};

/// For one connection.
#[derive(Clone, Debug, Default)]
pub struct Seldom(Arc<Mutex<Option<Armed>>>);

/// The one timer. It fires no later than any deadline that was waited for last.
#[derive(Debug)]
struct Armed {
    timer: Pin<Box<tokio::time::Sleep>>,
    /// Whom it wakes.
    waker: Waker,
}

impl Timer for Seldom {
    #[expect(clippy::disallowed_methods, reason = "the library reckons deadlines in the runtime's time")]
    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, at: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(Deadline { at: at.into(), seldom: self.clone() })
    }
}

struct Deadline {
    at: tokio::time::Instant,
    seldom: Seldom,
}

impl Sleep for Deadline {}

impl Future for Deadline {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut armed = self.seldom.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Armed { timer, waker } = armed.get_or_insert_with(|| Armed {
            timer: Box::pin(tokio::time::sleep_until(self.at)),
            waker: Waker::noop().clone(),
        });
        // It will fire, early perhaps, and wake this task: that is all there is to do.
        if !timer.is_elapsed() && timer.deadline() <= self.at && waker.will_wake(cx.waker()) {
            return Poll::Pending;
        }
        loop {
            if timer.deadline() > self.at {
                timer.as_mut().reset(self.at);
            }
            if timer.as_mut().poll(cx).is_pending() {
                waker.clone_from(cx.waker());
                return Poll::Pending;
            }
            if timer.deadline() >= self.at {
                return Poll::Ready(());
            }
            timer.as_mut().reset(self.at);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, timeout};

    use super::*;

    const IDLE: Duration = Duration::from_secs(75);
    const NO_TIME: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn a_deadline_is_reached_in_its_time_however_many_came_before() {
        let seldom = Seldom::default();
        for _ in 0..100 {
            let mut waiting = seldom.sleep(IDLE);
            assert!(timeout(Duration::from_secs(10), waiting.as_mut()).await.is_err());
        }
        let start = seldom.now();
        seldom.sleep(IDLE).await;
        let waited = seldom.now() - start;
        assert!(IDLE <= waited && waited <= IDLE + NO_TIME, "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_deadline_is_not_held_up_by_a_later_one() {
        let seldom = Seldom::default();
        let mut late = seldom.sleep(IDLE * 100);
        assert!(timeout(IDLE, late.as_mut()).await.is_err());
        let start = seldom.now();
        seldom.sleep(IDLE).await;
        let waited = seldom.now() - start;
        assert!(waited <= IDLE + NO_TIME, "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_past_is_reached_at_once() {
        let seldom = Seldom::default();
        let mut early = seldom.sleep(IDLE);
        advance(IDLE * 2).await;
        early.as_mut().await;
        let mut past = seldom.sleep_until(seldom.now() - IDLE);
        past.as_mut().await;
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_now_is_woken() {
        let seldom = Seldom::default();
        let mut other = seldom.sleep(IDLE);
        assert!(other.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        timeout(IDLE * 2, seldom.sleep(IDLE)).await.expect("in its time");
    }
}
