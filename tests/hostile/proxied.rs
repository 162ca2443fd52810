//! What nginx answers itself, with the configuration of this repository: an error of the registry's form, which clients
//! show. And what binaryrepo answers through it, which stays as it is.

use std::net::SocketAddr;

use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::Scene;
use super::client::{Answer, Ask, raw};
use super::nginx::Nginx;

/// A name of each server of nginx's.
const NAMES: [&str; 2] = ["docker-local.binaryrepo.local", "docker-remote.example.com"];
const UPLOAD: &str = "/v2/docker-local/a/blobs/uploads/00000000-0000-0000-0000-000000000000";

/// Bytes that nginx refuses before anybody behind it sees them, for a Host.
fn malformed(host: &str) -> Vec<(Vec<u8>, u16, &'static str)> {
    let rest = format!("Host: {host}\r\nConnection: close\r\n");
    let long = "a".repeat(40_000);
    let all = [
        ("GARBAGE\r\n\r\n".to_owned(), 400, "UNSUPPORTED"),
        ("GET /v2/ HTTP/1.1\r\nConnection: close\r\n\r\n".to_owned(), 400, "UNSUPPORTED"),
        (format!("CONNECT a:80 HTTP/1.1\r\n{rest}\r\n"), 400, "UNSUPPORTED"),
        (format!("TRACE /v2/ HTTP/1.1\r\n{rest}\r\n"), 405, "UNSUPPORTED"),
        (format!("GET /{long} HTTP/1.1\r\n{rest}\r\n"), 414, "NAME_INVALID"),
        (format!("GET /v2/ HTTP/1.1\r\n{rest}X: {long}\r\n\r\n"), 431, "UNSUPPORTED"),
        (format!("POST /v2/ HTTP/1.1\r\n{rest}Transfer-Encoding: x\r\n\r\n"), 501, "UNSUPPORTED"),
        (format!("GET /v2/ HTTP/9.9\r\n{rest}\r\n"), 505, "UNSUPPORTED"),
        // Pages of nginx's own are for nginx.
        (format!("GET /binaryrepo-proxy/error HTTP/1.1\r\n{rest}\r\n"), 404, "UNSUPPORTED"),
    ];
    all.map(|(text, status, code)| (text.into_bytes(), status, code)).into()
}

/// An error that nginx made up: it has no request id, since binaryrepo has not seen the request.
fn of_nginx(answer: &Answer) -> (u16, String) {
    assert_eq!(answer.header("x-request-id"), None, "{}", answer.all());
    assert_eq!(answer.header("docker-distribution-api-version"), Some("registry/2.0"), "{}", answer.all());
    answer.code()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nginx: `make e2e` runs it"]
async fn what_nginx_refuses_is_an_error_of_the_registry() {
    let scene = Scene::start();
    let nginx = Nginx::start(scene.server.address);
    for (host, server) in
        NAMES.map(|host| (host, nginx.address)).into_iter().chain([(NAMES[0], nginx.redirect)])
    {
        for (bytes, status, code) in malformed(host) {
            let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
            let answer = raw(server, bytes).await;
            assert_eq!(of_nginx(&answer), (status, code.to_owned()), "{host}: {shown}");
        }
    }
    let hidden = Ask::get("/metrics").send(nginx.address).await;
    assert_eq!(of_nginx(&hidden), (404, "UNSUPPORTED".to_owned()));
    let head = Ask::head("/metrics").send(nginx.address).await;
    assert_eq!((head.status, head.header("content-type")), (404, Some("application/json")));
    assert!(head.body.is_empty(), "{}", head.all());
    let plain = Ask::get("/v2/").send(nginx.tls).await;
    assert_eq!(of_nginx(&plain), (400, "UNSUPPORTED".to_owned()));
    assert!(plain.error().2.contains("https://"), "{}", plain.all());
    // The pages stand in nobody's way.
    let led = Ask::get("/v2/?a=b").host(NAMES[0]).send(nginx.redirect).await;
    let there = format!("https://{}/v2/?a=b", NAMES[0]);
    assert_eq!((led.status, led.header("location")), (308, Some(there.as_str())), "{}", led.all());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nginx: `make e2e` runs it"]
async fn a_server_that_has_stopped_is_502_and_one_that_is_silent_504() {
    let mut scene = Scene::start();
    let nginx = Nginx::start(scene.server.address);
    let unavailable = |answer: &Answer, status| {
        assert_eq!(of_nginx(answer), (status, "UNAVAILABLE".to_owned()), "{}", answer.all());
        assert_eq!(answer.header("retry-after"), Some("5"), "{}", answer.all());
        assert!(
            answer.error().2.contains("binaryrepo") && answer.error().2.contains("log"),
            "{}",
            answer.all()
        );
    };
    assert_eq!(Ask::get("/v2/").host(NAMES[0]).send(nginx.address).await.status, 200);
    scene.server.signal(Signal::TERM);
    assert_eq!(scene.server.wait(), 0);
    for host in NAMES {
        let ask = |method| Ask::new(method, UPLOAD).host(host);
        unavailable(&ask("GET").send(nginx.address).await, 502);
        unavailable(&ask("PATCH").body(vec![b'x'; 1 << 20]).send(nginx.address).await, 502);
        let head = ask("HEAD").send(nginx.address).await;
        assert_eq!((head.status, head.body.len()), (502, 0), "{}", head.all());
    }
    // Accepts, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hurried = |text: &str| text.replace("proxy_read_timeout 900s;", "proxy_read_timeout 1s;");
    let nginx = Nginx::start_with(silent.local_addr().unwrap(), hurried);
    unavailable(&Ask::get("/v2/").host(NAMES[0]).send(nginx.address).await, 504);
}

/// Answers each request with the status that its path names, and a body that is not nginx's.
async fn echo_statuses(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {}
        let head = String::from_utf8(head).unwrap();
        let status = head.split(' ').nth(1).and_then(|path| path.rsplit('/').next()).unwrap();
        let answer =
            format!("HTTP/1.1 {status} Ours\r\nContent-Type: text/x-ours\r\nContent-Length: 4\r\n\r\nours");
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nginx: `make e2e` runs it"]
async fn what_binaryrepo_answers_passes_through_nginx_as_it_is() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let scripted = listener.local_addr().unwrap();
    let answering = tokio::spawn(echo_statuses(listener));
    let nginx = Nginx::start(scripted);
    for status in [200, 400, 401, 403, 404, 405, 408, 413, 414, 416, 429, 431, 500, 501, 502, 503, 504, 505] {
        for host in NAMES {
            let answer = Ask::get(&format!("/v2/{status}")).host(host).send(nginx.address).await;
            let said = (answer.status, answer.header("content-type"), answer.body.as_slice());
            assert_eq!(said, (status, Some("text/x-ours"), &b"ours"[..]), "{host}: {}", answer.all());
            assert_eq!(answer.header("retry-after"), None, "{host}: {}", answer.all());
        }
    }
    answering.abort();
}

/// Sends all of a large body before it listens.
async fn push_and_listen(to: SocketAddr, size: usize) -> Answer {
    let head = format!(
        "PATCH {UPLOAD} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n"
    );
    raw(to, [head.into_bytes(), vec![b'x'; size]].concat()).await
}

/// nginx stops reading an answer when it cannot send on: who is refused early would be told that nobody answers.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nginx: `make e2e` runs it"]
async fn a_large_push_that_is_refused_hears_why_through_nginx() {
    let scene = Scene::start();
    let nginx = Nginx::start(scene.server.address);
    for round in 0..20 {
        let answer = push_and_listen(nginx.address, 40 << 20).await;
        assert_eq!(answer.code(), (404, "BLOB_UPLOAD_UNKNOWN".to_owned()), "{round}: {}", answer.all());
        assert!(answer.header("x-request-id").is_some(), "{round}: {}", answer.all());
    }
}
