//! Owns all accounts, grants and access tokens as they are at one moment: a value that readers share.
//! Must not know: how it is stored, and how it changes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::clock::UnixMillis;
use crate::names::{AccountId, AccountName, Digest, ImageName, ImagePattern, RepositoryId, Role};

/// Somebody who may log in. Any change makes a new value, so that whoever holds an old one can tell.
#[derive(Clone, PartialEq, Eq)]
pub struct Account {
    pub id: AccountId,
    pub name: AccountName,
    pub admin: bool,
    pub disabled: bool,
    pub created: UnixMillis,
    pub grants: Vec<Grant>,
    /// Hashed, in the PHC string format.
    pub(super) password: String,
}

/// What may be done with some images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// `None`: every repository, those to come as well.
    pub repository: Option<RepositoryId>,
    pub images: ImagePattern,
    pub role: Role,
}

/// A token that stands for an account, or for nobody but itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessToken {
    /// The beginning of its digest, by which people name it.
    pub id: String,
    pub name: String,
    pub owner: Option<AccountId>,
    /// Of an account's token: none means all that the account may.
    pub scopes: Vec<Grant>,
    pub created: UnixMillis,
    pub expires: Option<UnixMillis>,
}

impl fmt::Debug for Account {
    /// Leaves out the hash of the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("id", &self.id).field("name", &self.name).finish_non_exhaustive()
    }
}

impl Account {
    pub fn role(&self, repository: RepositoryId, image: &ImageName) -> Option<Role> {
        if self.admin { Some(Role::Admin) } else { role_among(&self.grants, repository, image) }
    }
}

impl Grant {
    pub fn covers(&self, repository: RepositoryId) -> bool {
        self.repository.is_none_or(|own| own == repository)
    }

    pub fn is_for_all(&self) -> bool {
        self.images.as_str() == "*"
    }
}

impl AccessToken {
    pub fn is_expired(&self, now: UnixMillis) -> bool {
        self.expires.is_some_and(|end| end <= now)
    }
}

/// The best role that any of the grants gives.
pub(super) fn role_among(grants: &[Grant], repository: RepositoryId, image: &ImageName) -> Option<Role> {
    let fitting = grants.iter().filter(|grant| grant.covers(repository) && grant.images.matches(image));
    fitting.map(|grant| grant.role).max()
}

/// Everybody. Cloned for each change: a clone costs a pointer for each account and token.
#[derive(Clone, Debug, Default)]
pub(super) struct Book {
    accounts: BTreeMap<AccountId, Arc<Account>>,
    names: BTreeMap<AccountName, AccountId>,
    tokens: BTreeMap<Digest, Arc<AccessToken>>,
}

impl Book {
    pub fn enter(&mut self, account: Account) -> Arc<Account> {
        let account = Arc::new(account);
        self.names.insert(account.name.clone(), account.id);
        self.accounts.insert(account.id, Arc::clone(&account));
        account
    }

    /// Takes the account out, with its tokens; hands back the digests of those.
    pub fn strike(&mut self, account: &Account) -> Vec<Digest> {
        self.accounts.remove(&account.id);
        self.names.remove(&account.name);
        let own = |token: &AccessToken| token.owner == Some(account.id);
        let digests: Vec<Digest> =
            self.tokens.iter().filter(|(_, token)| own(token)).map(|(digest, _)| *digest).collect();
        for digest in &digests {
            self.tokens.remove(digest);
        }
        digests
    }

    pub fn enter_token(&mut self, digest: Digest, token: AccessToken) -> Arc<AccessToken> {
        let token = Arc::new(token);
        self.tokens.insert(digest, Arc::clone(&token));
        token
    }

    pub fn strike_token(&mut self, digest: &Digest) {
        self.tokens.remove(digest);
    }

    /// Nobody can log in.
    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty() && self.tokens.is_empty()
    }

    pub fn by_id(&self, id: AccountId) -> Option<&Arc<Account>> {
        self.accounts.get(&id)
    }

    pub fn by_name(&self, name: &AccountName) -> Option<&Arc<Account>> {
        self.names.get(name).and_then(|id| self.accounts.get(id))
    }

    pub fn token(&self, digest: &Digest) -> Option<&Arc<AccessToken>> {
        self.tokens.get(digest)
    }

    pub fn token_by_id(&self, id: &str) -> Option<(&Digest, &Arc<AccessToken>)> {
        self.tokens.iter().find(|(_, token)| token.id == id)
    }

    /// By name.
    pub fn accounts(&self) -> impl Iterator<Item = &Arc<Account>> {
        self.names.values().filter_map(|id| self.accounts.get(id))
    }

    pub fn tokens(&self) -> impl Iterator<Item = (&Digest, &Arc<AccessToken>)> {
        self.tokens.iter()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn account(id: u64, name: &str, admin: bool, grants: Vec<Grant>) -> Arc<Account> {
        Arc::new(Account {
            id: AccountId(id),
            name: name.parse().expect("a legal name"),
            admin,
            disabled: false,
            created: UnixMillis(0),
            grants,
            password: String::new(),
        })
    }

    #[test]
    fn an_account_goes_with_its_tokens_and_no_others() {
        let mut book = Book::default();
        let ada = book.enter(Account::clone(&account(1, "ada", false, Vec::new())));
        book.enter(Account::clone(&account(2, "bob", false, Vec::new())));
        let digest = |text: &str| Digest::of(crate::names::Algorithm::Sha256, text.as_bytes());
        for (name, owner) in [("a", Some(AccountId(1))), ("b", Some(AccountId(2))), ("robot", None)] {
            let token = AccessToken {
                id: name.into(),
                name: name.into(),
                owner,
                scopes: Vec::new(),
                created: UnixMillis(0),
                expires: None,
            };
            book.enter_token(digest(name), token);
        }
        assert_eq!(book.strike(&ada), [digest("a")]);
        assert!(book.by_id(AccountId(1)).is_none() && book.by_name(&ada.name).is_none());
        let left: Vec<&str> = book.accounts().map(|account| account.name.as_str()).collect();
        assert_eq!(left, ["bob"]);
        assert_eq!(book.tokens().count(), 2);
        assert!(!book.is_empty() && book.token_by_id("robot").is_some() && book.token_by_id("a").is_none());
    }

    #[test]
    fn a_token_ends_at_its_moment() {
        let token = AccessToken {
            id: String::new(),
            name: String::new(),
            owner: None,
            scopes: Vec::new(),
            created: UnixMillis(0),
            expires: Some(UnixMillis(10)),
        };
        assert!(!token.is_expired(UnixMillis(9)) && token.is_expired(UnixMillis(10)));
    }
}
