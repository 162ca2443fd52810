//! What no client of good faith sends, and what mistakes look like: each is answered, in the form that registry
//! clients read, and the connection that cannot be trusted any more is closed.

use serde_json::json;

use super::client::{Answer, Ask, raw};
use super::house::{House, blob, hub, manifest};
use super::support::image::{Content, Image};

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// `METHOD path`, the status, the code.
async fn check(house: &House, cases: &[(&str, &str, u16, &str)]) {
    for (method, path, status, code) in cases {
        let answer = house.send(Ask::new(method, path)).await;
        let shown: String = path.chars().take(100).collect();
        if *method == "HEAD" {
            assert_eq!((answer.status, answer.body.len()), (*status, 0), "{method} {shown}");
            continue;
        }
        assert_eq!(answer.code(), (*status, (*code).to_owned()), "{method} {shown}: {}", answer.all());
        assert_eq!(answer.header("docker-distribution-api-version"), Some("registry/2.0"), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_references_and_paths_that_cannot_be() {
    let (registry, house) = hub(&Image::new(501, &[10])).await;
    let long = format!("/v2/docker-remote/{}/manifests/7", "a".repeat(256));
    let endless = format!("/v2/docker-remote/{}/manifests/7", "a/".repeat(5_000));
    let tag = format!("/v2/docker-remote/redis/manifests/{}", "t".repeat(129));
    let upper =
        format!("/v2/docker-remote/redis/blobs/{}", DIGEST.to_uppercase().replace("SHA256", "sha256"));
    check(
        &house,
        &[
            ("GET", "/v2/docker-remote/Redis/manifests/7", 400, "NAME_INVALID"),
            ("GET", "/v2/docker-remote/a___b/manifests/7", 400, "NAME_INVALID"),
            ("GET", "/v2/docker-remote/-a/tags/list", 400, "NAME_INVALID"),
            ("GET", "/v2/docker-remote/a//b/manifests/7", 400, "NAME_INVALID"),
            ("GET", "/v2/docker-remote/../redis/manifests/7", 400, "NAME_INVALID"),
            ("GET", "/v2/docker-remote/%2e%2e/manifests/7", 400, "NAME_INVALID"),
            ("GET", "/v2/docker-remote/a%2fb/manifests/7", 400, "NAME_INVALID"),
            ("GET", "/v2/docker-remote/a\\b/manifests/7", 400, "NAME_INVALID"),
            ("GET", "/v2/docker-remote/redis/manifests/7%00", 400, "NAME_INVALID"),
            ("GET", "/repo/../v2/redis/manifests/7", 400, "NAME_INVALID"),
            ("GET", &long, 400, "NAME_INVALID"),
            ("GET", &endless, 414, "NAME_INVALID"),
            ("GET", &tag, 404, "MANIFEST_UNKNOWN"),
            ("GET", "/v2/docker-remote/redis/manifests/.x", 404, "MANIFEST_UNKNOWN"),
            ("HEAD", "/v2/docker-remote/redis/manifests/.x", 404, ""),
            ("GET", "/v2/docker-remote/redis/manifests/sha256:baddigeststring", 400, "DIGEST_INVALID"),
            ("GET", "/v2/docker-remote/redis/blobs/latest", 400, "DIGEST_INVALID"),
            (
                "GET",
                "/v2/docker-remote/redis/blobs/md5:d41d8cd98f00b204e9800998ecf8427e",
                400,
                "DIGEST_INVALID",
            ),
            ("GET", "/v2/docker-remote/redis/blobs/sha256:../../etc/passwd", 400, "NAME_INVALID"),
            ("HEAD", "/v2/docker-remote/redis/blobs/sha256:abc", 400, ""),
            ("GET", &upper, 400, "DIGEST_INVALID"),
            ("GET", "/v2/docker-remote/redis/referrers/sha256:abc", 400, "DIGEST_INVALID"),
            ("GET", "/v2/docker-remote/redis/tags/list?n=-1", 400, "PAGINATION_NUMBER_INVALID"),
            ("GET", "/v2/docker-remote/redis/tags/list?n=many", 400, "PAGINATION_NUMBER_INVALID"),
        ],
    )
    .await;
    assert!(registry.log().is_empty(), "nothing of it is asked of anybody: {:?}", registry.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_and_methods_that_are_not_there() {
    let (registry, house) = hub(&Image::new(502, &[10])).await;
    let path = |word: &str| format!("/v2/docker-remote/redis/{word}");
    check(
        &house,
        &[
            ("GET", "/v1/_ping", 404, "UNSUPPORTED"),
            ("GET", "/v2/docker-remote", 404, "UNSUPPORTED"),
            ("GET", &path("nonsense"), 404, "UNSUPPORTED"),
            ("GET", "/nonsense", 404, "UNSUPPORTED"),
            ("GET", "/repo", 404, "UNSUPPORTED"),
            ("GET", "/repo/docker-remote/v1/redis", 404, "UNSUPPORTED"),
            ("POST", "/v2/", 405, "UNSUPPORTED"),
            ("POST", &path("manifests/7"), 405, "UNSUPPORTED"),
            ("PATCH", &path(&format!("blobs/{DIGEST}")), 405, "UNSUPPORTED"),
            ("OPTIONS", &path("tags/list"), 405, "UNSUPPORTED"),
            ("BREW", &path("tags/list"), 405, "UNSUPPORTED"),
        ],
    )
    .await;
    for (method, path, allowed) in [
        ("DELETE", "/v2/".to_owned(), "GET, HEAD"),
        ("PUT", path("tags/list"), "GET, HEAD"),
        ("POST", "/healthz".to_owned(), "GET, HEAD"),
        ("PUT", "/metrics".to_owned(), "GET, HEAD"),
    ] {
        let answer = house.send(Ask::new(method, &path)).await;
        assert_eq!((answer.code().0, answer.header("allow")), (405, Some(allowed)), "{method} {path}");
    }
    assert!(registry.log().is_empty());
}

/// A remote is a cache: whoever pushes is told where to go instead.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_to_a_remote_is_told_where_to_go() {
    let (registry, house) = hub(&Image::new(503, &[10])).await;
    let path = |word: &str| format!("/v2/docker-remote/redis/{word}");
    for (method, path) in [
        ("POST", path("blobs/uploads/")),
        ("POST", path(&format!("blobs/uploads/?mount={DIGEST}&from=a/b"))),
        ("PUT", path("manifests/7")),
    ] {
        let answer = house.send(Ask::new(method, &path).body("{}")).await;
        let (status, code, message) = answer.error();
        assert_eq!((status, code.as_str()), (405, "UNSUPPORTED"), "{method} {path}");
        assert!(message.contains("docker-local"), "{message}");
    }
    for (method, path) in [("DELETE", path("manifests/7")), ("DELETE", path(&format!("blobs/{DIGEST}")))] {
        let (status, code, message) = house.send(Ask::new(method, &path)).await.error();
        assert_eq!((status, code.as_str()), (405, "UNSUPPORTED"), "{method} {path}");
        assert!(message.contains("purge"), "{message}");
    }
    assert!(registry.log().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_of_every_kind() {
    let image = Image::new(504, &[100_000]);
    let (_registry, house) = hub(&image).await;
    house.cache("redis", "7", &image).await;
    // From a file, and, up to 64 KiB, from memory.
    for content in [&image.layers[0], &image.config] {
        let size = content.bytes.len();
        let part = async |range: &str| {
            let answer = house.send(Ask::get(&blob("redis", content)).header("Range", range)).await;
            assert!(answer.is_whole(), "{range}: {}", answer.all());
            answer
        };
        for (range, from, to) in [
            ("bytes=0-0", 0, 1),
            ("bytes=7-", 7, size),
            ("bytes=-5", size - 5, size),
            ("bytes=-1000000", 0, size),
            ("bytes=3-18446744073709551615", 3, size),
        ] {
            let answer = part(range).await;
            assert_eq!(answer.status, 206, "{range}");
            let said = format!("bytes {from}-{}/{size}", to - 1);
            assert_eq!(answer.header("content-range"), Some(said.as_str()), "{range}");
            assert_eq!(answer.body, content.bytes[from..to], "{range}");
        }
        for range in [format!("bytes={size}-"), "bytes=1000000-1000001".to_owned(), "bytes=-0".to_owned()] {
            let answer = part(&range).await;
            assert_eq!(answer.code(), (416, "RANGE_INVALID".to_owned()), "{range}");
            assert_eq!(answer.header("content-range"), Some(format!("bytes */{size}").as_str()));
        }
        assert_eq!(part("bytes=9-2").await.status, 416, "as the conformance suite asks");
        for whole in ["bytes=0-0,2-3", "lines=1-2", "bytes", "bytes=a-b", ""] {
            let answer = part(whole).await;
            assert_eq!((answer.status, answer.header("content-range")), (200, None), "{whole}");
            assert_eq!(answer.body, content.bytes);
        }
        let tag = format!("\"{}\"", content.digest);
        let if_range = |value: &str| {
            Ask::get(&blob("redis", content)).header("Range", "bytes=0-0").header("If-Range", value)
        };
        assert_eq!(house.send(if_range(&tag)).await.status, 206);
        assert_eq!(house.send(if_range("\"other\"")).await.status, 200);
        let same = Ask::get(&blob("redis", content)).header("If-None-Match", &tag);
        assert_eq!(house.send(same).await.status, 304);
    }
    let tag = format!("\"{}\"", image.manifest.digest);
    let known = house.send(Ask::get(&manifest("redis", "7")).header("If-None-Match", &tag)).await;
    assert_eq!((known.status, known.body.len()), (304, 0));
    let whole = house.send(Ask::get(&manifest("redis", "7")).header("Range", "bytes=0-0")).await;
    assert_eq!((whole.status, whole.body), (200, image.manifest.bytes.to_vec()), "a manifest has no ranges");
}

/// Bytes that a client library would not send.
#[tokio::test(flavor = "multi_thread")]
async fn heads_that_a_proxy_and_we_might_read_differently() {
    let house = House::new().await;
    let to = house.address;
    let closed = |answer: &Answer, what: &str| {
        assert_eq!(answer.header("connection"), Some("close"), "{what}");
    };
    for (lines, status) in [
        ("", 400),
        ("Host: a\r\nHost: b\r\n", 400),
        ("Host: h/../x?y#z\r\n", 400),
        ("Host: user@a\r\n", 400),
        ("Host: a b\r\n", 400),
        ("Host: \r\n", 400),
        ("Host: a:port\r\n", 400),
        ("Host: a\r\nTransfer-Encoding: gzip, chunked\r\n", 400),
        ("Host: a\r\nContent-Length: 5\r\n", 400),
    ] {
        let answer = raw(to, format!("GET /v2/ HTTP/1.1\r\n{lines}\r\nhello")).await;
        assert_eq!(answer.code(), (status, "BAD_REQUEST".to_owned()), "{lines}");
        closed(&answer, lines);
    }
    let absolute = raw(to, "GET http://b/v2/ HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(absolute.code(), (400, "BAD_REQUEST".to_owned()));
    for method in ["TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n"] {
        assert_eq!(raw(to, method).await.code(), (405, "UNSUPPORTED".to_owned()), "{method}");
    }
    let upgrade = "GET /v2/ HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade, close\r\n\r\n";
    assert_eq!(raw(to, upgrade).await.status, 200, "an upgrade is not offered");
    let older = raw(to, "GET /v2/ HTTP/1.0\r\nHost: a\r\n\r\n").await;
    assert_eq!((older.status, older.is_whole()), (200, true), "as a proxy asks by default");
    // Beyond these, hyper itself refuses: with a bare status.
    let large = "a".repeat(33 * 1024);
    let answer = raw(to, format!("GET /v2/ HTTP/1.1\r\nHost: a\r\nX-Large: {large}\r\n\r\n")).await;
    assert_eq!(answer.code(), (431, "BAD_REQUEST".to_owned()));
    for (bare, status) in [
        (format!("GET /v2/ HTTP/1.1\r\nHost: a\r\nX-Large: {large}{large}\r\n\r\n"), 431),
        (format!("GET /v2/ HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(101)), 431),
        ("nonsense\r\n\r\n".to_owned(), 400),
        ("GET /v2/ HTTP/1.1\r\nHost : a\r\n\r\n".to_owned(), 400),
        ("GET /v2/ HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n".to_owned(), 400),
    ] {
        assert_eq!(raw(to, &bare).await.status, status, "{}", &bare[..40.min(bare.len())]);
    }
    assert_eq!(house.get("/v2/").await.status, 200, "the server is none the worse for it");
}

/// A request hidden in another's body must never be answered: the first one's answer closes the connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_within_a_request_is_never_answered() {
    let house = House::new().await;
    let hidden = "DELETE /api/repository/docker-local HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for head in [
        "GET /v2/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked",
        "POST /api/purge HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked",
        "GET /v2/ HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: xchunked",
        "POST /api/purge HTTP/1.1\r\nHost: evil.test\r\nContent-Length: 300",
    ] {
        raw(house.address, format!("{head}\r\n\r\n0\r\n\r\n{hidden}")).await;
    }
    assert_eq!(house.get("/api/repository/docker-local").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_chose_cannot_forge_headers_or_links() {
    let image = Image::new(505, &[10]);
    let (registry, house) = hub(&image).await;
    registry.shelf().tag("library/redis", "8", image.manifest.digest);
    let evil = "/v2/docker-remote/redis/tags/list?n=1&last=%0d%0aSet-Cookie:%20a=b";
    let answer = house.get(evil).await;
    assert_eq!((answer.status, answer.header("set-cookie")), (200, None));
    for namespace in ["a%0d%0aX-Evil:%201", "%22%3e", "\u{e9}"] {
        let answer = house.get(&format!("/v2/redis/manifests/7?ns={namespace}")).await;
        assert_eq!(answer.code().0, 404, "{namespace}");
        assert_eq!(answer.header("x-evil"), None);
    }
    let chosen = Ask::get("/v2/").header("X-Request-Id", "chosen-by-a-stranger");
    assert_ne!(house.send(chosen).await.header("x-request-id"), Some("chosen-by-a-stranger"));
}

/// The bytes lie here, and an image that has no right to them is told exactly what it would be told without.
#[tokio::test(flavor = "multi_thread")]
async fn a_digest_is_shown_only_through_an_image_that_has_it() {
    let secret = Image::new(506, &[100_000]);
    let (registry, house) = hub(&secret).await;
    registry.add_image("team/other", "1", &Image::new(507, &[10]));
    house.cache("redis", "7", &secret).await;
    let path = format!("/v2/docker-remote/team/other/blobs/{}", secret.layers[0].digest);
    let nowhere = format!("/v2/docker-remote/team/other/blobs/{}", Content::random(1, 5).digest);
    let (told, absent) = (house.get(&path).await, house.get(&nowhere).await);
    assert_eq!(told.code(), (404, "BLOB_UNKNOWN".to_owned()));
    assert_eq!(told.json(), absent.json());
    assert_eq!(house.head(&path).await.status, 404);
    let manifest = format!("/v2/docker-remote/team/other/manifests/{}", secret.manifest.digest);
    assert_eq!(house.get(&manifest).await.code(), (404, "MANIFEST_UNKNOWN".to_owned()));
    assert_eq!(house.api("POST", "/api/repository", &json!({})).await.status, 400);
}
