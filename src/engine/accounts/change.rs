//! Owns changing accounts, grants and access tokens: one change at a time, in the metadata first.
//! Must not know: who asks for a change, and whether they may.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::book::{AccessToken, Account, Book, Grant};
use super::{Accounts, EVERY, TOKEN_PREFIX, password::Busy, random, token_digest, token_id};
use crate::clock::UnixMillis;
use crate::engine::model::{EngineError, ErrorKind};
use crate::engine::repository::Secret;
use crate::meta::{
    AccessTokenRow, AccountRow, Batch, Durability, GrantRow, MetaExt as _, ScopeRow, SettingKey, SettingRow,
};
use crate::names::{AccountId, AccountName, Digest, ImagePattern, RepositoryId};

/// Grants of one account; each request looks at them all.
pub(super) const MOST_GRANTS: usize = 1_000;
const MOST_SCOPES: usize = 64;
const SHORTEST_PASSWORD: usize = 8;
const LONGEST_PASSWORD: usize = 1_024;
const LONGEST_TOKEN_NAME: usize = 100;

/// An account to be made.
#[derive(Clone, Debug)]
pub struct NewAccount {
    pub name: AccountName,
    pub password: Secret,
    pub admin: bool,
}

/// What is to become of an account; `None` stays as it is.
#[derive(Clone, Debug, Default)]
pub struct AccountChange {
    pub password: Option<Secret>,
    pub admin: Option<bool>,
    pub disabled: Option<bool>,
}

/// An access token to be made.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// What it is for.
    pub name: String,
    /// `None`: it stands for itself, and may what its scopes say.
    pub owner: Option<AccountName>,
    pub scopes: Vec<Grant>,
    /// How long it lasts.
    pub lifetime: Option<Duration>,
}

impl Accounts {
    pub async fn create(&self, new: NewAccount) -> Result<Arc<Account>, EngineError> {
        let password = self.hash(&new.password).await?;
        let _one_at_a_time = self.changing.lock().await;
        if self.find(&new.name).is_some() {
            return Err(EngineError::new(
                ErrorKind::Conflict,
                format!("there is a user {} already", new.name),
            ));
        }
        let key = SettingKey::NEXT_ACCOUNT_ID;
        let next = self.meta.get::<SettingRow>(&key)?.and_then(|row| row.value.as_u64()).unwrap_or(1);
        let account = Account {
            id: AccountId(next),
            name: new.name,
            admin: new.admin,
            disabled: false,
            created: self.clock.wall(),
            grants: Vec::new(),
            password,
        };
        let mut batch = Batch::new(Durability::Durable);
        batch.put(&key, &SettingRow { value: (next + 1).into() }).put(&account.id, &row(&account));
        self.meta.apply(batch).await?;
        Ok(self.enter(account))
    }

    pub async fn change(
        &self,
        name: &AccountName,
        change: AccountChange,
    ) -> Result<Arc<Account>, EngineError> {
        let password = match &change.password {
            Some(password) => Some(self.hash(password).await?),
            None => None,
        };
        let _one_at_a_time = self.changing.lock().await;
        let old = self.known(name)?;
        let account = Account {
            admin: change.admin.unwrap_or(old.admin),
            disabled: change.disabled.unwrap_or(old.disabled),
            password: password.unwrap_or_else(|| old.password.clone()),
            ..Account::clone(&old)
        };
        let mut batch = Batch::new(Durability::Durable);
        batch.put(&account.id, &row(&account));
        self.meta.apply(batch).await?;
        Ok(self.enter(account))
    }

    /// Removes an account with its grants and tokens.
    pub async fn remove(&self, name: &AccountName) -> Result<(), EngineError> {
        let _one_at_a_time = self.changing.lock().await;
        let account = self.known(name)?;
        let mut book = Book::clone(&self.book.load());
        let mut batch = Batch::new(Durability::Durable);
        batch.delete::<AccountRow>(&account.id);
        for grant in &account.grants {
            batch.delete::<GrantRow>(&grant_key(account.id, grant));
        }
        for digest in book.strike(&account) {
            batch.delete::<AccessTokenRow>(&digest);
        }
        self.meta.apply(batch).await?;
        self.book.store(Arc::new(book));
        Ok(())
    }

    /// Grants a role, in place of the one that may have been granted for the same images.
    pub async fn grant(&self, name: &AccountName, grant: Grant) -> Result<Arc<Account>, EngineError> {
        let _one_at_a_time = self.changing.lock().await;
        let mut account = Account::clone(&*self.known(name)?);
        account.grants.retain(|other| !same_images(other, grant.repository, &grant.images));
        if account.grants.len() >= MOST_GRANTS {
            let message =
                format!("{name} has {MOST_GRANTS} grants already; a * in a pattern covers many images");
            return Err(EngineError::new(ErrorKind::Conflict, message));
        }
        let mut batch = Batch::new(Durability::Durable);
        batch.put(&grant_key(account.id, &grant), &GrantRow { role: grant.role });
        self.meta.apply(batch).await?;
        account.grants.push(grant);
        Ok(self.enter(account))
    }

    /// Takes a grant back.
    pub async fn take_back(
        &self,
        name: &AccountName,
        repository: Option<RepositoryId>,
        images: &ImagePattern,
    ) -> Result<(), EngineError> {
        let _one_at_a_time = self.changing.lock().await;
        let mut account = Account::clone(&*self.known(name)?);
        let Some(at) = account.grants.iter().position(|grant| same_images(grant, repository, images)) else {
            let message = format!("{name} was granted nothing for exactly these images");
            return Err(EngineError::new(ErrorKind::NameUnknown, message));
        };
        let grant = account.grants.remove(at);
        let mut batch = Batch::new(Durability::Durable);
        batch.delete::<GrantRow>(&grant_key(account.id, &grant));
        self.meta.apply(batch).await?;
        self.enter(account);
        Ok(())
    }

    /// Makes an access token. Its text is told this once, and only its digest is kept.
    pub async fn create_token(&self, new: NewToken) -> Result<(Arc<AccessToken>, Secret), EngineError> {
        check_token(&new)?;
        let _one_at_a_time = self.changing.lock().await;
        let owner = new.owner.as_ref().map(|name| self.known(name)).transpose()?;
        let (text, digest) = self.new_token_text()?;
        let created = self.clock.wall();
        let expires = new.lifetime.map(|span| {
            UnixMillis(created.0.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
        });
        let token = AccessToken {
            id: token_id(&digest),
            name: new.name,
            owner: owner.map(|owner| owner.id),
            scopes: new.scopes,
            created,
            expires,
        };
        let mut batch = Batch::new(Durability::Durable);
        batch.put(&digest, &token_row(&token));
        self.meta.apply(batch).await?;
        let mut book = Book::clone(&self.book.load());
        let token = book.enter_token(digest, token);
        self.book.store(Arc::new(book));
        Ok((token, Secret::new(text)))
    }

    pub async fn revoke_token(&self, id: &str) -> Result<(), EngineError> {
        let _one_at_a_time = self.changing.lock().await;
        let mut book = Book::clone(&self.book.load());
        let Some(digest) = book.token_by_id(id).map(|(digest, _)| *digest) else {
            return Err(EngineError::new(ErrorKind::NameUnknown, format!("there is no token {id}")));
        };
        let mut batch = Batch::new(Durability::Durable);
        batch.delete::<AccessTokenRow>(&digest);
        self.meta.apply(batch).await?;
        book.strike_token(&digest);
        self.book.store(Arc::new(book));
        Ok(())
    }

    fn enter(&self, account: Account) -> Arc<Account> {
        let mut book = Book::clone(&self.book.load());
        let account = book.enter(account);
        self.book.store(Arc::new(book));
        account
    }

    fn known(&self, name: &AccountName) -> Result<Arc<Account>, EngineError> {
        let unknown = || EngineError::new(ErrorKind::NameUnknown, format!("there is no user {name}"));
        self.find(name).ok_or_else(unknown)
    }

    /// Whose id nobody has yet.
    fn new_token_text(&self) -> Result<(String, Digest), EngineError> {
        loop {
            let random: [u8; 24] = random()?;
            let text = format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(random));
            let digest = token_digest(&text);
            if self.book.load().token_by_id(&token_id(&digest)).is_none() {
                return Ok((text, digest));
            }
        }
    }

    async fn hash(&self, password: &Secret) -> Result<String, EngineError> {
        let text = password.expose();
        if let Some(message) = password_fault(text) {
            return Err(invalid("password", message));
        }
        match self.passwords.hash(text.as_bytes().to_vec()).await {
            Ok(Some(hash)) => Ok(hash),
            Ok(None) => Err(EngineError::new(ErrorKind::Internal, "the password cannot be hashed")),
            Err(Busy) => Err(EngineError::new(ErrorKind::Overloaded, "too many log-ins at once; try again")),
        }
    }
}

fn password_fault(text: &str) -> Option<String> {
    if text.len() < SHORTEST_PASSWORD {
        Some(format!("is too short: at least {SHORTEST_PASSWORD} characters"))
    } else if text.len() > LONGEST_PASSWORD {
        Some(format!("is too long: at most {LONGEST_PASSWORD} bytes"))
    } else if text.starts_with(TOKEN_PREFIX) {
        Some(format!("begins with {TOKEN_PREFIX}, as access tokens do"))
    } else {
        None
    }
}

fn check_token(new: &NewToken) -> Result<(), EngineError> {
    let name = &new.name;
    if name.is_empty() || name.len() > LONGEST_TOKEN_NAME || name.chars().any(char::is_control) {
        let message =
            format!("is a text of at most {LONGEST_TOKEN_NAME} bytes that says what the token is for");
        return Err(invalid("name", message));
    }
    if new.scopes.len() > MOST_SCOPES {
        return Err(invalid("scopes", format!("has more than {MOST_SCOPES} entries")));
    }
    if new.owner.is_none() && new.scopes.is_empty() {
        return Err(invalid(
            "scopes",
            "a token of no user needs a scope: it may what its scopes say".to_owned(),
        ));
    }
    if new.lifetime == Some(Duration::ZERO) {
        return Err(invalid("expires", "is over at once".to_owned()));
    }
    Ok(())
}

fn invalid(field: &str, message: String) -> EngineError {
    EngineError::new(ErrorKind::Invalid { field: field.to_owned() }, message)
}

fn same_images(grant: &Grant, repository: Option<RepositoryId>, images: &ImagePattern) -> bool {
    grant.repository == repository && grant.images == *images
}

pub(super) fn grant_key(account: AccountId, grant: &Grant) -> (AccountId, RepositoryId, ImagePattern) {
    (account, grant.repository.unwrap_or(EVERY), grant.images.clone())
}

fn row(account: &Account) -> AccountRow {
    AccountRow {
        name: account.name.clone(),
        password: account.password.clone(),
        admin: account.admin,
        disabled: account.disabled,
        created_ms: account.created.0,
    }
}

pub(super) fn token_row(token: &AccessToken) -> AccessTokenRow {
    let scope = |scope: &Grant| ScopeRow {
        repository: scope.repository.unwrap_or(EVERY).0,
        images: scope.images.clone(),
        role: scope.role,
    };
    AccessTokenRow {
        name: token.name.clone(),
        account: token.owner.map(|owner| owner.0),
        scopes: token.scopes.iter().map(scope).collect(),
        created_ms: token.created.0,
        expires_ms: token.expires.map(|end| end.0),
    }
}
