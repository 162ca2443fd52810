//! The hostile requests, each as the bytes that are sent. Rows are those of docs/hostile.md.

use super::CANARY;

pub struct Vector {
    pub row: u8,
    pub what: String,
    pub bytes: Vec<u8>,
    /// Directly or through nginx.
    pub allowed: &'static [u16],
    /// A closed connection is an answer, too.
    pub may_be_silent: bool,
}

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const REFUSED: &[u16] = &[400, 401, 403, 404, 405, 413, 414, 415, 416, 431];
/// As it is a plain request with something about it that means nothing here.
const HARMLESS: &[u16] = &[200, 400, 401, 403, 404, 405];
/// A proxy may say that it does not know an encoding.
const FRAMED: &[u16] = &[200, 400, 401, 403, 404, 405, 411, 413, 501];

pub fn all() -> Vec<Vector> {
    let all = [
        framing(),
        hosts(),
        methods(),
        paths(),
        names(),
        heads(),
        documents(),
        uploads(),
        lists(),
        log_ins(),
    ];
    all.into_iter().flatten().collect()
}

fn vector(row: u8, what: impl Into<String>, bytes: impl Into<Vec<u8>>, allowed: &'static [u16]) -> Vector {
    Vector { row, what: what.into(), bytes: bytes.into(), allowed, may_be_silent: false }
}

/// A whole request, with secrets in all the places where a client has them.
fn request(method: &str, target: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: localhost\r\nCookie: session={CANARY}\r\n\
         Proxy-Authorization: Bearer {CANARY}\r\nReferer: https://cdn.test/?sig={CANARY}\r\n\
         Connection: close\r\n{length}{headers}\r\n"
    );
    [head.as_bytes(), body].concat()
}

fn get(row: u8, target: &str) -> Vector {
    vector(row, format!("GET {}", &target[..target.len().min(80)]), request("GET", target, "", b""), REFUSED)
}

fn framing() -> Vec<Vector> {
    let hidden = "DELETE /api/repository/docker-local?purge=true HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let heads = [
        "Content-Length: 4\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 4",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding: gzip, chunked",
        "Content-Length: 5\r\nContent-Length: 300",
        "Content-Length: +5",
        "Content-Length: 0x5",
        "Content-Length: -1",
        "Content-Length: 99999999999999999999999",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    ];
    let of_head = |head: &str| {
        let bytes = format!("POST /v2/ HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n0\r\n\r\n{hidden}");
        Vector { may_be_silent: true, ..vector(1, head, bytes, FRAMED) }
    };
    let chunk = |size: &str| {
        let bytes = format!(
            "POST /v2/docker-local/a/blobs/uploads/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Transfer-Encoding: chunked\r\n\r\n{size}\r\nhello\r\n0\r\n\r\n"
        );
        // What was asked was to begin an upload; what follows is not read.
        Vector {
            may_be_silent: true,
            ..vector(1, format!("a chunk of {size}"), bytes, &[202, 400, 401, 403, 413])
        }
    };
    heads.map(of_head).into_iter().chain(["fffffffffffffffff", "-5", "5;a=\0", "zz"].map(chunk)).collect()
}

fn hosts() -> Vec<Vector> {
    let hosts = [
        "",
        "Host: a\r\nHost: b\r\n",
        "Host: h/../x?y#z\r\n",
        "Host: user@localhost\r\n",
        "Host: a b\r\n",
        "Host: localhost:port\r\n",
        "Host: \r\n",
        "Host: localhost\0\r\n",
    ];
    let of_host = |host: &str| {
        let bytes = format!("GET /api/repository HTTP/1.1\r\n{host}Connection: close\r\n\r\n");
        vector(2, format!("{host:?}"), bytes, REFUSED)
    };
    let absolute =
        "GET http://elsewhere.test/api/repository HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let rebound = [
        ("Host: evil.test", "GET"),
        ("Host: docker-local.binaryrepo.local", "GET"),
        ("Host: localhost\r\nOrigin: https://evil.test", "POST"),
        ("Host: 127.0.0.1.evil.test", "GET"),
    ];
    let of_rebound = |(host, method): (&str, &str)| {
        let bytes = format!("{method} /api/repository HTTP/1.1\r\n{host}\r\nConnection: close\r\n\r\n");
        vector(31, host, bytes, REFUSED)
    };
    let absolute = vector(2, "an absolute form", absolute, REFUSED);
    hosts.map(of_host).into_iter().chain([absolute]).chain(rebound.map(of_rebound)).collect()
}

fn methods() -> Vec<Vector> {
    let line =
        |what: &str, bytes: &str, allowed| Vector { may_be_silent: true, ..vector(3, what, bytes, allowed) };
    vec![
        line("TRACE", "TRACE / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", REFUSED),
        line(
            "CONNECT",
            "CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: a:80\r\nConnection: close\r\n\r\n",
            REFUSED,
        ),
        line("bare LF", "GET /v2/ HTTP/1.1\nHost: localhost\nConnection: close\n\n", HARMLESS),
        line(
            "a body of a GET",
            "GET /v2/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
            HARMLESS,
        ),
        line(
            "h2c",
            "GET /v2/ HTTP/1.1\r\nHost: localhost\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nConnection: Upgrade, HTTP2-Settings, close\r\n\r\n",
            HARMLESS,
        ),
        line(
            "a folded header",
            "GET /v2/ HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\nConnection: close\r\n\r\n",
            HARMLESS,
        ),
        line(
            "a method of 10 kB",
            &format!("{} / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", "A".repeat(10_000)),
            REFUSED,
        ),
        line("HTTP/9.9", "GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", &[400, 404, 505]),
        Vector {
            row: 10,
            ..line("the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[400, 404, 405, 505])
        },
    ]
}

fn paths() -> Vec<Vector> {
    let paths = [
        "/v2/docker-local/a%2fb/manifests/..%2f..%2fx",
        "/v2/docker-local/a%00b/manifests/1",
        "/v2/docker-local/a%zz/manifests/1",
        "/v2/docker-local/a%/manifests/1",
        "/v2/docker-local//a/manifests/1",
        "/v2/docker-local/./a/manifests/1",
        "/v2/../api/repository",
        "/v2/%2e%2e/api/repository",
        "/v2/%2e%2e/%2e%2e/etc/passwd",
        "/v2/docker-local/a\\b/manifests/1",
        "/v2/docker-local/a%5cb/manifests/1",
        "/v2/docker-local/..;/api/repository",
        "/repo/docker-local/v2/../../../api/repository",
        "/v2/docker-local/a%0d%0aX-Evil:%201/manifests/1",
        "/v2/docker-local/%c0%ae%c0%ae/manifests/1",
        "/..%2f..%2f..%2fetc/passwd",
        "/v2/docker-local/a/blobs/sha256:..%2f..%2f..%2fadmin.token",
    ];
    let raw = [
        &b"/v2/docker-local/\xc3\xa9/manifests/1"[..],
        b"/v2/docker-local/a\0b/manifests/1",
        b"/v2/\xff\xfe/manifests/1",
    ];
    let of_raw = |path: &[u8]| {
        let bytes = [b"GET ", path, b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"].concat();
        vector(4, String::from_utf8_lossy(path), bytes, REFUSED)
    };
    paths.map(|path| get(4, path)).into_iter().chain(raw.map(of_raw)).collect()
}

fn names() -> Vec<Vector> {
    let long = "a".repeat(300);
    let names = [long.as_str(), "UPPER", "a___b", "-a", "a..b", ".a", "a/-/b", "a:b@c"];
    let digests = [
        "sha256:abc".to_owned(),
        DIGEST.to_uppercase(),
        "md5:d41d8cd98f00b204e9800998ecf8427e".to_owned(),
        "sha256:../../../../etc/passwd".to_owned(),
        format!("{DIGEST}0"),
        "sha512:00".to_owned(),
        "sha256:".to_owned(),
    ];
    let tags = [".x".to_owned(), "a".repeat(129), "a b".to_owned(), "-".to_owned()];
    let mut all: Vec<_> = names.map(|name| get(5, &format!("/v2/docker-local/{name}/manifests/1"))).into();
    all.extend(digests.iter().map(|digest| get(6, &format!("/v2/docker-local/a/blobs/{digest}"))));
    all.extend(
        tags.iter().map(|tag| get(7, &format!("/v2/docker-local/a/manifests/{}", tag.replace(' ', "%20")))),
    );
    all
}

fn heads() -> Vec<Vector> {
    let of_header = |row, what: &str, headers: String, allowed| Vector {
        may_be_silent: true,
        ..vector(row, what, request("GET", "/v2/", &headers, b""), allowed)
    };
    let escape = "User-Agent: \x1b[2J\x1b]0;owned\x07 \"}{\"level\":\"ERROR\"\r\n".to_owned();
    let quotes = format!("User-Agent: \"}}\\n{{\\\"status\\\":500}} {}\r\n", "x".repeat(20_000));
    vec![
        of_header(8, "101 headers", "X: y\r\n".repeat(101), REFUSED),
        of_header(8, "a header of 33 KiB", format!("X: {}\r\n", "a".repeat(33 * 1024)), REFUSED),
        of_header(8, "a header of 1 MB", format!("X: {}\r\n", "a".repeat(1_000_000)), REFUSED),
        Vector { may_be_silent: true, ..get(8, &format!("/v2/{}", "a".repeat(70_000))) },
        of_header(27, "an escape in the agent", escape, HARMLESS),
        of_header(27, "quotes in the agent", quotes, HARMLESS),
        of_header(
            26,
            "claims",
            "X-Forwarded-Prefix: /evil\r\nX-Forwarded-Host: evil.test\r\nX-Forwarded-For: 127.0.0.1\r\n\
            X-Forwarded-Proto: gopher\r\nForwarded: for=127.0.0.1;host=evil.test\r\n"
                .to_owned(),
            HARMLESS,
        ),
    ]
}

fn documents() -> Vec<Vector> {
    let deep = |open: &str| open.repeat(100_000).into_bytes();
    let bodies: [(&str, Vec<u8>); 9] = [
        ("arrays in arrays", deep("[")),
        ("objects in objects", deep("{\"a\":")),
        ("a key twice", b"{\"name\":\"x\",\"name\":\"y\",\"layers\":[],\"layers\":[]}".to_vec()),
        (
            "a number of 100 kB",
            [b"{\"name\":0,\"config\":{\"size\":".to_vec(), vec![b'9'; 100_000], b"}}".to_vec()].concat(),
        ),
        ("no UTF-8", b"{\"name\":\"\xff\xfe\"}".to_vec()),
        ("a byte order mark", b"\xef\xbb\xbf{}".to_vec()),
        ("half an object", format!("{{\"password\":\"{CANARY}\",").into_bytes()),
        ("a lone surrogate", b"{\"name\":\"\\ud800\",\"mediaType\":\"\\ud800\"}".to_vec()),
        ("5 MiB of spaces", vec![b' '; 5 << 20]),
    ];
    let manifest = "application/vnd.oci.image.manifest.v1+json";
    let of_body = |(what, body): &(&str, Vec<u8>)| {
        let header = format!("Content-Type: {manifest}\r\n");
        let both = [
            request("PUT", "/v2/docker-local/a/manifests/1", &header, body),
            request("POST", "/api/repository", "Content-Type: application/json\r\n", body),
        ];
        both.map(|bytes| Vector { may_be_silent: body.len() > 1 << 20, ..vector(12, *what, bytes, REFUSED) })
    };
    let both = b"{\"schemaVersion\":2,\"layers\":[],\"manifests\":[]}";
    let header = format!("Content-Type: {manifest}\r\n");
    let confused = vector(
        13,
        "layers and manifests",
        request("PUT", "/v2/docker-local/a/manifests/1", &header, both),
        REFUSED,
    );
    bodies.iter().flat_map(of_body).chain([confused]).collect()
}

fn uploads() -> Vec<Vector> {
    let sessions = [
        "00000000-0000-0000-0000-000000000000",
        "..%2f..%2fadmin.token",
        "0",
        "AAAAAAAAAAAAAAAAAAAAAA",
        "%00",
        "ffffffffffffffffffffffffffffffff",
    ];
    let of_session = |session: &str| {
        ["GET", "PATCH", "PUT", "DELETE"].map(|method| {
            let target = format!("/v2/docker-local/a/blobs/uploads/{session}?digest={DIGEST}");
            let body: &[u8] = if matches!(method, "GET" | "DELETE") { b"" } else { b"hello" };
            vector(19, format!("{method} {session}"), request(method, &target, "", body), REFUSED)
        })
    };
    let terabyte = format!(
        "POST /v2/docker-local/a/blobs/uploads/?digest={DIGEST} HTTP/1.1\r\nHost: localhost\r\n\
         Content-Length: 1099511627776000\r\nConnection: close\r\n\r\nhello"
    );
    let mount = format!("/v2/docker-local/a/blobs/uploads/?mount={DIGEST}&from=docker-local/secret");
    sessions
        .into_iter()
        .flat_map(of_session)
        .chain([
            vector(22, "a petabyte", terabyte, REFUSED),
            vector(16, "a mount from nowhere", request("POST", &mount, "", b""), &[202, 401, 403, 404]),
        ])
        .collect()
}

fn lists() -> Vec<Vector> {
    let queries = [
        "n=-1",
        "n=1000000000000000000",
        "n=0x10",
        "n=",
        "last=%00",
        "last=..%2f..%2fetc",
        "n=1&n=2",
        "last=%0d%0aSet-Cookie:%20a=b",
    ];
    let of_query = |query: &str| {
        ["/v2/_catalog", "/v2/docker-local/a/tags/list"].map(|list| {
            let target = format!("{list}?{query}");
            vector(23, target.clone(), request("GET", &target, "", b""), HARMLESS)
        })
    };
    queries.into_iter().flat_map(of_query).collect()
}

fn log_ins() -> Vec<Vector> {
    let values = [
        format!("Basic {CANARY}"),
        "Basic !!!!".to_owned(),
        "Basic".to_owned(),
        "Bearer".to_owned(),
        format!("Bearer {CANARY}"),
        "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9.".to_owned(),
        "Basic AAAAAP8=".to_owned(),
        format!("Digest username={CANARY}"),
        format!("Bearer {}", "a".repeat(30_000)),
    ];
    let of_value = |value: &String| {
        let header = format!("Authorization: {value}\r\n");
        let shown: String = value.chars().take(30).collect();
        // A log-in that nobody asked for is passed over where there are no users; for managing, none of these is good.
        [
            ("/v2/", HARMLESS),
            ("/token?service=a&scope=repository:a:pull", HARMLESS),
            ("/api/repository", REFUSED),
        ]
        .map(|(target, allowed)| {
            vector(29, format!("{shown} for {target}"), request("GET", target, &header, b""), allowed)
        })
    };
    let query = format!("/v2/?X-Amz-Signature={CANARY}&token={CANARY}");
    values
        .iter()
        .flat_map(of_value)
        .chain([vector(39, "a signed query", request("GET", &query, "", b""), HARMLESS)])
        .collect()
}
