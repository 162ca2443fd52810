//! Owns making, listing, changing and removing users.
//! Must not know: how a password is kept.

use http::StatusCode;
use http::header::LOCATION;
use serde::Deserialize;
use serde_json::{Value, json};

use super::allowed::administrators_only;
use super::body::{self, Form, required};
use super::error::ApiError;
use crate::engine::{Account, AccountChange, Engine, NewAccount, Principal, Secret};
use crate::names::AccountName;
use crate::reply::Reply;
use crate::text::{Text, time_text};

/// `{"name","password","admin"?}` for a new one; of these what is to change, and `"disabled"`, for one that is there.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct UserForm {
    name: Option<Text<AccountName>>,
    password: Option<Text<Secret>>,
    admin: Option<bool>,
    disabled: Option<bool>,
}

impl Form for UserForm {
    const FIELDS: &'static [&'static str] = &["name", "password", "admin", "disabled"];
    const HINT: &'static str =
        "say {\"name\":\"ada\",\"password\":\"…\"}, with \"admin\":true for an administrator";
}

pub(super) fn list(engine: &Engine) -> Reply {
    let users: Vec<Value> = engine.accounts().list().iter().map(|account| shown(account)).collect();
    Reply::json(StatusCode::OK, &json!({ "users": users }))
}

pub(super) async fn create(engine: &Engine, body: &[u8]) -> Result<Reply, ApiError> {
    let form: UserForm = body::read(body)?;
    let Text(name) = required("name", form.name, UserForm::HINT)?;
    let Text(password) = required("password", form.password, UserForm::HINT)?;
    if form.disabled.is_some() {
        return Err(ApiError::field("disabled", "is of users who are there already"));
    }
    let new = NewAccount { name, password, admin: form.admin.unwrap_or_default() };
    let made = engine.accounts().create(new).await?;
    let location = format!("/api/users/{}", made.name);
    Ok(Reply::json(StatusCode::CREATED, &shown(&made)).with_header(LOCATION, &location))
}

pub(super) fn show(engine: &Engine, name: &AccountName) -> Result<Reply, ApiError> {
    let unknown = || ApiError::not_found(format!("there is no user {name}"));
    Ok(Reply::json(StatusCode::OK, &shown(&*engine.accounts().find(name).ok_or_else(unknown)?)))
}

/// Users may change their own password, and nothing else.
pub(super) async fn change(
    engine: &Engine,
    caller: &Principal,
    name: &AccountName,
    body: &[u8],
) -> Result<Reply, ApiError> {
    let form: UserForm = body::read(body)?;
    if form.name.is_some_and(|Text(given)| given != *name) {
        return Err(ApiError::field("name", format!("a user cannot be renamed: this is {name}")));
    }
    if !caller.is_admin() && (form.admin.is_some() || form.disabled.is_some()) {
        return Err(administrators_only());
    }
    let password = form.password.map(|Text(password)| password);
    let change = AccountChange { password, admin: form.admin, disabled: form.disabled };
    let changed = engine.accounts().change(name, change).await?;
    Ok(Reply::json(StatusCode::OK, &shown(&changed)))
}

pub(super) async fn remove(engine: &Engine, name: &AccountName) -> Result<Reply, ApiError> {
    engine.accounts().remove(name).await?;
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

fn shown(account: &Account) -> Value {
    json!({
        "name": account.name.as_str(),
        "admin": account.admin,
        "disabled": account.disabled,
        "created": time_text(account.created.0),
    })
}
