//! Owns the referrers listing: what signatures, SBOMs and the like are about a digest.
//! Must not know: whether the upstream has the listing or only the older tag for it.

use http::StatusCode;
use http::header::HeaderName;

use super::address::Address;
use super::pull::warn;
use super::route;
use super::tags::link_next;
use super::wire::{Code, WireError, X_CACHE};
use crate::engine::{Engine, ReferrersPage, ReferrersQuery, RepositoryKind, Scope, Verdict};
use crate::names::{Digest, MediaType};
use crate::reply::Reply;

const OCI_FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// Never 404: a digest that nobody knows has no referrers.
pub async fn list(
    engine: &Engine,
    scope: &Scope,
    address: &Address<'_>,
    digest: &Digest,
    query: &str,
) -> Result<Reply, WireError> {
    let page = match scope.repository.kind {
        RepositoryKind::Local(_) => engine.local_referrers(scope, digest, local_query(query)?).await?,
        RepositoryKind::Remote(_) => engine.referrers(scope, digest, query).await?,
    };
    Ok(page_reply(page, address, digest))
}

/// The cursor is ours, so what does not parse was made up.
fn local_query(query: &str) -> Result<ReferrersQuery, WireError> {
    let query = Some(query);
    let last = route::parameter(query, "last").map(|last| last.parse()).transpose();
    let last = last.map_err(|_| {
        WireError::new(Code::PaginationNumberInvalid, "last is the last digest of the page before")
    })?;
    let artifact_type = route::parameter(query, "artifactType").filter(|value| !value.is_empty());
    // A plus that was sent as it is has become a space, which no media type has.
    let artifact_type = artifact_type.map(|value| value.replace(' ', "+"));
    Ok(ReferrersQuery { artifact_type, n: route::page(query)?.n, last })
}

fn page_reply(page: ReferrersPage, address: &Address<'_>, digest: &Digest) -> Reply {
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
    use bytes::Bytes;
    use http::header::{CONTENT_TYPE, LINK};

    use super::*;
    use crate::docker::tags::tests::address;
    use crate::names::Algorithm;

    /// `curl ...?artifactType=application/spdx+json` found nothing: in a query, a plus is a space by custom.
    #[test]
    fn a_type_with_a_plus_is_found_however_it_is_written() {
        for query in ["artifactType=application/spdx+json", "artifactType=application%2Fspdx%2Bjson"] {
            let read = local_query(query).map(|query| query.artifact_type);
            assert_eq!(read.ok().flatten().as_deref(), Some("application/spdx+json"), "{query}");
        }
    }

    #[test]
    fn a_page_is_an_index_and_links_to_the_next() {
        let digest = Digest::of(Algorithm::Sha256, b"image");
        let page = ReferrersPage {
            bytes: Bytes::from_static(b"{}"),
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
