//! Owns making, listing and revoking access tokens.
//! Must not know: how a token is checked.

use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::allowed::{administrators_only, itself};
use super::body::{self, Form, required};
use super::error::ApiError;
use super::grants::{ScopeForm, shown_scope};
use crate::engine::{AccessToken, Engine, NewToken, Principal};
use crate::names::AccountName;
use crate::reply::Reply;
use crate::text::{Text, time_text};

/// `{"name","user"?,"robot"?,"scopes"?:[{"repository","images"?,"role"}],"expires"?:"90d"}`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TokenForm {
    name: Option<String>,
    user: Option<Text<AccountName>>,
    robot: bool,
    scopes: Vec<ScopeForm>,
    expires: Option<Text<Duration>>,
}

impl Form for TokenForm {
    const FIELDS: &'static [&'static str] = &["name", "user", "robot", "scopes", "expires"];
    const HINT: &'static str = "say {\"name\":\"ci\",\"user\":\"ada\"}, or {\"name\":\"ci\",\"robot\":true,\"scopes\":\
        [{\"repository\":\"docker-local\",\"images\":\"*\",\"role\":\"write\"}]}";
}

pub(super) async fn create(engine: &Engine, caller: &Principal, body: &[u8]) -> Result<Reply, ApiError> {
    let form: TokenForm = body::read(body)?;
    let owner = owner(caller, &form)?;
    let name = required("name", form.name, TokenForm::HINT)?;
    let scopes = form.scopes.into_iter().map(|scope| scope.resolve(engine, TokenForm::HINT));
    let scopes = scopes.collect::<Result<Vec<_>, _>>()?;
    let lifetime = form.expires.map(|Text(span)| span);
    let new = NewToken { name, owner, scopes, lifetime };
    let (token, secret) = engine.accounts().create_token(new).await?;
    let mut shown = shown(engine, &token);
    shown["token"] = secret.expose().into();
    Ok(Reply::json(StatusCode::CREATED, &shown))
}

/// Whose token it will be; `None` is a robot's.
fn owner(caller: &Principal, form: &TokenForm) -> Result<Option<AccountName>, ApiError> {
    let user = form.user.as_ref().map(|Text(user)| user.clone());
    if !caller.is_admin() {
        let own = &itself(caller)?.name;
        let for_itself = !form.robot && user.is_none_or(|user| user == *own);
        return if for_itself { Ok(Some(own.clone())) } else { Err(administrators_only()) };
    }
    match (user, form.robot, caller.account()) {
        (Some(_), true, _) => Err(ApiError::field("robot", "a robot is no user: give one of them")),
        (Some(user), false, _) => Ok(Some(user)),
        (None, true, _) => Ok(None),
        (None, false, Some(account)) => Ok(Some(account.name.clone())),
        (None, false, None) => {
            Err(ApiError::field("user", "is missing: whose token is it to be?").with_hint(TokenForm::HINT))
        }
    }
}

pub(super) fn list(
    engine: &Engine,
    caller: &Principal,
    user: Option<&AccountName>,
) -> Result<Reply, ApiError> {
    let own = match caller.is_admin() {
        true => None,
        false => Some(itself(caller)?.id),
    };
    let wanted = user.map(|user| engine.accounts().find(user).map(|account| account.id));
    let fits = |token: &AccessToken| {
        own.is_none_or(|own| token.owner == Some(own))
            && wanted.is_none_or(|wanted| wanted.is_some() && token.owner == wanted)
    };
    let all = engine.accounts().tokens();
    let tokens: Vec<Value> =
        all.iter().filter(|token| fits(token)).map(|token| shown(engine, token)).collect();
    Ok(Reply::json(StatusCode::OK, &json!({ "tokens": tokens })))
}

pub(super) async fn revoke(engine: &Engine, caller: &Principal, id: &str) -> Result<Reply, ApiError> {
    if !caller.is_admin() {
        let own = itself(caller)?.id;
        let of_caller = |token: &AccessToken| token.id == id && token.owner == Some(own);
        if !engine.accounts().tokens().iter().any(|token| of_caller(token)) {
            return Err(ApiError::not_found(format!("there is no token {id}")));
        }
    }
    engine.accounts().revoke_token(id).await?;
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

fn shown(engine: &Engine, token: &AccessToken) -> Value {
    let owner = token.owner.and_then(|id| engine.accounts().by_id(id));
    let scopes: Vec<Value> = token.scopes.iter().map(|scope| shown_scope(engine, scope)).collect();
    json!({
        "id": token.id,
        "name": token.name,
        "user": owner.map(|owner| owner.name.to_string()),
        "scopes": scopes,
        "created": time_text(token.created.0),
        "expires": token.expires.map(|end| time_text(end.0)),
    })
}
