//! Owns the envelope of every request: its id, the checks of its head, one log line, the metrics, and the guard
//! against a panic. Must not know: what is asked, and what a registry is.

use std::borrow::Cow;
use std::future::Future;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use futures_util::future::{self, Either, Ready};
use http::header::{ALLOW, CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, USER_AGENT};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use ipnet::IpNet;

use super::body::{ResponseBody, Way, Witness};
use super::caller::{ADMIN_SOCKET, Caller, HostFault, Peer, RequestId};
use crate::clock::{Clock, Millis};
use crate::engine::Verdict;
use crate::names::ImageName;
use crate::reply::{Content, Note, Reply, X_REQUEST_ID};
use crate::telemetry::{AccessLog, Answer, Client, Entry, Metrics, Told};

/// Most bytes of a request's headers.
const LARGEST_HEAD: usize = 32 << 10;
/// Longest text in a log line that a client chose.
const LONGEST_FIELD: usize = 1024;
/// What the log says where the client left before there was a head: nginx says the same.
const CLIENT_LEFT: u16 = 499;

/// A request whose head was found in order.
#[derive(Debug)]
pub struct Arrival<B> {
    pub parts: Parts,
    pub body: B,
    pub caller: Caller,
    pub request_id: RequestId,
}

/// What is put around every request.
#[derive(Clone, Debug)]
pub struct Envelope {
    pub metrics: Arc<Metrics>,
    /// `None` where nobody wants these lines.
    pub log: Option<AccessLog>,
    pub clock: Clock,
    pub trusted_proxies: Arc<[IpNet]>,
}

impl Envelope {
    /// Answers a request: by `at_once` if it can, and else by `later`, whose future waits. Dropped half-way, when the
    /// client has gone, it still writes its line.
    pub fn answer<'a, B, F>(
        self: &'a Arc<Self>,
        request: Request<B>,
        peer: Peer,
        at_once: impl FnOnce(&Arrival<B>) -> Option<Reply>,
        later: impl FnOnce(Arrival<B>) -> F,
    ) -> Answering<'a>
    where
        B: Body,
        F: Future<Output = Reply> + Send + 'a,
    {
        let (parts, body) = request.into_parts();
        let is_head = parts.method == Method::HEAD;
        // Boxed: it goes from hand to hand until the last byte is sent.
        let mut line = Box::new(Line::new(self, peer, &parts));
        let caller = Caller::read(&parts, peer, &self.trusted_proxies).map_err(HeadFault::from);
        let caller = match caller.and_then(|caller| check(&parts, &body).map(|()| caller)) {
            Ok(caller) => caller,
            Err(fault) => {
                line.see(&parts);
                return now(self.send(rejected(&fault), line, is_head, Way::Copied));
            }
        };
        line.client = caller.client;
        // A proxy reads the bytes itself, and on this machine that costs it more than it saves us.
        let way = if caller.proxied { Way::Copied } else { Way::Windows };
        let arrival = Arrival { parts, body, caller, request_id: line.request_id };
        let reply = catch_unwind(AssertUnwindSafe(|| at_once(&arrival)))
            .unwrap_or_else(|_| Some(panic_reply(line.request_id.as_str())));
        if let Some(reply) = reply {
            if reply.note.about.as_ref().is_none_or(|about| about.path.is_none()) {
                line.see(&arrival.parts);
            }
            return now(self.send(reply, line, is_head, way));
        }
        line.see(&arrival.parts);
        let waiting = later(arrival);
        // Boxed: it is large and rare, and what is answered at once would be moved about in as large a place.
        Either::Right(Box::pin(async move {
            let handled = guarded(pin!(waiting)).await;
            let reply = handled.unwrap_or_else(|Panicked| panic_reply(line.request_id.as_str()));
            self.send(reply, line, is_head, way)
        }))
    }

    fn send(&self, mut reply: Reply, mut line: Box<Line>, is_head: bool, way: Way) -> Answered {
        if matches!(reply.content, Content::Blob(_)) && announced(&reply).is_none() {
            tracing::error!(
                req_id = %line.request_id.as_str(),
                "a blob without a length would never be known to be whole"
            );
            reply = internal_error(line.request_id.as_str()).with_note(reply.note);
        }
        line.status = Some(reply.status);
        line.note = std::mem::take(&mut reply.note);
        let length = matches!(reply.content, Content::Blob(_)).then(|| announced(&reply)).flatten();
        let request_id = line.request_id.header();
        let body = match (reply.content, length) {
            _ if is_head => ResponseBody::empty(line),
            (Content::Blob(reader), Some(length)) => {
                ResponseBody::blob(reader, length, way, &self.metrics, line)
            }
            (Content::Bytes(bytes), _) => ResponseBody::bytes(bytes, line),
            (Content::Empty | Content::Blob(_), _) => ResponseBody::empty(line),
        };
        let mut response = Response::new(body);
        *response.status_mut() = reply.status;
        *response.headers_mut() = reply.headers;
        response.headers_mut().insert(X_REQUEST_ID, request_id);
        response
    }
}

/// An answer that is there already, or one that is waited for.
pub type Answering<'a> = Either<Ready<Answered>, Pin<Box<dyn Future<Output = Answered> + Send + 'a>>>;
type Answered = Response<ResponseBody<Box<Line>>>;

fn now<'a>(answered: Answered) -> Answering<'a> {
    Either::Left(future::ready(answered))
}

/// The `Content-Length` that a reply announces.
fn announced(reply: &Reply) -> Option<u64> {
    reply.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// A head that a front and we might understand differently.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum HeadFault {
    #[error(transparent)]
    Host(#[from] HostFault),
    #[error("the headers are longer than {LARGEST_HEAD} bytes")]
    Large,
    #[error("{0} is not served")]
    Method(Method),
    #[error("chunked, said once, is the only transfer coding that is served")]
    Coding,
    #[error("a GET or HEAD has no body")]
    Body,
}

fn check(parts: &Parts, body: &impl Body) -> Result<(), HeadFault> {
    let (mut size, mut codings, mut all_chunked) = (0, 0, true);
    for (name, value) in &parts.headers {
        size += name.as_str().len() + value.len() + ": \r\n".len();
        if *name == TRANSFER_ENCODING {
            codings += 1;
            all_chunked &= value.as_bytes().eq_ignore_ascii_case(b"chunked");
        }
    }
    if size > LARGEST_HEAD {
        return Err(HeadFault::Large);
    }
    if matches!(parts.method, Method::TRACE | Method::CONNECT) {
        return Err(HeadFault::Method(parts.method.clone()));
    }
    // Said twice it is chunked twice, or once, or an error, as whoever reads it thinks.
    if codings > 1 || !all_chunked {
        return Err(HeadFault::Coding);
    }
    if matches!(parts.method, Method::GET | Method::HEAD) && !body.is_end_stream() {
        return Err(HeadFault::Body);
    }
    Ok(())
}

/// The connection is closed as well: where its next request begins is no longer sure.
fn rejected(fault: &HeadFault) -> Reply {
    let (status, code, action) = match fault {
        HeadFault::Host(_) => (StatusCode::BAD_REQUEST, "BAD_REQUEST", "reject.host"),
        HeadFault::Large => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "BAD_REQUEST", "reject.large"),
        HeadFault::Method(_) => (StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "reject.method"),
        HeadFault::Coding => (StatusCode::BAD_REQUEST, "BAD_REQUEST", "reject.coding"),
        HeadFault::Body => (StatusCode::BAD_REQUEST, "BAD_REQUEST", "reject.body"),
    };
    let mut reply = Reply::error(status, code, &fault.to_string(), None);
    if status == StatusCode::METHOD_NOT_ALLOWED {
        reply = reply.with_header(ALLOW, "GET, HEAD, POST, PUT, PATCH, DELETE");
    }
    closing(reply.with_note(Note::of(action)))
}

/// The connection ends with this answer.
pub fn closing(reply: Reply) -> Reply {
    reply.with_header(CONNECTION, "close")
}

fn internal_error(request_id: &str) -> Reply {
    let message = "an internal error; the log tells more under this request id";
    let detail = serde_json::json!({ "request_id": request_id });
    Reply::error(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", message, Some(detail))
}

fn panic_reply(request_id: &str) -> Reply {
    tracing::error!(req_id = %request_id, "a request made its handler panic");
    internal_error(request_id).with_note(Note::of("panic"))
}

/// The handler panicked; the panic hook has said where.
#[derive(Debug)]
struct Panicked;

/// A panic ends this request, not the connection's task with the requests that wait behind it.
async fn guarded<F: Future>(mut future: Pin<&mut F>) -> Result<F::Output, Panicked> {
    std::future::poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Ok),
        Err(_) => Poll::Ready(Err(Panicked)),
    })
    .await
}

/// The log line of a request, written when this is dropped: at the end of the body, or when the client left.
#[derive(Debug)]
pub struct Line {
    envelope: Arc<Envelope>,
    start: Millis,
    /// `None` on the admin socket.
    client: Option<IpAddr>,
    method: Method,
    /// Copies: the connection reads into the request's own memory again, once nobody holds a part of it. Empty where the
    /// note tells the path.
    path: String,
    agent: Option<String>,
    request_id: RequestId,
    note: Note,
    /// `None` until there is a head.
    status: Option<StatusCode>,
    first_byte: Option<Millis>,
    bytes: u64,
    complete: bool,
    /// When the last bytes were handed over; with the first, as a rule.
    end: Option<Millis>,
}

impl Line {
    fn new(envelope: &Arc<Envelope>, peer: Peer, parts: &Parts) -> Self {
        Self {
            envelope: Arc::clone(envelope),
            start: envelope.clock.now(),
            client: peer.address(),
            method: parts.method.clone(),
            path: String::new(),
            agent: parts.headers.get(USER_AGENT).map(|agent| match agent.to_str() {
                Ok(agent) => clean(agent).into_owned(),
                Err(_) => escaped(agent.as_bytes()),
            }),
            request_id: RequestId::of(parts, peer, &envelope.trusted_proxies),
            note: Note::default(),
            status: None,
            first_byte: None,
            bytes: 0,
            complete: false,
            end: None,
        }
    }

    /// The path alone: a query may carry a signature.
    fn see(&mut self, parts: &Parts) {
        self.path = clean(parts.uri.path()).into_owned();
    }

    fn write(&self, log: &AccessLog) {
        let end = self.end.unwrap_or_else(|| self.envelope.clock.now());
        let user = self.note.user.as_ref().map(|user| clean(user));
        let about = self.note.about.as_deref();
        log.write(&Entry {
            request_id: self.request_id.as_str(),
            client: self.client.map_or(Client::By(ADMIN_SOCKET), Client::Address),
            // A token of HTTP's: nothing in it needs quotes. It may be long, as all that a client chose.
            method: self.method.as_str().get(..LONGEST_FIELD).unwrap_or(self.method.as_str()),
            path: about.and_then(|about| about.path.as_deref()).unwrap_or(&self.path),
            status: self.code(),
            bytes: self.bytes,
            duration_ms: millis(end, self.start),
            first_byte_ms: self.first_byte.map(|first| millis(first, self.start)),
            action: (!self.note.action.is_empty()).then_some(self.note.action),
            repository: about.map(|about| about.repository.as_str()),
            image: about.and_then(|about| about.image.as_ref()).map(ImageName::as_str),
            reference: about.and_then(|about| about.reference.as_deref()),
            cache: self.note.verdict.map(Verdict::as_str),
            aborted: !self.complete,
            user: user.as_deref(),
            user_agent: self.agent.as_deref(),
        });
    }

    fn code(&self) -> u16 {
        self.status.map_or(CLIENT_LEFT, |status| status.as_u16())
    }
}

impl Witness for Line {
    fn sent(&mut self, bytes: usize, all: bool) {
        let is_first = self.first_byte.is_none();
        if is_first || all {
            let now = self.envelope.clock.now();
            self.first_byte.get_or_insert(now);
            self.end = all.then_some(now);
        }
        self.bytes = self.bytes.saturating_add(bytes as u64);
        self.complete |= all;
    }

    fn nothing_to_send(&mut self) {
        self.complete = true;
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(log) = &self.envelope.log {
            self.write(log);
        }
        record(&self.envelope.metrics, &self.note, self.code(), self.bytes);
        if !self.complete {
            self.envelope.metrics.aborted();
        }
    }
}

/// All that a request counts.
fn record(metrics: &Metrics, note: &Note, code: u16, bytes: u64) {
    // What is asked about a repository is no traffic of it, and may name one that does not exist.
    let named = note.about.as_deref().filter(|_| !note.action.starts_with("api."));
    let repository = named.map_or("-", |about| about.repository.as_str());
    let action = if note.action.is_empty() { "other" } else { note.action };
    let verdict = note.verdict.map(|verdict| Told {
        result: verdict.as_str(),
        // These bytes the upstream did not send for this client.
        saves: match verdict {
            Verdict::Hit | Verdict::Joined | Verdict::Stale | Verdict::Revalidated => true,
            Verdict::Miss | Verdict::Negative | Verdict::Bypass | Verdict::Local => false,
        },
    });
    metrics.answered(Answer { repository, action, code, verdict }, bytes);
}

fn millis(later: Millis, earlier: Millis) -> u64 {
    later.0.saturating_sub(earlier.0)
}

/// One line of printable ASCII, cut: what a client chose can neither forge a line nor colour a terminal.
fn clean(text: &str) -> Cow<'_, str> {
    let odd = |byte: u8| !matches!(byte, b' '..=b'~') | matches!(byte, b'"' | b'\'' | b'\\');
    // Every byte is looked at, without a branch: that is what is fast.
    let plain = text.len() <= LONGEST_FIELD && !text.bytes().fold(false, |seen, byte| seen | odd(byte));
    if plain { Cow::Borrowed(text) } else { Cow::Owned(escaped(text.as_bytes())) }
}

fn escaped(bytes: &[u8]) -> String {
    let mut out = String::new();
    for byte in bytes {
        let escaped = std::ascii::escape_default(*byte);
        if out.len() + escaped.len() > LONGEST_FIELD {
            break;
        }
        out.extend(escaped.map(char::from));
    }
    out
}

#[cfg(test)]
mod tests;
