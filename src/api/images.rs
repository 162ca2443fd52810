//! Owns what the API says of images, and removing what was pushed.
//! Must not know: where content lies, what is removed with what.

use http::StatusCode;
use serde_json::{Value, json};

use super::error::ApiError;
use super::repository::find;
use crate::engine::{Engine, Scope, StoredImage, StoredTag};
use crate::names::{ImageName, Reference, RepositoryName, Tag};
use crate::reply::Reply;
use crate::text::time_text;

pub(super) async fn list(engine: &Engine, repository: Option<&RepositoryName>) -> Result<Reply, ApiError> {
    if let Some(name) = repository {
        find(engine, name, |_| true)?;
    }
    let images: Vec<Value> = engine.stored_images(repository).await?.iter().map(shown).collect();
    Ok(Reply::json(StatusCode::OK, &json!({ "images": images })))
}

pub(super) async fn show(
    engine: &Engine,
    repository: &RepositoryName,
    image: ImageName,
) -> Result<Reply, ApiError> {
    let image = engine.stored_image(&scope(engine, repository, image)?).await?;
    Ok(Reply::json(StatusCode::OK, &shown(&image)))
}

/// Answers what the image was, and which tags still name what was removed from it.
pub(super) async fn remove(
    engine: &Engine,
    repository: &RepositoryName,
    image: ImageName,
    reference: Option<Reference>,
) -> Result<Reply, ApiError> {
    let scope = scope(engine, repository, image)?;
    if scope.repository.local().is_none() {
        let message = format!("{repository} is a cache: what is removed from it would be fetched again");
        let hint = "`binaryrepo purge` and POST /api/purge throw away what is cached";
        return Err(ApiError::whole(message).with_hint(hint));
    }
    let answer = match &reference {
        None => {
            let before = engine.stored_image(&scope).await?;
            engine.delete_image(&scope).await?;
            json!({ "removed": shown(&before) })
        }
        Some(reference) => {
            let named = engine.named_manifest(&scope, reference).await?;
            engine.delete_manifest(&scope, reference).await?;
            let (digest, tags) = named
                .map_or_else(Default::default, |named| (Some(named.digest.to_string()), texts(&named.tags)));
            match reference {
                Reference::Digest(_) => json!({ "removed": { "digest": digest, "tags": tags } }),
                Reference::Tag(tag) => {
                    let others: Vec<_> = tags.into_iter().filter(|other| other != tag.as_str()).collect();
                    json!({ "removed": { "tag": tag.as_str(), "digest": digest }, "other_tags": others })
                }
            }
        }
    };
    Ok(Reply::json(StatusCode::OK, &answer))
}

fn scope(engine: &Engine, repository: &RepositoryName, image: ImageName) -> Result<Scope, ApiError> {
    let repository = find(engine, repository, |_| true)?;
    let image = repository.canonical(image);
    Ok(Scope { repository, image })
}

fn texts(tags: &[Tag]) -> Vec<String> {
    tags.iter().map(ToString::to_string).collect()
}

fn shown(image: &StoredImage) -> Value {
    let tag = |tag: &StoredTag| {
        json!({
            "tag": tag.tag.as_str(),
            "digest": tag.digest.to_string(),
            "media_type": tag.media_type,
            "bytes": tag.size,
            "updated": time_text(tag.updated_ms),
        })
    };
    json!({
        "repository": image.repository.as_str(),
        "image": image.image.as_str(),
        "tags": image.tags.iter().map(tag).collect::<Vec<_>>(),
        "manifests": image.manifests,
        "blobs": image.blobs,
        "bytes": image.bytes,
    })
}
