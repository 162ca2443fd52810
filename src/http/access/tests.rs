//! The envelope of a request: its log line, its id, its counts, a panic inside.

use std::sync::Mutex;

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderValue;
use http_body_util::{BodyExt, Full};

use super::*;
use crate::names::RepositoryName;
use crate::telemetry::LogFormat;

/// Keeps what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn lines(&self) -> Vec<serde_json::Value> {
        let bytes = self.0.lock().expect("no writer panicked").clone();
        let text = String::from_utf8(bytes).expect("the log is text");
        text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
    }
}

fn envelope() -> Arc<Envelope> {
    logging(&Log::default())
}

fn logging(log: &Log) -> Arc<Envelope> {
    let trusted_proxies = ["10.0.0.0/8".parse().expect("a net")].into();
    let kept = log.clone();
    let put = move |line: &[u8]| kept.0.lock().expect("no writer panicked").extend_from_slice(line);
    let log = Some(AccessLog::new(LogFormat::Json, put));
    Arc::new(Envelope { metrics: Metrics::new(), log, clock: Clock::new(), trusted_proxies })
}

fn peer() -> Peer {
    Peer::Tcp("192.0.2.1:5000".parse().expect("an address"))
}

fn request(method: &str, uri: &str, headers: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::default()).expect("a request")
}

const HOST: (&str, &str) = ("host", "localhost");

async fn ok(_: Arrival<Full<Bytes>>) -> Reply {
    hello()
}

fn hello() -> Reply {
    let repository: RepositoryName = "docker-remote".parse().expect("a name");
    let note = Note { verdict: Some(Verdict::Joined), ..Note::of("blob.get").on(repository) };
    Reply::text(StatusCode::OK, "hello").with_note(note)
}

/// Through a handler that waits.
fn answer<'a, F: Future<Output = Reply> + Send + 'a>(
    envelope: &'a Arc<Envelope>,
    request: Request<Full<Bytes>>,
    peer: Peer,
    handler: impl FnOnce(Arrival<Full<Bytes>>) -> F,
) -> Answering<'a> {
    envelope.answer(request, peer, |_| None, handler)
}

/// In each of the two ways in which a request is answered: by one that waits, and at once.
fn both_ways(envelope: &Arc<Envelope>, request: impl Fn() -> Request<Full<Bytes>>) -> [Answering<'_>; 2] {
    let at_once = envelope.answer(request(), peer(), |_| Some(hello()), |_| async { panic!("not at once") });
    [answer(envelope, request(), peer(), ok), at_once]
}

async fn finish(response: Response<ResponseBody<Box<Line>>>) -> (StatusCode, HeaderMap, Bytes) {
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.expect("a whole body").to_bytes();
    (parts.status, parts.headers, bytes)
}

#[tokio::test]
async fn a_request_is_answered_logged_and_counted_once() {
    let log = Log::default();
    let envelope = logging(&log);
    let headers = [HOST, ("authorization", "Bearer secret")];
    for (nth, answer) in both_ways(&envelope, || request("GET", "/v2/a/blobs/x?signature=secret", &headers))
        .into_iter()
        .enumerate()
    {
        let (status, headers, body) = finish(answer.await).await;
        assert_eq!((status, &*body), (StatusCode::OK, &b"hello"[..]));
        assert_eq!(headers[CONTENT_LENGTH], "5");
        let lines = log.lines();
        assert_eq!(lines.len(), nth + 1);
        let fields = &lines[nth];
        assert_eq!((&fields["target"], &fields["level"]), (&"access".into(), &"INFO".into()));
        assert_eq!(fields["req_id"], headers[X_REQUEST_ID].to_str().expect("text"));
        assert_eq!(fields["path"], "/v2/a/blobs/x");
        assert_eq!((&fields["status"], &fields["bytes"]), (&200.into(), &5.into()));
        assert_eq!((&fields["action"], &fields["cache"]), (&"blob.get".into(), &"joined".into()));
        assert_eq!(fields["client"], "192.0.2.1");
        assert_eq!(fields.get("aborted"), None);
        assert!(!fields.to_string().contains("secret"));
        let counted = envelope.metrics.encode();
        let line = format!(
            "binaryrepo_requests_total{{repository=\"docker-remote\",action=\"blob.get\",code=\"200\"}} {}",
            nth + 1
        );
        assert!(counted.lines().any(|counted| counted == line), "{counted}");
    }
}

#[tokio::test]
async fn a_head_has_the_length_and_no_body() {
    let envelope = envelope();
    let answer = answer(&envelope, request("HEAD", "/", &[HOST]), peer(), ok).await;
    let (_, headers, body) = finish(answer).await;
    assert_eq!((&headers[CONTENT_LENGTH], body.len()), (&HeaderValue::from(5), 0));
}

#[tokio::test]
async fn a_panic_is_an_answer_of_500_and_no_more() {
    let envelope = envelope();
    let asked = || request("GET", "/", &[HOST]);
    let waiting = answer(&envelope, asked(), peer(), |_| async { panic!("planted") });
    let at_once = envelope.answer(asked(), peer(), |_| panic!("planted"), ok);
    for answer in [waiting, at_once] {
        let (status, headers, body) = finish(answer.await).await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        let id = headers[X_REQUEST_ID].to_str().expect("text");
        assert_eq!(body["errors"][0]["detail"]["request_id"], id);
        assert!(!body.to_string().contains("planted"));
    }
}

#[tokio::test]
async fn heads_that_are_out_of_order_never_reach_a_handler() {
    let envelope = envelope();
    let large = "a".repeat(33 << 10);
    let cases = [
        ("GET", vec![], 400),
        ("GET", vec![HOST, ("x-large", &large)], 431),
        ("GET", vec![("host", "a@b")], 400),
        ("TRACE", vec![HOST], 405),
        ("CONNECT", vec![HOST], 405),
        ("POST", vec![HOST, ("transfer-encoding", "gzip, chunked")], 400),
        ("POST", vec![HOST, ("transfer-encoding", "chunked"), ("transfer-encoding", "identity")], 400),
    ];
    for (method, headers, expected) in cases {
        let uri = if method == "CONNECT" { "localhost" } else { "/" };
        let unreached = |_| async { panic!("{method} was dispatched") };
        let answer = answer(&envelope, request(method, uri, &headers), peer(), unreached).await;
        let (status, headers, _) = finish(answer).await;
        assert_eq!(status.as_u16(), expected, "{method} {headers:?}");
        assert_eq!(headers[CONNECTION], "close");
    }
    let with_body = Request::get("/").header("host", "a").body(Full::<Bytes>::from("x")).expect("a request");
    let unreached = |_| async { panic!("a GET with a body was dispatched") };
    let (status, ..) = finish(answer(&envelope, with_body, peer(), unreached).await).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_client_that_leaves_early_has_its_line_too() {
    let log = Log::default();
    let envelope = logging(&log);
    // Before the head.
    let never = |_| std::future::pending::<Reply>();
    let mut waiting = Box::pin(answer(&envelope, request("GET", "/v2/", &[HOST]), peer(), never));
    assert!(std::future::poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx).is_pending())).await);
    drop(waiting);
    // Before the body.
    drop(answer(&envelope, request("GET", "/v2/", &[HOST]), peer(), ok).await);
    let seen = log.lines();
    assert_eq!((&seen[0]["status"], &seen[0]["aborted"]), (&CLIENT_LEFT.into(), &true.into()));
    assert_eq!((&seen[1]["status"], &seen[1]["aborted"]), (&200.into(), &true.into()));
    assert_eq!(seen.len(), 2);
}

#[tokio::test]
async fn what_a_client_chose_is_cut_and_escaped() {
    let log = Log::default();
    let envelope = logging(&log);
    let mut asked = request("GET", &format!("/{}", "a".repeat(4000)), &[HOST]);
    let hostile =
        HeaderValue::from_bytes(b"\x1b[31mred\xff\t\"").or_else(|_| HeaderValue::from_bytes(b"red\xff\t\""));
    asked.headers_mut().insert(USER_AGENT, hostile.expect("a header value"));
    finish(answer(&envelope, asked, peer(), ok).await).await;
    let fields = log.lines()[0].clone();
    assert_eq!(fields["path"].as_str().expect("text").len(), LONGEST_FIELD);
    assert_eq!(fields["user_agent"], "red\\xff\\t\\\"");
    finish(answer(&envelope, request(&"M".repeat(4000), "/v2/", &[HOST]), peer(), ok).await).await;
    assert_eq!(log.lines()[1]["method"], "M".repeat(LONGEST_FIELD));
    assert_eq!(clean("\r\n\x1b[0m"), "\\r\\n\\x1b[0m");
}

#[tokio::test]
async fn a_trusted_proxy_names_the_request() {
    let envelope = envelope();
    let proxy = Peer::Tcp("10.0.0.1:1".parse().expect("an address"));
    let headers = [HOST, ("x-request-id", "abc-123")];
    let (_, told, _) = finish(answer(&envelope, request("GET", "/", &headers), proxy, ok).await).await;
    assert_eq!(told[X_REQUEST_ID], "abc-123");
    let (_, own, _) = finish(answer(&envelope, request("GET", "/", &headers), peer(), ok).await).await;
    assert_ne!(own[X_REQUEST_ID], "abc-123");
}
