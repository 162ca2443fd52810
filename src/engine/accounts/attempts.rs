//! Owns the slowing down of guesses: for each user name and client address, one attempt after the other, and
//! after a few wrong ones with a growing pause between. Must not know: what is guessed, and who is right.
//!
//! Somebody else's wrong guesses cost nobody anything: another user behind the same address, or the same user
//! elsewhere, has a row of their own. What needs no guess (a token, a password that was right a moment ago) never
//! comes here.

use std::sync::Arc;
use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use quick_cache::sync::Cache;
use sha2::Sha256;
use tokio::sync::{Mutex, OwnedMutexGuard, Semaphore};

use super::client::Client;
use crate::clock::{Clock, Millis};

/// Rows that are remembered: some 200 bytes each. Whoever pushes another's out had to guess that often.
const MOST_ROWS: usize = 10_000;
/// Wrong attempts without any pause: a person mistypes.
const FREE: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Well below the 15 s after which docker gives up.
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// After so long without an attempt all is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(15 * 60);
/// Attempts that may wait in a row; further ones are sent away.
const MOST_WAITING: usize = 8;

/// Too many attempts wait in this row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooMany {
    pub retry_after: Duration,
}

type RowKey = [u8; 32];

pub(super) struct Attempts {
    rows: Cache<RowKey, Arc<Row>>,
    /// Rows are found by a keyed hash: user names may be long, and chosen to collide.
    key: RowKey,
    clock: Clock,
}

struct Row {
    places: Semaphore,
    turn: Arc<Mutex<Turn>>,
}

#[derive(Debug, Default)]
struct Turn {
    wrong: u32,
    last: Millis,
}

/// The right to try once. Counts as wrong unless it is said how it ended, so that hanging up is no way around.
#[derive(Debug)]
pub(super) struct Attempt {
    turn: OwnedMutexGuard<Turn>,
    end: End,
    clock: Clock,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Wrong,
    Right,
    NotMade,
}

impl Attempt {
    pub fn was_right(mut self) {
        self.end = End::Right;
    }

    /// Nothing was looked at: it is as if it had not been.
    pub fn was_not_made(mut self) {
        self.end = End::NotMade;
    }
}

impl Drop for Attempt {
    /// The pause begins at the end of the attempt.
    fn drop(&mut self) {
        self.turn.wrong = match self.end {
            End::Wrong => self.turn.wrong.saturating_add(1),
            End::Right => 0,
            End::NotMade => return,
        };
        self.turn.last = self.clock.now();
    }
}

impl Attempts {
    pub fn new(clock: Clock, key: RowKey) -> Self {
        Self { rows: Cache::new(MOST_ROWS), key, clock }
    }

    /// Waits for this attempt's turn.
    pub async fn enter(&self, user: &[u8], from: Client) -> Result<Attempt, TooMany> {
        let row = self.row(user, from);
        let _place = row.places.try_acquire().map_err(|_| TooMany { retry_after: LONGEST_PAUSE })?;
        let mut turn = Arc::clone(&row.turn).lock_owned().await;
        if self.clock.now().since(turn.last) > FORGOTTEN {
            turn.wrong = 0;
        }
        self.clock.sleep_until(turn.last.after(pause(turn.wrong))).await;
        Ok(Attempt { turn, end: End::Wrong, clock: self.clock.clone() })
    }

    fn row(&self, user: &[u8], from: Client) -> Arc<Row> {
        let key = row_key(&self.key, user, from);
        let made = self.rows.get_or_insert_with(&key, || {
            let row = Row { places: Semaphore::new(MOST_WAITING), turn: Arc::default() };
            Ok::<_, std::convert::Infallible>(Arc::new(row))
        });
        match made {
            Ok(row) => row,
            Err(never) => match never {},
        }
    }
}

fn pause(wrong: u32) -> Duration {
    match wrong.checked_sub(FREE) {
        None => Duration::ZERO,
        Some(more) => FIRST_PAUSE.saturating_mul(1 << more.min(8)).min(LONGEST_PAUSE),
    }
}

fn row_key(key: &RowKey, user: &[u8], from: Client) -> RowKey {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    match from {
        Client::House => mac.update(b"-"),
        Client::V4(address) => mac.update(&address.octets()),
        Client::V6(network) => mac.update(&network),
    }
    mac.update(b"/");
    mac.update(user);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempts() -> Attempts {
        Attempts::new(Clock::new(), [7; 32])
    }

    fn client(text: &str) -> Client {
        Client::of(Some(text.parse().expect("an address")))
    }

    async fn seconds(attempts: &Attempts, user: &[u8], from: &str) -> u64 {
        let start = attempts.clock.now();
        drop(attempts.enter(user, client(from)).await.expect("a turn"));
        attempts.clock.now().since(start).as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn wrong_attempts_get_slower_and_nobody_else_does() {
        let attempts = attempts();
        let mut waits = Vec::new();
        for _ in 0..9 {
            waits.push(seconds(&attempts, b"bob", "192.0.2.1").await);
        }
        assert_eq!(waits, [0, 0, 0, 1, 2, 4, 8, 8, 8]);
        assert_eq!(seconds(&attempts, b"alice", "192.0.2.1").await, 0, "another user behind the same proxy");
        assert_eq!(seconds(&attempts, b"bob", "192.0.2.2").await, 0, "the same user elsewhere");
        tokio::time::sleep(FORGOTTEN + Duration::from_secs(1)).await;
        assert_eq!(seconds(&attempts, b"bob", "192.0.2.1").await, 0, "forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn a_right_attempt_ends_the_pauses() {
        let attempts = attempts();
        for _ in 0..6 {
            seconds(&attempts, b"bob", "192.0.2.1").await;
        }
        attempts.enter(b"bob", client("192.0.2.1")).await.expect("a turn").was_right();
        assert_eq!(seconds(&attempts, b"bob", "192.0.2.1").await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_at_once_take_turns_and_too_many_are_sent_away() {
        let attempts = Arc::new(attempts());
        let held = attempts.enter(b"bob", Client::House).await.expect("a turn");
        let mut queued = tokio::task::JoinSet::new();
        for _ in 0..MOST_WAITING + 2 {
            let attempts = Arc::clone(&attempts);
            queued.spawn(async move { attempts.enter(b"bob", Client::House).await.map(drop) });
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(held);
        let answers = queued.join_all().await;
        let sent_away = answers.iter().filter(|answer| answer.is_err()).count();
        assert_eq!(sent_away, 2, "{answers:?}");
    }

    /// The server had no time for it: whoever is right after that is let in at once.
    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_was_not_made_costs_no_pause() {
        let attempts = attempts();
        for _ in 0..20 {
            attempts.enter(b"bob", client("192.0.2.1")).await.expect("a turn").was_not_made();
        }
        for _ in 0..FREE {
            assert_eq!(seconds(&attempts, b"bob", "192.0.2.1").await, 0);
        }
        // Nor does it end the pause that there is.
        attempts.enter(b"bob", client("192.0.2.1")).await.expect("a turn").was_not_made();
        assert_eq!(seconds(&attempts, b"bob", "192.0.2.1").await, 0, "waited for already");
        assert_eq!(seconds(&attempts, b"bob", "192.0.2.1").await, 2);
    }

    #[test]
    fn a_row_is_of_one_user_at_one_client() {
        let key = |text| row_key(&[1; 32], b"bob", client(text));
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:1"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
        assert_ne!(row_key(&[1; 32], b"bob", Client::House), row_key(&[1; 32], b"bo", Client::House));
    }
}
