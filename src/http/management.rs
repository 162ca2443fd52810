//! Owns the place of the management API beside the registry's, until that room stands: its request, and a 404.
//! Must not know: who may call it.

use bytes::Bytes;
use http::{Method, StatusCode};

use crate::engine::Engine;
use crate::reply::{Note, Reply};

/// Longest body of a request.
pub const MAX_BODY: usize = 64 << 10;

/// A request to `/api/…` of somebody who may manage, its body read.
#[derive(Clone, Debug)]
pub struct ApiRequest {
    pub method: Method,
    pub path: String,
    pub query: Option<String>,
    pub body: Bytes,
}

pub async fn handle(_: &Engine, request: ApiRequest) -> Reply {
    let ApiRequest { method, path, query, body } = request;
    tracing::debug!(%method, path, queried = query.is_some(), bytes = body.len(), "no management API");
    let message = "this build has no management API";
    Reply::error(StatusCode::NOT_FOUND, "UNSUPPORTED", message, None).with_note(Note::of("api.unknown"))
}
