//! Owns what the API says of a snapshot for a backup: where the copy of the metadata lies, and which blobs belong to
//! it. Whoever asks takes the file away; `binaryrepo backup` does.
//! Must not know: what a backup looks like, how rows are copied.

use http::StatusCode;
use serde_json::{Value, json};

use super::error::ApiError;
use crate::engine::Engine;
use crate::reply::Reply;
use crate::text::time_text;

pub(super) async fn snapshot(engine: &Engine) -> Result<Reply, ApiError> {
    let snapshot = engine.snapshot().await?;
    let blobs: Vec<Value> =
        snapshot.blobs.iter().map(|(digest, size)| json!([digest.to_string(), size])).collect();
    let body = json!({
        "metadata": snapshot.file,
        "schema": snapshot.schema,
        "taken": time_text(snapshot.taken_ms),
        "repositories": snapshot.counts.repositories,
        "tags": snapshot.counts.tags,
        "manifests": snapshot.counts.manifests,
        "blobs": blobs,
    });
    Ok(Reply::json(StatusCode::OK, &body))
}
