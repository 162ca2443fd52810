//! Owns making, listing, showing, changing and deleting repositories.
//! Must not know: how they are stored, which fields there are (`form` does).

use std::sync::Arc;

use http::StatusCode;
use http::header::LOCATION;
use serde_json::json;

use super::error::ApiError;
use crate::engine::{Engine, Principal, Repository};
use crate::form::{RepositoryForm, Shown};
use crate::names::RepositoryName;
use crate::reply::Reply;

/// All to administrators, to others those that they manage.
pub(super) fn list(engine: &Engine, caller: &Principal) -> Reply {
    let mut repositories = engine.repositories().list();
    repositories.retain(|repository| caller.manages(repository.id));
    let shown: Vec<Shown<'_>> =
        repositories.iter().map(|repository| Shown::from(repository.as_ref())).collect();
    Reply::json(StatusCode::OK, &json!({ "repositories": shown }))
}

pub(super) async fn create(engine: &Engine, body: &[u8]) -> Result<Reply, ApiError> {
    let (name, spec) = RepositoryForm::from_json(body)?.create()?;
    let made = engine.repositories().create(name, spec).await?;
    let location = format!("/api/repository/{}", made.name);
    Ok(Reply::json(StatusCode::CREATED, &Shown::from(made.as_ref())).with_header(LOCATION, &location))
}

pub(super) fn show(engine: &Engine, name: &RepositoryName) -> Result<Reply, ApiError> {
    let repository = find(engine, name, |_| true)?;
    Ok(Reply::json(StatusCode::OK, &Shown::from(repository.as_ref())))
}

pub(super) async fn change(engine: &Engine, name: &RepositoryName, body: &[u8]) -> Result<Reply, ApiError> {
    let current = find(engine, name, |_| true)?;
    let spec = RepositoryForm::from_json(body)?.change(&current)?;
    let changed = engine.update_repository(name, spec).await?;
    Ok(Reply::json(StatusCode::OK, &Shown::from(changed.as_ref())))
}

pub(super) async fn delete(engine: &Engine, name: &RepositoryName, purge: bool) -> Result<Reply, ApiError> {
    find(engine, name, |_| true)?;
    engine.delete_repository(name, purge).await?;
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

/// Finds a repository among those that `known` lets through; the others are not there.
pub(super) fn find(
    engine: &Engine,
    name: &RepositoryName,
    known: impl Fn(&Repository) -> bool,
) -> Result<Arc<Repository>, ApiError> {
    engine.repositories().by_name(name.as_str()).filter(|found| known(found)).ok_or_else(|| {
        let all = engine.repositories().list();
        let names: Vec<String> =
            all.iter().filter(|other| known(other)).map(|other| other.name.to_string()).collect();
        let error = ApiError::not_found(format!("there is no repository `{name}`"));
        match names.as_slice() {
            [] => error.with_hint("there is none yet; POST /api/repository makes one"),
            _ => error.with_hint(format!("there are {}", names.join(", "))),
        }
    })
}
