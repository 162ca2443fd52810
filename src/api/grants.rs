//! Owns granting roles, listing and taking back what was granted.
//! Must not know: what a role allows.

use std::sync::Arc;

use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::allowed::{administrators_only, managed};
use super::body::{self, Form, required};
use super::error::ApiError;
use super::repository;
use crate::engine::{Account, Engine, Grant, Principal};
use crate::names::{AccountName, ImageName, ImagePattern, RepositoryId, RepositoryName, Role};
use crate::reply::Reply;
use crate::text::{Parse, Text};

/// One repository, or `*` for all, those to come as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Where {
    All,
    One(RepositoryName),
}

impl Parse for Where {
    const EXPECTED: &'static str = "a repository, or \"*\" for all";

    fn parse(text: &str) -> Result<Self, String> {
        if text == "*" { Ok(Self::All) } else { RepositoryName::parse(text).map(Self::One) }
    }
}

impl Parse for AccountName {
    const EXPECTED: &'static str = "a user name such as \"ada\"";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error: crate::names::AccountError| error.to_string())
    }
}

impl Parse for ImagePattern {
    const EXPECTED: &'static str = "an image, or a pattern such as \"team/*\"";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error: crate::names::AccountError| error.to_string())
    }
}

impl Parse for Role {
    const EXPECTED: &'static str = "\"read\", \"write\", \"delete\" or \"admin\"";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error: crate::names::AccountError| error.to_string())
    }
}

/// What may be done with which images: in a grant, and in a token's scope.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ScopeForm {
    repository: Option<Text<Where>>,
    images: Option<Text<ImagePattern>>,
    role: Option<Text<Role>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct GrantForm {
    user: Option<Text<AccountName>>,
    repository: Option<Text<Where>>,
    images: Option<Text<ImagePattern>>,
    role: Option<Text<Role>>,
}

impl Form for GrantForm {
    const FIELDS: &'static [&'static str] = &["user", "repository", "images", "role"];
    const HINT: &'static str =
        "say {\"user\":\"ada\",\"repository\":\"docker-local\",\"images\":\"team/*\",\"role\":\"write\"}";
}

impl ScopeForm {
    pub fn resolve(self, engine: &Engine, hint: &str) -> Result<Grant, ApiError> {
        let Text(place) = required("repository", self.repository, hint)?;
        let Text(role) = required("role", self.role, hint)?;
        let images = self.images.map(|Text(images)| images);
        let (repository, images) = resolve(engine, &place, images)?;
        Ok(Grant { repository, images, role })
    }
}

/// The numbers and names under which a grant is kept. `redis` of Docker Hub is `library/redis`.
fn resolve(
    engine: &Engine,
    place: &Where,
    images: Option<ImagePattern>,
) -> Result<(Option<RepositoryId>, ImagePattern), ApiError> {
    let images = images.unwrap_or_else(ImagePattern::all);
    let Where::One(name) = place else {
        return Ok((None, images));
    };
    let found = repository::find(engine, name, |_| true)?;
    let exactly = images.as_str().parse::<ImageName>().ok();
    let images = exactly.map_or(images, |image| ImagePattern::exactly(&found.canonical(image)));
    Ok((Some(found.id), images))
}

pub(super) async fn grant(engine: &Engine, caller: &Principal, body: &[u8]) -> Result<Reply, ApiError> {
    let form: GrantForm = body::read(body)?;
    let Text(user) = required("user", form.user, GrantForm::HINT)?;
    let Text(place) = required("repository", form.repository, GrantForm::HINT)?;
    may_grant(engine, caller, &place)?;
    let scope = ScopeForm { repository: Some(Text(place)), images: form.images, role: form.role };
    let grant = scope.resolve(engine, GrantForm::HINT)?;
    let account = engine.accounts().grant(&user, grant.clone()).await?;
    Ok(Reply::json(StatusCode::CREATED, &shown(engine, &account, &grant)))
}

pub(super) async fn take_back(
    engine: &Engine,
    user: &AccountName,
    repository: Option<&RepositoryName>,
    images: Option<ImagePattern>,
) -> Result<Reply, ApiError> {
    let place = repository.map_or(Where::All, |name| Where::One(name.clone()));
    let (repository, images) = resolve(engine, &place, images)?;
    engine.accounts().take_back(user, repository, &images).await?;
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

/// Whoever manages a repository lets others into it, and no further.
fn may_grant(engine: &Engine, caller: &Principal, place: &Where) -> Result<(), ApiError> {
    match place {
        _ if caller.is_admin() => Ok(()),
        Where::All => Err(administrators_only()),
        Where::One(name) => managed(engine, caller, name).map(drop),
    }
}

/// Grants of a user, in a repository, or all: of others only in repositories that the caller manages.
pub(super) fn list(
    engine: &Engine,
    caller: &Principal,
    user: Option<&AccountName>,
    repository: Option<&RepositoryName>,
) -> Result<Reply, ApiError> {
    let place = repository.map(|name| repository::find(engine, name, |found| caller.knows(found.id)));
    let place = place.transpose()?.map(|found| found.id);
    let may_see = |account: &Arc<Account>, grant: &Grant| {
        let own = matches!(caller, Principal::Account(own) if own.id == account.id);
        caller.is_admin() || own || grant.repository.is_some_and(|place| caller.manages(place))
    };
    let mut grants = Vec::new();
    for account in engine.accounts().list() {
        let of_user = user.is_none_or(|user| *user == account.name);
        let fits = |grant: &&Grant| of_user && place.is_none_or(|place| grant.covers(place));
        let fitting = account.grants.iter().filter(fits).filter(|grant| may_see(&account, grant));
        grants.extend(fitting.map(|grant| shown(engine, &account, grant)));
    }
    Ok(Reply::json(StatusCode::OK, &json!({ "grants": grants })))
}

fn shown(engine: &Engine, account: &Account, grant: &Grant) -> Value {
    let mut value = shown_scope(engine, grant);
    value["user"] = account.name.as_str().into();
    value
}

pub(super) fn shown_scope(engine: &Engine, scope: &Grant) -> Value {
    let repository = match scope.repository {
        None => "*".to_owned(),
        Some(id) => {
            let found = engine.repositories().list().into_iter().find(|found| found.id == id);
            found.map_or_else(|| "(removed)".to_owned(), |found| found.name.to_string())
        }
    };
    json!({ "repository": repository, "images": scope.images.as_str(), "role": scope.role.as_str() })
}
