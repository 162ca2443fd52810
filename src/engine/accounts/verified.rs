//! Owns the memory of passwords that were right a moment ago: clients send them with every request, and hashing
//! each would take a processor. Must not know: how a password is checked.

use std::sync::Arc;
use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use quick_cache::sync::Cache;
use sha2::Sha256;

use super::book::Account;
use crate::clock::{Clock, Millis};

/// Users that are remembered at once.
const MOST: usize = 10_000;
/// How long.
const SPAN: Duration = Duration::from_secs(5 * 60);

/// Finds a user name and password without holding either: an HMAC under a key of this run.
pub(super) type Fingerprint = [u8; 32];

pub(super) struct Verified {
    known: Cache<Fingerprint, (Arc<Account>, Millis)>,
    key: [u8; 32],
    clock: Clock,
}

impl Verified {
    pub fn new(clock: Clock, key: [u8; 32]) -> Self {
        Self { known: Cache::new(MOST), key, clock }
    }

    pub fn fingerprint(&self, user: &[u8], password: &[u8]) -> Fingerprint {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes keys of any length");
        mac.update(&(user.len() as u64).to_be_bytes());
        mac.update(user);
        mac.update(password);
        mac.finalize().into_bytes().into()
    }

    pub fn remember(&self, fingerprint: Fingerprint, account: &Arc<Account>) {
        self.known.insert(fingerprint, (Arc::clone(account), self.clock.now().after(SPAN)));
    }

    /// The account as it was when the password was right. The caller looks whether it is still that.
    pub fn recall(&self, fingerprint: &Fingerprint) -> Option<Arc<Account>> {
        let (account, until) = self.known.get(fingerprint)?;
        if self.clock.now() < until {
            return Some(account);
        }
        self.known.remove(fingerprint);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::accounts::book::tests::account;

    #[tokio::test(start_paused = true)]
    async fn what_was_right_is_remembered_for_a_while_only() {
        let verified = Verified::new(Clock::new(), [3; 32]);
        let ada = account(1, "ada", false, Vec::new());
        let fingerprint = verified.fingerprint(b"ada", b"secret");
        assert!(verified.recall(&fingerprint).is_none());
        verified.remember(fingerprint, &ada);
        tokio::time::sleep(SPAN - Duration::from_secs(1)).await;
        assert!(verified.recall(&fingerprint).is_some_and(|known| Arc::ptr_eq(&known, &ada)));
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(verified.recall(&fingerprint).is_none());
    }

    #[test]
    fn name_and_password_do_not_run_together() {
        let verified = Verified::new(Clock::new(), [3; 32]);
        assert_ne!(verified.fingerprint(b"ab", b"c"), verified.fingerprint(b"a", b"bc"));
        let other = Verified::new(Clock::new(), [4; 32]);
        assert_ne!(verified.fingerprint(b"a", b"b"), other.fingerprint(b"a", b"b"));
    }
}
