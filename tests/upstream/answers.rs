//! What answers mean.

use binaryrepo::names::MediaType;
use binaryrepo::upstream::{Kind, Listing};
use serde_json::json;

use crate::support::fault::Fault;
use crate::support::image::{Content, Image, Index};
use crate::support::upstream::Registry;
use crate::{client, image, reference};

async fn with_index() -> (Registry, Index) {
    let registry = Registry::open().await;
    let index = Index::new(1, &["amd64", "arm64"], &[1000, 50]);
    registry.add_index("library/redis", "latest", &index);
    (registry, index)
}

#[tokio::test]
async fn a_manifest_comes_as_it_is() {
    let (registry, index) = with_index().await;
    let upstream = client(&registry);
    let head = upstream.head_manifest(&image(), &reference("latest")).await.unwrap();
    assert_eq!(head.digest, Some(index.manifest.digest));
    assert_eq!(head.size, Some(index.manifest.size()));
    assert_eq!(head.media_type.unwrap().as_str(), Index::MEDIA_TYPE);

    let body = upstream.manifest(&image(), &reference("latest")).await.unwrap();
    assert_eq!(body.bytes, index.manifest.bytes);
    assert_eq!(body.claimed, Some(index.manifest.digest));
    let child = &index.images[1].manifest;
    let body = upstream.manifest(&image(), &reference(&child.digest.to_string())).await.unwrap();
    assert_eq!(body.bytes, child.bytes);
    assert_eq!(body.media_type.as_str(), Image::MEDIA_TYPE);

    for seen in registry.log() {
        assert_eq!(seen.header("accept"), Some(MediaType::ACCEPT));
        assert_eq!(seen.header("accept-encoding"), Some("identity"));
        assert!(seen.header("user-agent").unwrap().starts_with("binaryrepo/"));
    }
}

#[tokio::test]
async fn a_head_that_is_not_supported_says_so() {
    let (registry, _) = with_index().await;
    for status in [405, 501] {
        registry.script("HEAD ", [Fault::status(status)]);
        let error = client(&registry).head_manifest(&image(), &reference("latest")).await.unwrap_err();
        assert_eq!((error.kind, error.status), (Kind::HeadUnsupported, Some(status)));
    }
    registry.script("HEAD ", [Fault::headers(&[("docker-content-digest", "junk")])]);
    let head = client(&registry).head_manifest(&image(), &reference("latest")).await.unwrap();
    assert_eq!(head.digest, None);
}

#[tokio::test]
async fn statuses_have_their_kinds() {
    let (registry, _) = with_index().await;
    let cases = [
        (400, Kind::BadResponse, false),
        (403, Kind::Forbidden, false),
        (404, Kind::NotFound, false),
        (408, Kind::Status5xx, true),
        (410, Kind::NotFound, false),
        (418, Kind::BadResponse, false),
        (429, Kind::RateLimited, false),
        (451, Kind::Forbidden, false),
        (500, Kind::Status5xx, true),
        (502, Kind::Status5xx, true),
        (503, Kind::Status5xx, true),
        (504, Kind::Status5xx, true),
        (204, Kind::BadResponse, false),
        (206, Kind::BadResponse, false),
        (304, Kind::BadResponse, false),
    ];
    let upstream = client(&registry);
    for (status, kind, retryable) in cases {
        registry.script("/manifests/", [Fault::status(status)]);
        let error = upstream.manifest(&image(), &reference("latest")).await.unwrap_err();
        assert_eq!((error.kind, error.status), (kind, Some(status)), "{error}");
        assert_eq!(error.retryable(), retryable, "{error}");
    }
}

#[tokio::test]
async fn a_request_to_wait_is_passed_on_within_reason() {
    let (registry, _) = with_index().await;
    let cases = [("5", Some(5)), ("0", Some(0)), ("1000000000", Some(300)), ("junk", None), ("-1", None)];
    for (value, seconds) in cases {
        registry.script("/manifests/", [Fault::answer(429, &[("retry-after", value)], "")]);
        let error = client(&registry).manifest(&image(), &reference("latest")).await.unwrap_err();
        assert_eq!(error.retry_after.map(|wait| wait.as_secs()), seconds, "{value}");
    }
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
    let date = httpdate::fmt_http_date(later);
    registry.script("/manifests/", [Fault::answer(503, &[("retry-after", &date)], "")]);
    let error = client(&registry).manifest(&image(), &reference("latest")).await.unwrap_err();
    let seconds = error.retry_after.unwrap().as_secs();
    assert!((50..=60).contains(&seconds), "{seconds}");
}

#[tokio::test]
async fn the_pull_limit_is_kept() {
    let (registry, _) = with_index().await;
    let upstream = client(&registry);
    assert_eq!(upstream.rate_limit(), None);
    let told = [("ratelimit-limit", "100;w=21600"), ("ratelimit-remaining", "76;w=21600")];
    registry.script("/manifests/", [Fault::headers(&told)]);
    upstream.head_manifest(&image(), &reference("latest")).await.unwrap();
    upstream.head_manifest(&image(), &reference("latest")).await.unwrap();
    let limit = upstream.rate_limit().unwrap();
    assert_eq!((limit.limit, limit.remaining, limit.window_s), (100, 76, 21600));
}

#[tokio::test]
async fn what_is_no_manifest_is_refused() {
    let (registry, _) = with_index().await;
    let cases = [
        (Fault::answer(200, &[("content-type", "text/html; charset=utf-8")], "<html>"), Kind::BadResponse),
        (Fault::answer(200, &[], "{}"), Kind::BadResponse),
        (Fault::headers(&[("content-encoding", "gzip")]), Kind::BadResponse),
        (Fault::Longer(5 << 20), Kind::TooLarge),
        (Fault::All(vec![Fault::Longer(5 << 20), Fault::NoLength]), Kind::TooLarge),
        (Fault::CloseAt(3), Kind::Broken),
        (Fault::Raw(b"junk\r\n\r\n".to_vec()), Kind::BadResponse),
        (
            Fault::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab".to_vec()),
            Kind::BadResponse,
        ),
    ];
    for (fault, kind) in cases {
        registry.script("/manifests/", [fault]);
        let error = client(&registry).manifest(&image(), &reference("latest")).await.unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
    }
}

#[tokio::test]
async fn tags_come_page_by_page_by_query_only() {
    let (registry, index) = with_index().await;
    for tag in ["a", "b", "c"] {
        registry.shelf().tag("library/redis", tag, index.manifest.digest);
    }
    let upstream = client(&registry);
    let page = upstream.listing(&image(), &Listing::Tags, "n=2").await.unwrap();
    assert_eq!(page.bytes, json!({ "name": "library/redis", "tags": ["a", "b"] }).to_string());
    assert_eq!(page.next_query.as_deref(), Some("n=2&last=b"));
    let page = upstream.listing(&image(), &Listing::Tags, "n=2&last=b").await.unwrap();
    assert_eq!(page.next_query, None);
    let elsewhere = [("link", "<https://evil.example/steal?last=z>; rel=\"next\"")];
    registry.script("/tags/list", [Fault::headers(&elsewhere)]);
    let page = upstream.listing(&image(), &Listing::Tags, "").await.unwrap();
    assert_eq!(page.next_query.as_deref(), Some("last=z"));

    registry.script("/tags/list", [Fault::answer(200, &[], vec![b' '; 9 << 20])]);
    let error = upstream.listing(&image(), &Listing::Tags, "").await.unwrap_err();
    assert_eq!(error.kind, Kind::TooLarge);
    let unknown = "library/unknown".parse().unwrap();
    let error = upstream.listing(&unknown, &Listing::Tags, "").await.unwrap_err();
    assert_eq!(error.kind, Kind::NotFound);
}

#[tokio::test]
async fn referrers_pass_their_filter_on() {
    let (registry, index) = with_index().await;
    let subject = index.manifest.digest;
    let signature = Content::new("signature");
    let descriptor = json!({
        "mediaType": Image::MEDIA_TYPE,
        "digest": signature.digest.to_string(),
        "size": signature.size(),
        "artifactType": "application/x.signature",
    });
    registry.shelf().add_referrer("library/redis", subject, descriptor);
    let upstream = client(&registry);
    let listing = Listing::Referrers(subject);
    let page = upstream.listing(&image(), &listing, "artifactType=application/x.signature").await.unwrap();
    assert!(String::from_utf8_lossy(&page.bytes).contains(&signature.digest.to_string()));
    assert_eq!(page.media_type, MediaType::OCI_INDEX);
    assert_eq!(page.filters_applied.as_deref(), Some("artifactType"));
    let page = upstream.listing(&image(), &listing, "").await.unwrap();
    assert_eq!(page.filters_applied, None);
}
