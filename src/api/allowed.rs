//! Owns which management action is allowed to whom: everything to administrators; to others what concerns
//! themselves, and the repositories that they were granted `admin` in.
//! Must not know: how an action is performed.

use std::sync::Arc;

use super::error::ApiError;
use super::repository;
use super::route::Action;
use crate::engine::{Account, Engine, Principal, Repository};
use crate::names::{AccountName, RepositoryName};

/// Whether this caller may do this at all. Actions that depend on what is in their body look again there.
pub(super) fn check(engine: &Engine, caller: &Principal, action: &Action) -> Result<(), ApiError> {
    if caller.is_admin() {
        return Ok(());
    }
    match action {
        Action::ShowRepository(name)
        | Action::ListImages { repository: Some(name) }
        | Action::ShowImage { repository: name, .. }
        | Action::RemoveImage { repository: name, .. } => managed(engine, caller, name).map(drop),
        // Lists show what is the caller's.
        Action::ListRepositories | Action::ListTokens { .. } | Action::ListGrants { .. } => Ok(()),
        // The body names a repository.
        Action::Purge | Action::Grant => Ok(()),
        Action::TakeBack { repository: Some(name), .. } => managed(engine, caller, name).map(drop),
        Action::ShowUser(name) | Action::ChangeUser(name) => own(caller, name).map(drop),
        Action::CreateToken | Action::RevokeToken(_) => itself(caller).map(drop),
        Action::CreateRepository
        | Action::ChangeRepository(_)
        | Action::DeleteRepository { .. }
        | Action::ListImages { repository: None }
        | Action::TakeBack { repository: None, .. }
        | Action::ListUsers
        | Action::CreateUser
        | Action::RemoveUser(_)
        | Action::Backup
        | Action::Collect { .. }
        | Action::Scrub
        | Action::StartScrub { .. }
        | Action::StopScrub
        | Action::Status => Err(administrators_only()),
    }
}

pub(super) fn administrators_only() -> ApiError {
    ApiError::forbidden("only an administrator may do this")
}

/// A repository that the caller manages. One that they know nothing of does not exist for them.
pub(super) fn managed(
    engine: &Engine,
    caller: &Principal,
    name: &RepositoryName,
) -> Result<Arc<Repository>, ApiError> {
    let known = |repository: &Repository| caller.knows(repository.id);
    let found = repository::find(engine, name, known)?;
    if caller.manages(found.id) {
        Ok(found)
    } else {
        Err(ApiError::forbidden(format!("this needs the role admin for all images of {name}")))
    }
}

/// The caller's own account, where it came with its password: a token is no way to others, or to more.
pub(super) fn itself(caller: &Principal) -> Result<&Arc<Account>, ApiError> {
    match caller {
        Principal::Account(account) => Ok(account),
        _ => Err(ApiError::forbidden("this needs a log-in with a user name and a password")),
    }
}

fn own<'a>(caller: &'a Principal, name: &AccountName) -> Result<&'a Arc<Account>, ApiError> {
    let account = itself(caller)?;
    if account.name == *name { Ok(account) } else { Err(administrators_only()) }
}
