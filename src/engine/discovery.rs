//! Owns listing what local repositories hold: tags, images, what is about a digest. A page costs the page.
//! Must not know: HTTP, who may see what.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Engine;
use super::flight::Source;
use super::local::read_manifest;
use super::manifests::source;
use super::model::{EngineError, ErrorKind, PageQuery, ReferrersPage, Scope, TagsPage, Verdict};
use super::repository::Repository;
use super::shared::Shared;
use crate::meta::{LinkRow, MetaExt as _, ReferrerRow, TagRow};
use crate::names::{Digest, ImageName, MediaType, Reference, Tag};

/// The longest page of a listing, and what a page has if nobody says.
pub const MAX_PAGE: u32 = 1_000;
/// A page of referrers ends with the one that reaches this: annotations may be long.
const MAX_PAGE_BYTES: usize = 4 << 20;
/// How many referrers are looked at for one page, where a filter leaves few.
const MOST_LOOKED_AT: usize = 10_000;
/// The older way to find referrers: a tag made of the digest, cut to this.
const TAG_HEX: usize = 64;

/// Which referrers are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReferrersQuery {
    pub artifact_type: Option<String>,
    pub n: Option<u32>,
    /// The page begins behind this one.
    pub last: Option<Digest>,
}

impl Engine {
    pub(super) async fn local_tags(&self, scope: &Scope, query: PageQuery) -> Result<TagsPage, EngineError> {
        let last = match &query.last {
            Some(last) => Some(last.parse::<Tag>().map_err(|_| {
                let field = "last".to_owned();
                EngineError::new(ErrorKind::Invalid { field }, "last is the last tag of the page before")
            })?),
            None => None,
        };
        let limit = page_size(query.n);
        let image = source(scope);
        let mut tags = self
            .shared
            .read(move |shared| {
                let key = |tag| (image.repository, image.image.clone(), tag);
                let after = last.map(key);
                let prefix = (image.repository, image.image.clone());
                let rows = shared.meta.scan::<TagRow>(&prefix, after.as_ref(), limit + 1)?;
                if rows.is_empty() && shared.meta.scan::<LinkRow>(&prefix, None, 1)?.is_empty() {
                    return Ok(None);
                }
                Ok(Some(rows.into_iter().map(|(key, _)| key.2.to_string()).collect::<Vec<_>>()))
            })
            .await?
            .ok_or_else(|| {
                let message = format!("{} has no image {}", scope.repository.name, scope.image);
                EngineError::new(ErrorKind::NameUnknown, message).with_verdict(Verdict::Local)
            })?;
        let is_cut = tags.len() > limit;
        tags.truncate(limit);
        let next_query = tags.last().filter(|_| is_cut).map(|last| format!("n={limit}&last={last}"));
        Ok(TagsPage { tags, next_query, verdict: Verdict::Local })
    }

    /// Images of a repository, by name, behind `after`: those of a remote as far as anything of them was asked for.
    pub async fn images(
        &self,
        repository: &Repository,
        after: Option<ImageName>,
        limit: usize,
    ) -> Result<Vec<ImageName>, EngineError> {
        let id = repository.id;
        // No digest sorts behind it, so a look behind it is a look at the next image.
        let end = Digest::largest();
        self.shared
            .read(move |shared| {
                let mut images = Vec::new();
                let mut after = after.map(|image| (id, image, end));
                while images.len() < limit {
                    let next = shared.meta.scan::<LinkRow>(&id, after.as_ref(), 1)?;
                    let Some(((_, image, _), _)) = next.into_iter().next() else { break };
                    images.push(image.clone());
                    after = Some((id, image, end));
                }
                Ok(images)
            })
            .await
    }

    /// What is about a digest, in an image of a local repository: an index, sorted by digest.
    pub async fn local_referrers(
        &self,
        scope: &Scope,
        digest: &Digest,
        query: ReferrersQuery,
    ) -> Result<ReferrersPage, EngineError> {
        let (image, digest) = (source(scope), *digest);
        self.shared.read(move |shared| page_of_referrers(shared, &image, &digest, &query)).await
    }
}

fn page_size(n: Option<u32>) -> usize {
    usize::try_from(n.unwrap_or(MAX_PAGE).min(MAX_PAGE)).unwrap_or(0)
}

fn page_of_referrers(
    shared: &Shared,
    image: &Source,
    subject: &Digest,
    query: &ReferrersQuery,
) -> Result<ReferrersPage, EngineError> {
    let limit = page_size(query.n);
    let mut page = Page { entries: Vec::new(), bytes: 0, limit, next: None };
    let mut by_tag = by_tag(shared, image, subject)?;
    if let Some(last) = &query.last {
        by_tag.retain(|digest, _| digest > last);
    }
    let key = |digest| (image.repository, image.image.clone(), (*subject, digest));
    let mut after = query.last.map(key);
    let prefix = (image.repository, image.image.clone(), *subject);
    let mut looked_at = 0;
    while page.next.is_none() && looked_at < MOST_LOOKED_AT {
        let batch = limit.clamp(1, MOST_LOOKED_AT) + 1;
        let rows = shared.meta.scan::<ReferrerRow>(&prefix, after.as_ref(), batch)?;
        let is_last = rows.len() < batch;
        looked_at += rows.len();
        for (key, row) in rows {
            let digest = key.2.1;
            // Those that only the tag knows come in their place.
            let rest = by_tag.split_off(&digest);
            for (digest, entry) in std::mem::replace(&mut by_tag, rest) {
                page.offer(query, digest, entry);
            }
            by_tag.remove(&digest);
            page.offer(query, digest, describe(&digest, &row));
            after = Some(key);
        }
        if is_last {
            for (digest, entry) in std::mem::take(&mut by_tag) {
                page.offer(query, digest, entry);
            }
            break;
        }
        if looked_at >= MOST_LOOKED_AT && page.next.is_none() {
            page.next = after.as_ref().map(|key| key.2.1);
        }
    }
    Ok(page.into_answer(query))
}

/// A page that is being filled.
struct Page {
    entries: Vec<Value>,
    bytes: usize,
    limit: usize,
    /// Full: the next page begins behind this one.
    next: Option<Digest>,
}

impl Page {
    fn offer(&mut self, query: &ReferrersQuery, digest: Digest, entry: Value) {
        let wanted = query.artifact_type.as_ref();
        if self.next.is_some() || wanted.is_some_and(|wanted| entry["artifactType"] != wanted.as_str()) {
            return;
        }
        if self.entries.len() == self.limit || self.bytes >= MAX_PAGE_BYTES {
            let last = self.entries.last().and_then(|entry| entry["digest"].as_str());
            self.next = last.and_then(|last| last.parse().ok()).or(Some(digest));
            return;
        }
        self.bytes += entry.to_string().len();
        self.entries.push(entry);
    }

    fn into_answer(self, query: &ReferrersQuery) -> ReferrersPage {
        let next_query = self.next.filter(|_| self.limit > 0).map(|last| {
            let mut pairs = url::form_urlencoded::Serializer::new(String::new());
            if let Some(wanted) = &query.artifact_type {
                pairs.append_pair("artifactType", wanted);
            }
            if let Some(n) = query.n {
                pairs.append_pair("n", &n.to_string());
            }
            pairs.append_pair("last", &last.to_string()).finish()
        });
        let index =
            json!({ "schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": self.entries });
        ReferrersPage {
            bytes: index.to_string().into(),
            next_query,
            filters_applied: query.artifact_type.as_ref().map(|_| "artifactType".to_owned()),
            verdict: Verdict::Local,
        }
    }
}

fn describe(digest: &Digest, row: &ReferrerRow) -> Value {
    let mut entry = json!({ "mediaType": row.media_type, "digest": digest.to_string(), "size": row.size });
    if let Some(artifact_type) = &row.artifact_type {
        entry["artifactType"] = json!(artifact_type);
    }
    if !row.annotations.is_empty() {
        entry["annotations"] = json!(row.annotations);
    }
    entry
}

/// What a client that does not know the listing has written down instead: an index under a tag made of the digest.
fn by_tag(shared: &Shared, image: &Source, subject: &Digest) -> Result<BTreeMap<Digest, Value>, EngineError> {
    let mut found = BTreeMap::new();
    let Some(tag) = fallback_tag(subject) else { return Ok(found) };
    let Some(index) = read_manifest(shared, image, &Reference::Tag(tag))? else { return Ok(found) };
    if index.media_type.as_str() != MediaType::OCI_INDEX {
        return Ok(found);
    }
    let Ok(Value::Object(mut index)) = serde_json::from_slice(&index.bytes) else { return Ok(found) };
    let Some(Value::Array(entries)) = index.remove("manifests") else { return Ok(found) };
    for entry in entries {
        let Some(digest) = entry["digest"].as_str().and_then(|digest| digest.parse().ok()) else { continue };
        // Nobody writes the index anew when one of them is removed.
        let link = (image.repository, image.image.clone(), digest);
        if shared.meta.get::<LinkRow>(&link)?.is_some() {
            found.insert(digest, entry);
        }
    }
    Ok(found)
}

fn fallback_tag(subject: &Digest) -> Option<Tag> {
    let hex = subject.hex();
    format!("{}-{}", subject.algorithm(), &hex[..TAG_HEX.min(hex.len())]).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Algorithm;

    #[test]
    fn the_older_tag_is_the_digest_cut_to_what_a_tag_may_be() {
        let sha256 = Digest::of(Algorithm::Sha256, b"x");
        assert_eq!(
            fallback_tag(&sha256).map(|tag| tag.to_string()),
            Some(format!("sha256-{}", sha256.hex()))
        );
        let sha512 = Digest::of(Algorithm::Sha512, b"x");
        let cut = format!("sha512-{}", &sha512.hex()[..64]);
        assert_eq!(fallback_tag(&sha512).map(|tag| tag.to_string()), Some(cut));
    }
}
