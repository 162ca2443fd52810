//! Owns the referrers listing: what signatures, SBOMs and the like are about a digest.
//! Must not know: whether the upstream has the listing or only the older tag for it.

use bytes::Bytes;
use http::StatusCode;
use http::header::HeaderName;

use super::address::Address;
use super::pull::warn;
use super::tags::link_next;
use super::wire::{WireError, X_CACHE};
use crate::engine::{Engine, ReferrersPage, RepositoryKind, Scope, Verdict};
use crate::names::{Digest, MediaType};
use crate::reply::Reply;

const OCI_FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
const EMPTY_INDEX: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

/// Never 404: a digest that nobody knows has no referrers.
pub async fn list(
    engine: &Engine,
    scope: &Scope,
    address: &Address,
    digest: &Digest,
    artifact_type: Option<&str>,
    query: &str,
) -> Result<Reply, WireError> {
    let page = match scope.repository.kind {
        RepositoryKind::Local(_) => ReferrersPage {
            bytes: Bytes::from_static(EMPTY_INDEX.as_bytes()),
            next_query: None,
            filters_applied: artifact_type.map(|_| "artifactType".to_owned()),
            verdict: Verdict::Local,
        },
        RepositoryKind::Remote(_) => engine.referrers(scope, digest, query).await?,
    };
    Ok(page_reply(page, address, digest))
}

fn page_reply(page: ReferrersPage, address: &Address, digest: &Digest) -> Reply {
    let mut reply = Reply::bytes(StatusCode::OK, MediaType::OCI_INDEX, page.bytes);
    if page.verdict != Verdict::Local {
        reply = reply.with_header(X_CACHE, page.verdict.as_str());
    }
    if let Some(filters) = &page.filters_applied {
        reply = reply.with_header(OCI_FILTERS_APPLIED, filters);
    }
    reply.note.verdict = Some(page.verdict);
    let reply = warn(reply, page.verdict, None);
    link_next(reply, address, &format!("referrers/{digest}"), page.next_query.as_deref())
}

#[cfg(test)]
mod tests {
    use http::header::{CONTENT_TYPE, LINK};

    use super::*;
    use crate::docker::tags::tests::address;
    use crate::names::Algorithm;

    #[test]
    fn a_page_is_an_index_and_links_to_the_next() {
        let digest = Digest::of(Algorithm::Sha256, b"image");
        let page = ReferrersPage {
            bytes: Bytes::from_static(EMPTY_INDEX.as_bytes()),
            next_query: Some("cursor=Zm9v".into()),
            filters_applied: Some("artifactType".into()),
            verdict: Verdict::Revalidated,
        };
        let reply = page_reply(page, &address(None), &digest);
        assert_eq!(reply.headers[CONTENT_TYPE], MediaType::OCI_INDEX);
        assert_eq!(reply.headers[OCI_FILTERS_APPLIED], "artifactType");
        let expected = format!("</repo/docker-remote/v2/redis/referrers/{digest}?cursor=Zm9v>; rel=\"next\"");
        assert_eq!(reply.headers[LINK], expected.as_str());
    }
}
