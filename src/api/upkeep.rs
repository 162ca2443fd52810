//! Owns what the API says of upkeep: cleanup and scrubs.
//! Must not know: what is needed and what is not, how anything is checked.

use http::StatusCode;
use serde_json::{Value, json};

use super::error::ApiError;
use crate::engine::{Collected, Damaged, Engine, Remedy, ScrubReport};
use crate::reply::Reply;
use crate::text::parse_bytes;

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

/// Bytes a second that a scrub reads unless told otherwise: little enough that pulls do not notice.
const RATE: u64 = 100 << 20;

/// Begins a scrub.
pub(super) fn start_scrub(engine: &Engine, rate: Option<&str>) -> Result<Reply, ApiError> {
    let rate = rate.map(parse_bytes).transpose().map_err(|why| ApiError::field("rate", why))?;
    if rate == Some(0) {
        return Err(ApiError::field("rate", "at 0 bytes a second it would never end"));
    }
    engine.start_scrub(rate.unwrap_or(RATE))?;
    Ok(Reply::json(StatusCode::ACCEPTED, &shown(&engine.scrub_report())))
}

/// How far the scrub under way is, or what the last one found.
pub(super) fn scrub(engine: &Engine) -> Reply {
    Reply::json(StatusCode::OK, &shown(&engine.scrub_report()))
}

pub(super) fn stop_scrub(engine: &Engine) -> Reply {
    engine.stop_scrub();
    Reply::empty(StatusCode::NO_CONTENT)
}

fn shown(report: &ScrubReport) -> Value {
    let damaged = |one: &Damaged| {
        json!({
            "digest": one.digest.to_string(),
            "kind": if one.manifest { "manifest" } else { "blob" },
            "bytes": one.size,
            "remedy": match one.remedy {
                Remedy::Fetched => "fetched",
                Remedy::NextPull => "next_pull",
                Remedy::PushAgain => "push_again",
            },
            "images": one.images,
        })
    };
    json!({
        "running": report.running,
        "finished": report.finished,
        "failed": report.failed,
        "blobs": report.blobs,
        "manifests": report.manifests,
        "bytes": report.bytes,
        "total_bytes": report.total_bytes,
        "damaged_bytes": report.damaged_bytes,
        "lost": report.lost,
        "damaged": report.damaged.iter().map(damaged).collect::<Vec<_>>(),
        "unnamed": report.unnamed,
    })
}
