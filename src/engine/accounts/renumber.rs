//! Owns what another number of a repository does to the grants in it: part of the very change that gives the number.
//! Must not know: why a repository gets another number.

use std::sync::Arc;

use tokio::sync::MutexGuard;

use super::Accounts;
use super::book::{AccessToken, Account, Book};
use super::change::{grant_key, token_row};
use crate::meta::{Batch, GrantRow};
use crate::names::RepositoryId;

/// Grants as they are once the batch is applied. No other change of accounts happens before this is done or dropped.
pub(in crate::engine) struct Renumbered<'a> {
    accounts: &'a Accounts,
    book: Book,
    _one_at_a_time: MutexGuard<'a, ()>,
}

impl Renumbered<'_> {
    /// The batch has been applied.
    pub fn done(self) {
        self.accounts.book.store(Arc::new(self.book));
    }
}

impl Accounts {
    /// Adds to `batch` what happens to grants as a repository gets another number, being pointed elsewhere: what was
    /// granted in it stays granted. `None`: it is removed, and so are its grants.
    pub(in crate::engine) async fn renumber(
        &self,
        old: RepositoryId,
        new: Option<RepositoryId>,
        batch: &mut Batch,
    ) -> Renumbered<'_> {
        let one_at_a_time = self.changing.lock().await;
        let mut book = Book::clone(&self.book.load());
        for account in self.list() {
            let mut changed = Account::clone(&account);
            changed.grants.retain_mut(|grant| {
                if grant.repository != Some(old) {
                    return true;
                }
                batch.delete::<GrantRow>(&grant_key(account.id, grant));
                grant.repository = new;
                if new.is_some() {
                    batch.put(&grant_key(account.id, grant), &GrantRow { role: grant.role });
                }
                new.is_some()
            });
            if changed != *account {
                book.enter(changed);
            }
        }
        // A removed repository's number stays in the scopes of tokens: without any scope they would be worth more.
        let moved = book.tokens().filter(|_| new.is_some()).filter_map(|(digest, token)| {
            let mut changed = AccessToken::clone(token);
            for scope in changed.scopes.iter_mut().filter(|scope| scope.repository == Some(old)) {
                scope.repository = new;
            }
            (changed != **token).then_some((*digest, changed))
        });
        for (digest, token) in moved.collect::<Vec<_>>() {
            batch.put(&digest, &token_row(&token));
            book.enter_token(digest, token);
        }
        Renumbered { accounts: self, book, _one_at_a_time: one_at_a_time }
    }
}
