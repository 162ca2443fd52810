//! Owns the catalog: the images of all repositories, or of the one that was addressed, as far as the caller may read
//! them. Must not know: where images are listed.

use std::sync::Arc;

use http::StatusCode;
use http::header::LINK;
use serde_json::json;

use super::Context;
use super::address::{Directory, Entrance, unknown_repository};
use super::permit;
use super::wire::WireError;
use crate::engine::{Engine, MAX_PAGE, PageQuery, Repository};
use crate::names::ImageName;
use crate::reply::Reply;

/// Images that are looked at in one go.
const BATCH: usize = 1_000;

/// A name as the client would pull it: with its repository, unless the address has that already.
struct Place {
    repository: Arc<Repository>,
    prefix: String,
}

pub async fn list(
    engine: &Engine,
    context: &Context<'_>,
    entrance: &Entrance<'_>,
    directory: &impl Directory,
    page: PageQuery,
) -> Result<Reply, WireError> {
    let limit = usize::try_from(page.n.unwrap_or(MAX_PAGE)).unwrap_or(0);
    let mut names: Vec<String> = Vec::new();
    let mut next = None;
    'places: for place in places(context, entrance, directory)? {
        let Some(mut after) = start(&place, page.last.as_deref()) else { continue };
        loop {
            let images = engine.images(&place.repository, after, BATCH).await?;
            let is_last = images.len() < BATCH;
            for image in &images {
                if !permit::readable(context, &place.repository, image) {
                    continue;
                }
                if names.len() == limit {
                    next = names.last().cloned();
                    break 'places;
                }
                names.push(format!("{}{image}", place.prefix));
            }
            if is_last {
                break;
            }
            after = images.into_iter().next_back();
        }
    }
    let reply = Reply::json(StatusCode::OK, &json!({ "repositories": names }));
    Ok(match next {
        Some(last) => {
            let last: String = url::form_urlencoded::byte_serialize(last.as_bytes()).collect();
            let link = format!("<{}/v2/_catalog?n={limit}&last={last}>; rel=\"next\"", entrance.front());
            reply.with_header(LINK, &link)
        }
        None => reply,
    })
}

/// The repositories that are looked through, in the order of the names that are shown.
fn places(
    context: &Context<'_>,
    entrance: &Entrance<'_>,
    directory: &impl Directory,
) -> Result<Vec<Place>, WireError> {
    if let Some(repository) = entrance.repository(directory)? {
        if !permit::sees(context, &repository) {
            return Err(unknown_repository(directory, repository.name.as_str()));
        }
        return Ok(vec![Place { repository, prefix: String::new() }]);
    }
    let place = |repository: Arc<Repository>| {
        let prefix = format!("{}/", repository.name);
        Place { repository, prefix }
    };
    let mut places: Vec<Place> = directory.list().into_iter().map(place).collect();
    places.sort_by(|a, b| a.prefix.cmp(&b.prefix));
    Ok(places)
}

/// Behind which image of this place the page begins. `None`: behind all of them.
fn start(place: &Place, last: Option<&str>) -> Option<Option<ImageName>> {
    let Some(last) = last else { return Some(None) };
    match last.strip_prefix(&place.prefix) {
        // A name that cannot be was made up; the page begins at the first.
        Some(image) => Some(image.parse().ok()),
        None => (place.prefix.as_str() > last).then_some(None),
    }
}
