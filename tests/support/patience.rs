//! Waiting for what comes: by asking again and again, for as long as the slowest machine may take; or by letting time go by.

use std::time::Duration;

use tokio::time::{sleep, timeout};

/// Whoever waits longer than this waits in vain.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(10);

/// What is there at last; the test fails if it never is.
pub async fn found<T>(what: &str, ask: impl AsyncFnMut() -> Option<T>) -> T {
    let found = within(PATIENCE, ask).await;
    found.unwrap_or_else(|| panic!("not within {PATIENCE:?}: {what}"))
}

/// The same without a test that fails: `None` when the patience is over.
pub async fn within<T>(patience: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let asking = async {
        loop {
            if let Some(found) = ask().await {
                return found;
            }
            sleep(PAUSE).await;
        }
    };
    timeout(patience, asking).await.ok()
}

/// As if so much time had gone by, in a test of one thread.
pub async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}
