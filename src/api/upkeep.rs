//! Owns what the API says of upkeep: cleanup.
//! Must not know: what is needed and what is not.

use http::StatusCode;
use serde_json::json;

use super::error::ApiError;
use crate::engine::{Collected, Engine};
use crate::reply::Reply;

/// Removes what nobody needs, or says what that would be.
pub(super) async fn collect(engine: &Engine, dry_run: bool) -> Result<Reply, ApiError> {
    let Collected { uploads, links, manifests, blobs, bytes } = engine.collect(dry_run).await?;
    let body = json!({
        "dry_run": dry_run,
        "uploads": uploads,
        "links": links,
        "manifests": manifests,
        "blobs": blobs,
        "bytes": bytes,
    });
    Ok(Reply::json(StatusCode::OK, &body))
}
