//! Owns the fields of the rows that say who may do what.
//! Must not know: how a password or a token is checked.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Row;
use super::rows::text;
use crate::meta::Table;
use crate::names::{AccountId, AccountName, Digest, ImagePattern, RepositoryId, Role};

/// Somebody who may log in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountRow {
    #[serde(with = "text")]
    pub name: AccountName,
    /// Hashed, in the PHC string format.
    pub password: String,
    /// May do everything.
    #[serde(default)]
    pub admin: bool,
    #[serde(default)]
    pub disabled: bool,
    pub created_ms: u64,
}

impl fmt::Debug for AccountRow {
    /// Leaves out the hash of the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccountRow")
            .field("name", &self.name)
            .field("admin", &self.admin)
            .field("disabled", &self.disabled)
            .finish_non_exhaustive()
    }
}

impl Row for AccountRow {
    const TABLE: Table = Table::Account;
    type Key = AccountId;
}

/// A token that stands for an account, or for nobody but itself. The key is the token's digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessTokenRow {
    /// What it is for, in the words of whoever made it.
    pub name: String,
    /// The number of the account; `None`: its scopes are all it may.
    pub account: Option<u64>,
    /// Of an account: none means all that the account may.
    #[serde(default)]
    pub scopes: Vec<ScopeRow>,
    pub created_ms: u64,
    /// `None`: it lasts until it is revoked.
    pub expires_ms: Option<u64>,
}

/// What a token may do with some images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScopeRow {
    /// Number 0 is every repository.
    pub repository: u64,
    #[serde(with = "text")]
    pub images: ImagePattern,
    #[serde(with = "text")]
    pub role: Role,
}

impl Row for AccessTokenRow {
    const TABLE: Table = Table::AccessToken;
    type Key = Digest;
}

/// What an account may do with some images of a repository. Number 0 is every repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantRow {
    #[serde(with = "text")]
    pub role: Role,
}

impl Row for GrantRow {
    const TABLE: Table = Table::Grant;
    type Key = (AccountId, RepositoryId, ImagePattern);
}
