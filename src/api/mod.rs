//! Owns the management API: `/api/...`, JSON in and out. The command line speaks it too, over a socket or
//! straight into the engine.
//! Must not know: sockets, how a caller is recognised, database, files.

mod allowed;
mod backup;
mod body;
mod content;
mod error;
mod grants;
mod images;
mod repository;
mod route;
mod tokens;
mod upkeep;
mod users;

#[cfg(test)]
mod tests;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::json;

pub use error::ApiError;

use crate::engine::{Engine, Principal, Status};
use crate::reply::{Note, Reply};
use route::Action;

/// Largest body. A form of every field at its longest is well below.
pub const MAX_BODY: usize = 64 * 1024;

/// A request to `/api/...`, its body read.
#[derive(Clone, Debug)]
pub struct ApiRequest {
    pub method: Method,
    /// As it stood in the request line: `/api/repository/docker-remote`.
    pub path: String,
    pub query: Option<String>,
    pub body: Bytes,
    pub caller: Principal,
}

/// Answers a request.
pub async fn handle(engine: &Engine, request: ApiRequest) -> Reply {
    // A HEAD is a GET whose body is left out on the way.
    let method = if request.method == Method::HEAD { &Method::GET } else { &request.method };
    let action = match route::route(method, &request.path, request.query.as_deref()) {
        Ok(action) => action,
        Err(error) => return error.into_reply().with_note(Note::of("api.unknown")),
    };
    let note = action.note();
    let answer = if request.body.len() > MAX_BODY {
        Err(ApiError::too_large(MAX_BODY))
    } else {
        match allowed::check(engine, &request.caller, &action) {
            Ok(()) => {
                // Readings too: a long list is made beside the threads that serve pulls.
                let (begun, ApiRequest { caller, body, .. }) = (engine.clone(), request);
                engine.to_its_end(async move { perform(&begun, &caller, action, &body).await }).await
            }
            Err(error) => Err(error),
        }
    };
    answer.unwrap_or_else(ApiError::into_reply).with_note(note)
}

async fn perform(
    engine: &Engine,
    caller: &Principal,
    action: Action,
    body: &[u8],
) -> Result<Reply, ApiError> {
    match action {
        Action::ListRepositories => Ok(repository::list(engine, caller)),
        Action::CreateRepository => repository::create(engine, body).await,
        Action::ShowRepository(name) => repository::show(engine, &name),
        Action::ChangeRepository(name) => repository::change(engine, &name, body).await,
        Action::DeleteRepository { name, purge } => repository::delete(engine, &name, purge).await,
        Action::ListImages { repository } => images::list(engine, repository.as_ref()).await,
        Action::ShowImage { repository, image } => images::show(engine, &repository, image).await,
        Action::RemoveImage { repository, image, reference } => {
            images::remove(engine, &repository, image, reference).await
        }
        Action::Purge => content::purge(engine, caller, body).await,
        Action::ListUsers => Ok(users::list(engine)),
        Action::CreateUser => users::create(engine, body).await,
        Action::ShowUser(name) => users::show(engine, &name),
        Action::ChangeUser(name) => users::change(engine, caller, &name, body).await,
        Action::RemoveUser(name) => users::remove(engine, &name).await,
        Action::ListTokens { user } => tokens::list(engine, caller, user.as_ref()),
        Action::CreateToken => tokens::create(engine, caller, body).await,
        Action::RevokeToken(id) => tokens::revoke(engine, caller, &id).await,
        Action::ListGrants { user, repository } => {
            grants::list(engine, caller, user.as_ref(), repository.as_ref())
        }
        Action::Grant => grants::grant(engine, caller, body).await,
        Action::TakeBack { user, repository, images } => {
            grants::take_back(engine, &user, repository.as_ref(), images).await
        }
        Action::Backup => backup::snapshot(engine).await,
        Action::Collect { dry_run } => upkeep::collect(engine, dry_run).await,
        Action::StartScrub { rate } => upkeep::start_scrub(engine, rate.as_deref()),
        Action::Scrub => Ok(upkeep::scrub(engine)),
        Action::StopScrub => Ok(upkeep::stop_scrub(engine)),
        Action::Status => Ok(status(&engine.status().await)),
    }
}

fn status(status: &Status) -> Reply {
    let counts = status.counts;
    let checks: Vec<_> = status
        .checks
        .iter()
        .map(|check| json!({ "name": check.name, "ok": check.ok, "detail": check.detail }))
        .collect();
    let body = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "ready": status.ready,
        "checks": checks,
        "cache": {
            "fills_in_flight": counts.flights,
            "queued": counts.queued,
            "waiters": counts.waiters,
            "blobs": counts.present,
            "bytes": counts.present_bytes,
            "reserved_bytes": counts.reserved_bytes,
            "evicting_bytes": counts.evicting_bytes,
            "limit_bytes": counts.limit_bytes,
        },
        "storage": { "free_bytes": status.free_bytes, "total_bytes": status.total_bytes },
    });
    Reply::json(StatusCode::OK, &body)
}
