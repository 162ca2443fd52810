//! Owns asking for the removal of cached content.
//! Must not know: where content lies, what is removed with what.

use http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use super::allowed::{administrators_only, managed};
use super::body::{self, Form};
use super::error::ApiError;
use super::repository::find;
use crate::engine::{Engine, ErrorKind, Principal, Purge, Purged, Repository};
use crate::names::{Digest, ImageName, RepositoryName, Tag};
use crate::reply::Reply;
use crate::text::{Parse, Text};

/// `{"repository","image","tag"?}`, `{"repository"?,"digest"}` or `{"repository","all":true}`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PurgeForm {
    repository: Option<Text<RepositoryName>>,
    image: Option<Text<ImageName>>,
    tag: Option<Text<Tag>>,
    digest: Option<Text<Digest>>,
    all: bool,
}

pub(super) async fn purge(engine: &Engine, caller: &Principal, body: &[u8]) -> Result<Reply, ApiError> {
    let form = PurgeForm::from_json(body)?;
    let find = |name| match caller.is_admin() {
        true => find(engine, name, |_| true),
        false => managed(engine, caller, name),
    };
    let named = form.repository.as_ref().map(|Text(name)| find(name)).transpose()?;
    if named.is_none() && !caller.is_admin() {
        return Err(administrators_only());
    }
    let mut sum = Purged::default();
    let everywhere = named.is_none();
    let mut nothing = None;
    let mut found = false;
    // The same bytes may be cached through several repositories, and not through every one.
    let repositories = match named {
        Some(repository) => vec![repository],
        None => engine.repositories().list().into_iter().filter(|one| one.remote().is_some()).collect(),
    };
    for repository in repositories {
        let purged = match engine.purge(&repository.name, form.what(&repository)?).await {
            Err(error) if everywhere && error.kind == ErrorKind::ManifestUnknown => {
                nothing = Some(error);
                continue;
            }
            purged => purged?,
        };
        found = true;
        sum.documents += purged.documents;
        sum.blobs += purged.blobs;
        sum.bytes += purged.bytes;
    }
    if let (false, Some(nothing)) = (found, nothing) {
        return Err(nothing.into());
    }
    let body = json!({ "documents": sum.documents, "blobs": sum.blobs, "bytes": sum.bytes });
    Ok(Reply::json(StatusCode::OK, &body))
}

impl Form for PurgeForm {
    const FIELDS: &'static [&'static str] = &["repository", "image", "tag", "digest", "all"];
    const HINT: &'static str = "say {\"repository\",\"image\"}, {\"repository\",\"image\",\"tag\"}, {\"digest\"} or {\"repository\",\"all\":true}";
}

impl PurgeForm {
    fn from_json(body: &[u8]) -> Result<Self, ApiError> {
        let form: Self = body::read(body)?;
        form.check()?;
        Ok(form)
    }

    fn check(&self) -> Result<(), ApiError> {
        let chosen =
            usize::from(self.image.is_some()) + usize::from(self.digest.is_some()) + usize::from(self.all);
        if chosen != 1 {
            return Err(ApiError::whole("say one of image, digest and all").with_hint(Self::HINT));
        }
        if self.tag.is_some() && self.image.is_none() {
            return Err(ApiError::field("tag", "a tag belongs to an image: say which").with_hint(Self::HINT));
        }
        if self.repository.is_none() && self.digest.is_none() {
            return Err(ApiError::field("repository", "is missing").with_hint(Self::HINT));
        }
        Ok(())
    }

    fn what(&self, repository: &Repository) -> Result<Purge, ApiError> {
        let image = self.image.as_ref().map(|Text(image)| repository.canonical(image.clone()));
        match (image, &self.tag, &self.digest) {
            (Some(image), Some(Text(tag)), _) => Ok(Purge::Tag(image, tag.clone())),
            (Some(image), None, _) => Ok(Purge::Image(image)),
            (None, _, Some(Text(digest))) => Ok(Purge::Digest(*digest)),
            (None, _, None) if self.all => Ok(Purge::All),
            (None, _, None) => Err(ApiError::whole("say one of image, digest and all").with_hint(Self::HINT)),
        }
    }
}

impl Parse for ImageName {
    const EXPECTED: &'static str = "an image such as \"library/redis\"";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error: crate::names::NameError| error.to_string())
    }
}

impl Parse for Tag {
    const EXPECTED: &'static str = "a tag such as \"latest\"";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error: crate::names::ReferenceError| error.to_string())
    }
}

impl Parse for Digest {
    const EXPECTED: &'static str = "a digest such as \"sha256:...\"";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error: crate::names::DigestError| error.to_string())
    }
}

#[cfg(test)]
pub(super) fn check_purge(body: &[u8]) -> Result<(), ApiError> {
    PurgeForm::from_json(body).map(drop)
}
