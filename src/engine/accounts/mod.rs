//! Owns who may log in and what was granted to whom: passwords, access tokens, tickets, grants.
//! Must not know: HTTP, how credentials travel, what a registry's requests are called.

mod attempts;
mod book;
mod change;
mod client;
mod line;
mod password;
mod principal;
mod renumber;
mod ticket;
mod verified;

pub use book::{AccessToken, Account, Grant};
pub use change::{AccountChange, NewAccount, NewToken};
pub use principal::{Access, Identity, Limit, Principal};
pub use ticket::{LIFETIME as TICKET_LIFETIME, TicketFault};

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::Mutex;

use super::model::{EngineError, ErrorKind};
use crate::clock::{Clock, UnixMillis};
use crate::meta::{
    AccessTokenRow, AccountRow, Batch, Durability, GrantRow, Meta, MetaError, MetaExt as _, ScopeRow,
    SettingKey, SettingRow,
};
use crate::names::{AccountId, AccountName, Algorithm, Digest, RepositoryId};
use crate::telemetry::Metrics;
use attempts::{Attempts, TooMany};
use book::Book;
use client::Client;
use password::{Busy, Passwords};
use ticket::{Subject, Tickets};
use verified::Verified;

/// What every access token begins with, so that people and scanners of leaked secrets know one.
pub const TOKEN_PREFIX: &str = "brt_";
/// Stands for every repository in rows; numbers of repositories begin with 1.
const EVERY: RepositoryId = RepositoryId(0);

/// Everybody who may log in.
pub struct Accounts {
    book: ArcSwap<Book>,
    /// Held by the one change under way.
    changing: Mutex<()>,
    meta: Arc<dyn Meta>,
    clock: Clock,
    passwords: Passwords,
    attempts: Attempts,
    verified: Verified,
    tickets: Tickets,
}

/// Why somebody is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogInFault {
    #[error("the user name or the password is wrong")]
    Wrong,
    #[error("too many attempts to log in as this user; try again in a moment")]
    TooMany { retry_after: Duration },
    #[error("too many log-ins at once; try again in a moment")]
    Busy,
}

/// A ticket as it is handed out.
#[derive(Clone, Debug)]
pub struct Ticket {
    pub text: String,
    pub issued: UnixMillis,
}

impl Accounts {
    /// Reads all accounts, and makes the key for tickets where there is none yet.
    pub(super) async fn load(
        meta: &Arc<dyn Meta>,
        clock: &Clock,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, EngineError> {
        let (for_rows, for_fingerprints) = (random()?, random()?);
        Ok(Self {
            book: ArcSwap::from_pointee(read(meta)?),
            changing: Mutex::new(()),
            tickets: Tickets::new(&ticket_key(meta).await?),
            meta: Arc::clone(meta),
            passwords: Passwords::new(Arc::clone(metrics)),
            attempts: Attempts::new(clock.clone(), for_rows),
            verified: Verified::new(clock.clone(), for_fingerprints),
            clock: clock.clone(),
        })
    }

    /// Nobody can log in.
    pub fn is_empty(&self) -> bool {
        self.book.load().is_empty()
    }

    /// All accounts, by name.
    pub fn list(&self) -> Vec<Arc<Account>> {
        self.book.load().accounts().cloned().collect()
    }

    pub fn find(&self, name: &AccountName) -> Option<Arc<Account>> {
        self.book.load().by_name(name).cloned()
    }

    pub fn by_id(&self, id: AccountId) -> Option<Arc<Account>> {
        self.book.load().by_id(id).cloned()
    }

    /// All access tokens, the oldest first.
    pub fn tokens(&self) -> Vec<Arc<AccessToken>> {
        let mut all: Vec<_> = self.book.load().tokens().map(|(_, token)| Arc::clone(token)).collect();
        all.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        all
    }

    /// Checks a user name and password; an access token in the password's place will do, whatever the name.
    /// Slowed down by wrong attempts for the same name from the same address; and where more come than can be checked,
    /// the addresses take turns.
    pub async fn log_in(
        &self,
        user: &[u8],
        password: &[u8],
        from: Option<IpAddr>,
    ) -> Result<Principal, LogInFault> {
        if let Some(principal) = str::from_utf8(password).ok().and_then(|text| self.by_token(text)) {
            return Ok(principal);
        }
        let fingerprint = self.verified.fingerprint(user, password);
        if let Some(account) = self.verified(&fingerprint) {
            return Ok(Principal::Account(account));
        }
        let client = Client::of(from);
        let attempt = self.attempts.enter(user, client).await?;
        // Whoever had the turn before may have sent the same.
        if let Some(account) = self.verified(&fingerprint) {
            attempt.was_right();
            return Ok(Principal::Account(account));
        }
        let account =
            str::from_utf8(user).ok().and_then(|name| name.parse().ok()).and_then(|name| self.find(&name));
        let stored = account.as_ref().map(|account| account.password.clone());
        let right = match self.passwords.verify(client, stored, password.to_vec()).await {
            Ok(right) => right,
            Err(Busy) => {
                attempt.was_not_made();
                return Err(LogInFault::Busy);
            }
        };
        match account {
            Some(account) if right && !account.disabled => {
                attempt.was_right();
                self.verified.remember(fingerprint, &account);
                Ok(Principal::Account(account))
            }
            account => {
                // A name that nobody has may be a password in the wrong place: it is not logged.
                let user = account.as_ref().map(|account| account.name.as_str());
                tracing::info!(user, client = from.map(tracing::field::display), "a log-in failed");
                Err(LogInFault::Wrong)
            }
        }
    }

    /// Who an access token stands for.
    pub fn by_token(&self, text: &str) -> Option<Principal> {
        if !text.starts_with(TOKEN_PREFIX) {
            return None;
        }
        let book = self.book.load();
        let token = book.token(&token_digest(text))?;
        self.principal(&book, token)
    }

    /// A ticket for what `limit` says. The operator's names nobody: it has no account to look at later.
    pub fn issue(&self, principal: &Principal, limit: &Limit) -> Result<Ticket, EngineError> {
        let subject = match principal {
            Principal::Anonymous | Principal::Operator => Subject::Anonymous,
            Principal::Account(account) => Subject::Account(account.id),
            Principal::Token { token, .. } => Subject::Token(token.id.clone()),
        };
        let issued = self.clock.wall();
        let text = self.tickets.issue(&subject, limit, issued).map_err(|error| {
            tracing::error!(%error, "a ticket cannot be signed");
            EngineError::new(ErrorKind::Internal, "the token cannot be signed")
        })?;
        Ok(Ticket { text, issued })
    }

    /// Whose ticket it is and what for. Somebody who was removed since, or disabled, holds nothing.
    pub fn redeem(&self, ticket: &str) -> Result<Identity, TicketFault> {
        let (subject, limit) = self.tickets.redeem(ticket, self.clock.wall())?;
        let book = self.book.load();
        let principal = match subject {
            Subject::Anonymous => Some(Principal::Anonymous),
            Subject::Account(id) => {
                let enabled = book.by_id(id).filter(|account| !account.disabled);
                enabled.map(|account| Principal::Account(Arc::clone(account)))
            }
            Subject::Token(id) => book.token_by_id(&id).and_then(|(_, token)| self.principal(&book, token)),
        };
        Ok(Identity { principal: principal.ok_or(TicketFault::Foreign)?, limit: Some(limit) })
    }

    fn principal(&self, book: &Book, token: &Arc<AccessToken>) -> Option<Principal> {
        if token.is_expired(self.clock.wall()) {
            return None;
        }
        let owner = match token.owner {
            None => None,
            Some(id) => Some(Arc::clone(book.by_id(id).filter(|owner| !owner.disabled)?)),
        };
        Some(Principal::Token { token: Arc::clone(token), owner })
    }

    /// Who sent the same name and password a moment ago, unless anything about the account changed since.
    fn verified(&self, fingerprint: &verified::Fingerprint) -> Option<Arc<Account>> {
        let known = self.verified.recall(fingerprint)?;
        let current = self.by_id(known.id)?;
        Arc::ptr_eq(&known, &current).then_some(current)
    }
}

impl From<TooMany> for LogInFault {
    fn from(TooMany { retry_after }: TooMany) -> Self {
        Self::TooMany { retry_after }
    }
}

fn token_digest(text: &str) -> Digest {
    Digest::of(Algorithm::Sha256, text.as_bytes())
}

/// What people call a token: enough of its digest to tell it from all others.
fn token_id(digest: &Digest) -> String {
    let text = digest.to_string();
    let (_, hex) = text.split_once(':').unwrap_or_default();
    hex.chars().take(12).collect()
}

fn random<const N: usize>() -> Result<[u8; N], EngineError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| {
        tracing::error!(%error, "the system gives no random numbers");
        EngineError::new(ErrorKind::Internal, "the system gives no random numbers")
    })?;
    Ok(bytes)
}

/// The key of earlier runs, so that a restart ends no push that is under way.
async fn ticket_key(meta: &Arc<dyn Meta>) -> Result<Vec<u8>, EngineError> {
    let stored = meta.get::<SettingRow>(&SettingKey::TICKET_KEY)?;
    let known =
        stored.and_then(|row| STANDARD.decode(row.value.as_str()?).ok()).filter(|key| key.len() == 32);
    if let Some(key) = known {
        return Ok(key);
    }
    let key: [u8; 32] = random()?;
    let mut batch = Batch::new(Durability::Durable);
    batch.put(&SettingKey::TICKET_KEY, &SettingRow { value: STANDARD.encode(key).into() });
    meta.apply(batch).await?;
    Ok(key.to_vec())
}

fn read(meta: &Arc<dyn Meta>) -> Result<Book, MetaError> {
    let mut book = Book::default();
    meta.each::<AccountRow, MetaError>(&(), |id, row| {
        let mut grants = Vec::new();
        for ((_, repository, images), row) in meta.scan::<GrantRow>(&id, None, change::MOST_GRANTS)? {
            grants.push(Grant { repository: repository_of(repository), images, role: row.role });
        }
        book.enter(Account {
            id,
            name: row.name,
            admin: row.admin,
            disabled: row.disabled,
            created: UnixMillis(row.created_ms),
            grants,
            password: row.password,
        });
        Ok(())
    })?;
    meta.each::<AccessTokenRow, MetaError>(&(), |digest, row| {
        let scope = |scope: ScopeRow| Grant {
            repository: repository_of(RepositoryId(scope.repository)),
            images: scope.images,
            role: scope.role,
        };
        let token = AccessToken {
            id: token_id(&digest),
            name: row.name,
            owner: row.account.map(AccountId),
            scopes: row.scopes.into_iter().map(scope).collect(),
            created: UnixMillis(row.created_ms),
            expires: row.expires_ms.map(UnixMillis),
        };
        book.enter_token(digest, token);
        Ok(())
    })?;
    Ok(book)
}

fn repository_of(id: RepositoryId) -> Option<RepositoryId> {
    (id != EVERY).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::{Options, RedbMeta};

    /// A password that nobody looked at was not wrong: who could not be asked for a while is not slowed down then.
    #[tokio::test(start_paused = true)]
    async fn who_is_sent_away_unheard_has_not_guessed() {
        let dir = tempfile::tempdir().expect("a directory");
        let (meta, _) = RedbMeta::open(&dir.path().join("meta.redb"), Options::default()).expect("metadata");
        let (meta, clock): (Arc<dyn Meta>, _) = (Arc::new(meta), Clock::new());
        let mut accounts = Accounts::load(&meta, &clock, &Metrics::new()).await.expect("no accounts");
        accounts.passwords = Passwords::busy();
        let start = clock.now();
        for _ in 0..10 {
            let answer = accounts.log_in(b"bob", b"a password", "192.0.2.1".parse().ok()).await;
            assert_eq!(answer.err(), Some(LogInFault::Busy));
        }
        assert_eq!(clock.now().since(start), Duration::ZERO);
    }
}
