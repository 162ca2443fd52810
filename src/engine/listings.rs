//! Owns lists that are passed through: tags and referrers, a page at a time, one fetch for many.
//! Must not know: HTTP, Link headers.

use serde::Deserialize;

use super::Engine;
use super::actor::Joined;
use super::errors::refused;
use super::flight::{ListingPage, Outcome, Task};
use super::model::{EngineError, ErrorKind, PageQuery, ReferrersPage, Scope, TagsPage, Verdict};
use crate::names::Digest;

/// What an upstream says of tags. Its `name` is its own; the caller puts theirs.
#[derive(Deserialize)]
struct TagList {
    tags: Option<Vec<String>>,
}

impl Engine {
    /// One page of an image's tags.
    pub async fn tags(&self, scope: &Scope, page: PageQuery) -> Result<TagsPage, EngineError> {
        if scope.repository.local().is_some() {
            return self.local_tags(scope, page).await;
        }
        let (page, verdict) =
            self.page(scope, Task::Tags { query: page.query }, ErrorKind::NameUnknown).await?;
        let ListingPage { bytes, next_query, .. } = page;
        // It may be megabytes, whatever was asked for.
        let list: TagList = self
            .shared
            .read(move |_| {
                serde_json::from_slice(&bytes).map_err(|_| {
                    let message = "the upstream's list of tags cannot be read";
                    EngineError::new(ErrorKind::UpstreamUnavailable, message)
                })
            })
            .await?;
        Ok(TagsPage { tags: list.tags.unwrap_or_default(), next_query, verdict })
    }

    /// What refers to a digest, as an index. Of a remote: local repositories are asked otherwise.
    pub async fn referrers(
        &self,
        scope: &Scope,
        digest: &Digest,
        query: &str,
    ) -> Result<ReferrersPage, EngineError> {
        let task = Task::Referrers { digest: *digest, query: query.to_owned() };
        let (page, verdict) = self.page(scope, task, ErrorKind::NameUnknown).await?;
        let ListingPage { bytes, next_query, filters_applied } = page;
        Ok(ReferrersPage { bytes, next_query, filters_applied, verdict })
    }

    async fn page(
        &self,
        scope: &Scope,
        task: Task,
        unknown: ErrorKind,
    ) -> Result<(ListingPage, Verdict), EngineError> {
        match self.fly(scope, task, None).await? {
            Joined::Document { outcome: Outcome::Page(page), first } => {
                Ok((page, if first { Verdict::Miss } else { Verdict::Joined }))
            }
            Joined::Refused { why, story } => Err(refused(why, story.as_ref(), unknown)),
            _ => Err(EngineError::new(ErrorKind::Internal, "a flight brought back no page")),
        }
    }
}
