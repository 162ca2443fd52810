//! Owns the hashing of passwords, two at a time: each takes 19 MiB and tens of milliseconds of a processor, and
//! pulls go on beside it. Must not know: whose passwords they are.

use std::sync::Arc;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, PasswordHasher, PasswordVerifier};
use tokio::runtime::Handle;

use super::client::Client;
use super::line::{Full, Line};
use crate::telemetry::Metrics;

/// Hashes under way at once.
const AT_ONCE: usize = 2;
/// Four seconds of work, which clients wait for. A password takes 32 KiB at most.
const MOST_WAITING: usize = 256;

/// Too many passwords wait to be hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Busy;

#[derive(Debug)]
pub(super) struct Passwords {
    /// Of the server: who is checked holds one of few places, and must not wait behind one connection's reads.
    runtime: Handle,
    line: Arc<Line>,
    metrics: Arc<Metrics>,
}

impl Passwords {
    /// Hashes on threads of the runtime that this is called in.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { runtime: Handle::current(), line: Line::new(AT_ONCE, MOST_WAITING), metrics }
    }

    /// Has no time for anybody.
    #[cfg(test)]
    pub fn busy() -> Self {
        Self { line: Line::new(0, 0), ..Self::new(Metrics::new()) }
    }

    /// Whether the password is the one that `stored` was made of. Without anything stored it is not, and
    /// finding that out takes as long.
    pub async fn verify(
        &self,
        client: Client,
        stored: Option<String>,
        password: Vec<u8>,
    ) -> Result<bool, Busy> {
        self.run(client, move |metrics| match stored {
            Some(stored) => is_of(&stored, &password, metrics),
            None => {
                waste(&password, metrics);
                false
            }
        })
        .await
    }

    /// In the PHC string format, with a salt of its own.
    pub async fn hash(&self, password: Vec<u8>) -> Result<Option<String>, Busy> {
        self.run(Client::House, move |metrics| match argon2id(metrics).hash_password(&password) {
            Ok(hash) => Some(hash.to_string()),
            Err(error) => {
                tracing::error!(%error, "a password cannot be hashed");
                None
            }
        })
        .await
    }

    /// The place is held until the work is done, even when nobody waits for it any more.
    async fn run<T: Send + 'static>(
        &self,
        client: Client,
        work: impl FnOnce(&Metrics) -> T + Send + 'static,
    ) -> Result<T, Busy> {
        let place = self.line.enter(client).await.map_err(|Full| Busy)?;
        let metrics = Arc::clone(&self.metrics);
        let done = self.runtime.spawn_blocking(move || {
            let _place = place;
            work(&metrics)
        });
        done.await.map_err(|panic| {
            tracing::error!(%panic, "hashing a password panicked");
            Busy
        })
    }
}

/// For one hash. Argon2id with 19 MiB, two passes, one lane: the least that OWASP recommends, and this crate's default.
fn argon2id(metrics: &Metrics) -> Argon2<'static> {
    metrics.password_hashed();
    Argon2::default()
}

fn is_of(stored: &str, password: &[u8], metrics: &Metrics) -> bool {
    match PasswordHash::new(stored) {
        Ok(stored) => argon2id(metrics).verify_password(password, &stored).is_ok(),
        Err(error) => {
            tracing::error!(%error, "a stored password cannot be read; set it anew");
            waste(password, metrics);
            false
        }
    }
}

/// The same work for nobody.
fn waste(password: &[u8], metrics: &Metrics) {
    let mut out = [0; argon2::Params::DEFAULT_OUTPUT_LEN];
    // That it cannot be done is nobody's business: there is nothing to compare with.
    let _ = argon2id(metrics).hash_password_into(password, b"nobody's own salt", &mut out);
    std::hint::black_box(&out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_is_known_by_its_hash_and_nothing_else_is() {
        let passwords = Passwords::new(Metrics::new());
        let odd: [&[u8]; 4] = [b"correct horse", &[b'x'; 1024], b"nul\0inside", &[0xff, 0xfe, b'a']];
        for password in odd {
            let stored = passwords.hash(password.to_vec()).await.expect("not busy").expect("a hash");
            assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{stored}");
            assert_eq!(
                passwords.verify(Client::House, Some(stored.clone()), password.to_vec()).await,
                Ok(true)
            );
            let mut other = password.to_vec();
            other.push(0);
            assert_eq!(passwords.verify(Client::House, Some(stored), other).await, Ok(false));
        }
        for broken in ["", "plain", "$argon2id$v=19$m=19456,t=2,p=1$x"] {
            assert_eq!(passwords.verify(Client::House, Some(broken.into()), b"x".to_vec()).await, Ok(false));
        }
        assert_eq!(passwords.verify(Client::House, None, Vec::new()).await, Ok(false));
    }

    #[tokio::test]
    async fn too_many_at_once_are_sent_away_and_not_kept_waiting() {
        let passwords = Passwords { line: Line::new(1, 0), ..Passwords::new(Metrics::new()) };
        let verify = || passwords.verify(Client::House, None, Vec::new());
        assert_eq!(tokio::join!(verify(), verify()), (Ok(false), Err(Busy)));
        assert_eq!(verify().await, Ok(false));
    }
}
