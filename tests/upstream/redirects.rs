//! Where a registry may send us.

use binaryrepo::upstream::{Kind, Resume};

use crate::support::fault::Fault;
use crate::support::image::Content;
use crate::support::upstream::{Access, Options, Registry};
use crate::{client, client_with, drain, image};

/// A registry that wants tokens, and a CDN that does not, at another origin of the same host.
async fn pair() -> (Registry, Registry, Content) {
    let registry = Registry::start(Options { access: Access::anonymous_token(), ..Options::default() }).await;
    let cdn = Registry::open().await;
    let blob = registry.add_blob("library/redis", 7, 100_000);
    cdn.add_blob("library/redis", 7, 100_000);
    (registry, cdn, blob)
}

fn to(cdn: &Registry, blob: &Content) -> Fault {
    let signed = format!("/v2/library/redis/blobs/{}?signature=secret", blob.digest);
    Fault::Redirect(cdn.url().join(&signed).unwrap().to_string())
}

#[tokio::test]
async fn a_redirect_keeps_the_range_and_drops_the_token() {
    let (registry, cdn, blob) = pair().await;
    registry.script("/blobs/", [Fault::None, to(&cdn, &blob)]);
    let upstream = client(&registry);
    let from = Resume { at: 40_000, validator: Some(format!("\"{}\"", blob.digest)) };
    let response = upstream.blob(&image(), &blob.digest, Some(from)).await.unwrap();
    assert_eq!((response.offset, response.size), (40_000, Some(100_000)));
    let (bytes, end) = drain(response).await;
    assert_eq!(end, Ok(()));
    assert_eq!(bytes, blob.bytes[40_000..]);

    assert!(registry.asked("/blobs/")[1].authorized());
    let asked = cdn.log();
    assert_eq!(asked.len(), 1);
    assert!(!asked[0].authorized());
    assert_eq!(asked[0].range(), Some("bytes=40000-"));
    assert!(asked[0].header("if-range").is_some());
    assert_eq!(asked[0].query, "signature=secret");
}

#[tokio::test]
async fn the_token_goes_along_within_an_origin_and_never_comes_back() {
    let (registry, cdn, blob) = pair().await;
    let upstream = client(&registry);
    let path = format!("/v2/library/redis/blobs/{}", blob.digest);
    registry.script("/blobs/", [Fault::None, Fault::Redirect(format!("{path}?elsewhere"))]);
    let response = upstream.blob(&image(), &blob.digest, None).await.unwrap();
    assert_eq!(drain(response).await.0, blob.bytes);
    assert!(registry.asked("/blobs/")[2].authorized());

    registry.forget();
    registry.script("/blobs/", [to(&cdn, &blob)]);
    cdn.script("/blobs/", [Fault::Redirect(registry.url().join(&path).unwrap().to_string() + "?back")]);
    let error = upstream.blob(&image(), &blob.digest, None).await.unwrap_err();
    let asked = registry.asked("/blobs/");
    assert_eq!(asked.iter().map(|seen| seen.authorized()).collect::<Vec<_>>(), [true, false]);
    assert_eq!((error.kind, error.status), (Kind::Broken, Some(401)));
}

#[tokio::test]
async fn a_private_address_is_visited_only_if_it_was_written_down() {
    let registry = Registry::start(Options { host: "localhost", ..Options::default() }).await;
    let cdn = Registry::open().await;
    let blob = cdn.add_blob("library/redis", 7, 1000);
    let port = cdn.address().port();
    let path = format!("/v2/library/redis/blobs/{}", blob.digest);
    let hosts = ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "0.0.0.0", "[::ffff:127.0.0.1]", "[::1]"];
    for host in hosts {
        registry.script("/blobs/", [Fault::Redirect(format!("http://{host}:{port}{path}"))]);
        let error = client(&registry).blob(&image(), &blob.digest, None).await.unwrap_err();
        assert_eq!(error.kind, Kind::Redirect, "{host}: {error}");
        assert!(error.message.contains("not a public one"), "{error}");
    }
    assert_eq!(cdn.connections(), 0);

    registry.script("/blobs/", [Fault::Redirect(format!("http://127.0.0.1:{port}{path}"))]);
    let allowed = vec![format!("127.0.0.1:{port}")];
    let upstream = client_with(&registry, |settings| settings.allowed_hosts = allowed);
    let response = upstream.blob(&image(), &blob.digest, None).await.unwrap();
    assert_eq!(drain(response).await.0, blob.bytes);
}

#[tokio::test]
async fn a_name_is_judged_by_the_address_behind_it() {
    let registry = Registry::open().await;
    let cdn = Registry::start(Options { host: "localhost", ..Options::default() }).await;
    let blob = cdn.add_blob("library/redis", 7, 1000);
    registry.script("/blobs/", [to(&cdn, &blob)]);
    let error = client(&registry).blob(&image(), &blob.digest, None).await.unwrap_err();
    assert_eq!(error.kind, Kind::Redirect);
    assert!(error.message.contains("localhost"), "{error}");
    assert!(!error.message.contains("secret"), "{error}");
    assert_eq!(cdn.connections(), 0);
}

#[tokio::test]
async fn five_hops_are_followed_and_a_sixth_is_not() {
    let registry = Registry::open().await;
    let blob = registry.add_blob("library/redis", 7, 1000);
    let hop = |number| Fault::Redirect(format!("/v2/library/redis/blobs/{}?hop={number}", blob.digest));
    registry.script("/blobs/", (1..=5).map(hop));
    let response = client(&registry).blob(&image(), &blob.digest, None).await.unwrap();
    assert_eq!(drain(response).await.0, blob.bytes);

    registry.forget();
    registry.script("/blobs/", (1..=6).map(hop));
    let error = client(&registry).blob(&image(), &blob.digest, None).await.unwrap_err();
    assert_eq!(error.kind, Kind::Redirect);
    assert_eq!(registry.log().len(), 6);
}

#[tokio::test]
async fn a_circle_is_noticed() {
    let registry = Registry::open().await;
    let blob = registry.add_blob("library/redis", 7, 1000);
    let path = format!("/v2/library/redis/blobs/{}", blob.digest);
    registry.script("?round", [Fault::Redirect(path.clone())]);
    registry.script("/blobs/", [Fault::Redirect(format!("{path}?round"))]);
    let error = client(&registry).blob(&image(), &blob.digest, None).await.unwrap_err();
    assert_eq!(error.kind, Kind::Redirect);
    assert!(error.message.contains("circle"), "{error}");
    assert_eq!(registry.log().len(), 2);
}

#[tokio::test]
async fn nothing_leads_from_https_to_http() {
    let registry = Registry::start(Options { tls: true, ..Options::default() }).await;
    let plain = Registry::open().await;
    let blob = plain.add_blob("library/redis", 7, 1000);
    registry.script("/blobs/", [to(&plain, &blob)]);
    let ca = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ca.path(), registry.ca_pem()).unwrap();
    let upstream = client_with(&registry, |settings| settings.ca_file = Some(ca.path().to_owned()));
    let error = upstream.blob(&image(), &blob.digest, None).await.unwrap_err();
    assert_eq!(error.kind, Kind::Redirect);
    assert!(error.message.contains("https to http"), "{error}");
    assert_eq!(plain.connections(), 0);
}

#[tokio::test]
async fn a_refusal_by_the_cdn_may_be_tried_again_and_then_has_a_fresh_address() {
    let (registry, cdn, blob) = pair().await;
    let upstream = client(&registry);
    registry.script("/blobs/", [Fault::None, to(&cdn, &blob), to(&cdn, &blob)]);
    cdn.script("/blobs/", [Fault::status(403)]);
    let error = upstream.blob(&image(), &blob.digest, None).await.unwrap_err();
    assert_eq!((error.kind, error.status), (Kind::Broken, Some(403)));
    assert!(error.retryable());
    let response = upstream.blob(&image(), &blob.digest, None).await.unwrap();
    assert_eq!(drain(response).await.0, blob.bytes);
    assert_eq!(registry.asked("/blobs/").len(), 3);
}
