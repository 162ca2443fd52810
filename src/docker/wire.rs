//! Owns the errors of the protocol: the codes with their status, and the one table from the engine's errors to
//! them. Must not know: how an error came about.

use std::time::Duration;

use http::header::{ALLOW, CONTENT_RANGE, HeaderName, LOCATION, RANGE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use serde_json::json;

use crate::engine::{EngineError, ErrorKind, Verdict};
use crate::names::Digest;
use crate::reply::Reply;

/// Said with every answer: clients know by it that this is a registry.
pub const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
pub const REGISTRY_2: HeaderValue = HeaderValue::from_static("registry/2.0");
pub const X_CACHE: HeaderName = HeaderName::from_static("x-cache");

/// The error codes of the OCI distribution-spec, and after them those that older registries added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    BlobUnknown,
    BlobUploadInvalid,
    BlobUploadUnknown,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    SizeInvalid,
    Unauthorized,
    Denied,
    Unsupported,
    TooManyRequests,
    TagInvalid,
    RangeInvalid,
    PaginationNumberInvalid,
    Unavailable,
    Unknown,
}

impl Code {
    /// As it is written, and the status that goes with it unless the case says more.
    pub const fn row(self) -> (&'static str, StatusCode) {
        match self {
            Self::BlobUnknown => ("BLOB_UNKNOWN", StatusCode::NOT_FOUND),
            Self::BlobUploadInvalid => ("BLOB_UPLOAD_INVALID", StatusCode::BAD_REQUEST),
            Self::BlobUploadUnknown => ("BLOB_UPLOAD_UNKNOWN", StatusCode::NOT_FOUND),
            Self::DigestInvalid => ("DIGEST_INVALID", StatusCode::BAD_REQUEST),
            Self::ManifestBlobUnknown => ("MANIFEST_BLOB_UNKNOWN", StatusCode::BAD_REQUEST),
            Self::ManifestInvalid => ("MANIFEST_INVALID", StatusCode::BAD_REQUEST),
            Self::ManifestUnknown => ("MANIFEST_UNKNOWN", StatusCode::NOT_FOUND),
            Self::NameInvalid => ("NAME_INVALID", StatusCode::BAD_REQUEST),
            Self::NameUnknown => ("NAME_UNKNOWN", StatusCode::NOT_FOUND),
            Self::SizeInvalid => ("SIZE_INVALID", StatusCode::BAD_REQUEST),
            Self::Unauthorized => ("UNAUTHORIZED", StatusCode::UNAUTHORIZED),
            Self::Denied => ("DENIED", StatusCode::FORBIDDEN),
            Self::Unsupported => ("UNSUPPORTED", StatusCode::METHOD_NOT_ALLOWED),
            Self::TooManyRequests => ("TOOMANYREQUESTS", StatusCode::TOO_MANY_REQUESTS),
            Self::TagInvalid => ("TAG_INVALID", StatusCode::BAD_REQUEST),
            Self::RangeInvalid => ("RANGE_INVALID", StatusCode::RANGE_NOT_SATISFIABLE),
            Self::PaginationNumberInvalid => ("PAGINATION_NUMBER_INVALID", StatusCode::BAD_REQUEST),
            Self::Unavailable => ("UNAVAILABLE", StatusCode::SERVICE_UNAVAILABLE),
            Self::Unknown => ("UNKNOWN", StatusCode::INTERNAL_SERVER_ERROR),
        }
    }
}

/// The table: what the engine says, and what a client is told.
const fn row(kind: &ErrorKind) -> (Code, StatusCode) {
    match kind {
        ErrorKind::ManifestUnknown => (Code::ManifestUnknown, StatusCode::NOT_FOUND),
        ErrorKind::BlobUnknown => (Code::BlobUnknown, StatusCode::NOT_FOUND),
        ErrorKind::NameUnknown => (Code::NameUnknown, StatusCode::NOT_FOUND),
        ErrorKind::Unsatisfiable { .. } => (Code::RangeInvalid, StatusCode::RANGE_NOT_SATISFIABLE),
        ErrorKind::Unsupported => (Code::Unsupported, StatusCode::METHOD_NOT_ALLOWED),
        ErrorKind::TooManyRequests => (Code::TooManyRequests, StatusCode::TOO_MANY_REQUESTS),
        ErrorKind::UpstreamUnavailable => (Code::Unavailable, StatusCode::BAD_GATEWAY),
        ErrorKind::UpstreamTimeout => (Code::Unavailable, StatusCode::GATEWAY_TIMEOUT),
        ErrorKind::Overloaded => (Code::Unavailable, StatusCode::SERVICE_UNAVAILABLE),
        ErrorKind::Internal => (Code::Unknown, StatusCode::INTERNAL_SERVER_ERROR),
        ErrorKind::UploadUnknown => (Code::BlobUploadUnknown, StatusCode::NOT_FOUND),
        ErrorKind::UploadOutOfOrder { .. } => (Code::RangeInvalid, StatusCode::RANGE_NOT_SATISFIABLE),
        ErrorKind::DigestMismatch => (Code::DigestInvalid, StatusCode::BAD_REQUEST),
        ErrorKind::TooLarge => (Code::SizeInvalid, StatusCode::PAYLOAD_TOO_LARGE),
        ErrorKind::ManifestInvalid => (Code::ManifestInvalid, StatusCode::BAD_REQUEST),
        ErrorKind::SizeMismatch => (Code::SizeInvalid, StatusCode::BAD_REQUEST),
        ErrorKind::ReferencesUnknown(_) => (Code::ManifestBlobUnknown, StatusCode::BAD_REQUEST),
        ErrorKind::Denied => (Code::Denied, StatusCode::FORBIDDEN),
        // A management error: no client meets it.
        ErrorKind::Conflict => (Code::Denied, StatusCode::CONFLICT),
        // The only field of a client's that the engine reads is where a page begins.
        ErrorKind::Invalid { .. } => (Code::PaginationNumberInvalid, StatusCode::BAD_REQUEST),
    }
}

/// An error on its way to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireError {
    pub code: Code,
    pub status: StatusCode,
    /// For the client; what only the log may see was logged where it arose.
    pub message: String,
    pub verdict: Option<Verdict>,
    extra: Extra,
}

/// What a status asks to be said beside the body.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Extra {
    Nothing,
    /// 416: of a blob of this size.
    Size(u64),
    /// 405: these methods would do.
    Allow(&'static str),
    /// 429, 502, 503: come again after this many seconds.
    RetryAfter(u64),
    /// 401: log in, and what was wrong with the token that came.
    LogIn(Option<&'static str>),
    /// 416 of an upload: so many bytes are there; go on behind them.
    Progress {
        at: u64,
        location: Option<String>,
    },
    /// One error for each of these.
    Each(Vec<Digest>),
}

/// A manifest may name many; nobody reads on after so many errors.
const MOST_ERRORS: usize = 100;
/// Longer waits are not asked for: a client that sleeps for hours looks dead.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// Said with a 429 whose upstream named no time.
const LIMITED_WAIT: Duration = Duration::from_secs(30);
/// Said when we are full or stopping.
const BUSY_WAIT: Duration = Duration::from_secs(5);

impl WireError {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let (_, status) = code.row();
        Self { code, status, message: message.into(), verdict: None, extra: Extra::Nothing }
    }

    /// 404 for a path that means nothing here.
    pub fn no_such_path() -> Self {
        let message = "nothing is served under this path; a registry's paths begin with /v2/";
        Self::new(Code::Unsupported, message).with_status(StatusCode::NOT_FOUND)
    }

    /// 405 for a method that this path never takes.
    pub fn method(allow: &'static str) -> Self {
        let mut error = Self::new(Code::Unsupported, format!("this path takes only {allow}"));
        error.extra = Extra::Allow(allow);
        error
    }

    /// 405 for what this repository does not do, though the protocol has it.
    pub fn refused(allow: &'static str, message: impl Into<String>) -> Self {
        let mut error = Self::new(Code::Unsupported, message);
        error.extra = Extra::Allow(allow);
        error
    }

    /// 401. The challenge is added where it is known how the request came in.
    pub fn unauthorized(message: impl Into<String>, reason: Option<&'static str>) -> Self {
        Self { extra: Extra::LogIn(reason), ..Self::new(Code::Unauthorized, message) }
    }

    /// Whether a challenge belongs to it, and the reason to give there.
    pub fn asks_for_log_in(&self) -> Option<Option<&'static str>> {
        match self.extra {
            Extra::LogIn(reason) => Some(reason),
            _ => None,
        }
    }

    pub fn with_wait(mut self, wait: Duration) -> Self {
        self.extra = Extra::RetryAfter(wait.min(LONGEST_WAIT).as_secs().max(1));
        self
    }

    /// Where the upload can be gone on with, if that is what the client must do.
    pub fn of_upload(mut self, here: &str) -> Self {
        if let Extra::Progress { location, .. } = &mut self.extra {
            *location = Some(here.to_owned());
        }
        self
    }

    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// Faults on our side carry the request's id, by which an operator finds the log line.
    pub fn into_reply(self, request_id: &str) -> Reply {
        let detail = self.status.is_server_error().then(|| json!({ "request_id": request_id }));
        let mut reply = match &self.extra {
            Extra::Each(digests) => each(self.status, self.code, &self.message, digests),
            _ => Reply::error(self.status, self.code.row().0, &self.message, detail),
        };
        reply = match self.extra {
            Extra::Nothing | Extra::LogIn(_) | Extra::Each(_) => reply,
            Extra::Progress { at, location } => {
                let reply = reply.with_header(RANGE, &format!("0-{}", at.saturating_sub(1)));
                location.into_iter().fold(reply, |reply, location| reply.with_header(LOCATION, &location))
            }
            Extra::Size(size) => reply.with_header(CONTENT_RANGE, &format!("bytes */{size}")),
            Extra::Allow(methods) => reply.with_header(ALLOW, methods),
            Extra::RetryAfter(seconds) => reply.with_header(RETRY_AFTER, &seconds.to_string()),
        };
        if let Some(verdict) = self.verdict.filter(|verdict| *verdict != Verdict::Local) {
            reply = reply.with_header(X_CACHE, verdict.as_str());
        }
        reply.note.verdict = self.verdict;
        reply
    }
}

fn each(status: StatusCode, code: Code, message: &str, digests: &[Digest]) -> Reply {
    let error = |digest: &Digest| json!({ "code": code.row().0, "message": message, "detail": { "digest": digest.to_string() } });
    let errors: Vec<_> = digests.iter().take(MOST_ERRORS).map(error).collect();
    Reply::json(status, &json!({ "errors": errors }))
}

impl From<EngineError> for WireError {
    fn from(error: EngineError) -> Self {
        error.report();
        let (code, status) = row(&error.kind);
        let wait = match error.kind {
            ErrorKind::TooManyRequests => error.retry_after.or(Some(LIMITED_WAIT)),
            ErrorKind::Overloaded => error.retry_after.or(Some(BUSY_WAIT)),
            _ => error.retry_after,
        };
        let extra = match (&error.kind, wait) {
            (ErrorKind::Unsatisfiable { size }, _) => Extra::Size(*size),
            (ErrorKind::UploadOutOfOrder { at }, _) => Extra::Progress { at: *at, location: None },
            (ErrorKind::ReferencesUnknown(digests), _) => Extra::Each(digests.clone()),
            (_, Some(wait)) => Extra::RetryAfter(wait.min(LONGEST_WAIT).as_secs().max(1)),
            (_, None) => Extra::Nothing,
        };
        let message = match error.kind {
            ErrorKind::Internal => "an internal error; the log tells more under this request id".to_owned(),
            _ => error.message,
        };
        Self { code, status, message, verdict: error.verdict, extra }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reply::Content;

    /// The codes of the distribution-spec 1.1 with the status that distribution gives them.
    #[test]
    fn the_codes_are_those_of_the_specification() {
        let expected = [
            (Code::BlobUnknown, "BLOB_UNKNOWN", 404),
            (Code::BlobUploadInvalid, "BLOB_UPLOAD_INVALID", 400),
            (Code::BlobUploadUnknown, "BLOB_UPLOAD_UNKNOWN", 404),
            (Code::DigestInvalid, "DIGEST_INVALID", 400),
            (Code::ManifestBlobUnknown, "MANIFEST_BLOB_UNKNOWN", 400),
            (Code::ManifestInvalid, "MANIFEST_INVALID", 400),
            (Code::ManifestUnknown, "MANIFEST_UNKNOWN", 404),
            (Code::NameInvalid, "NAME_INVALID", 400),
            (Code::NameUnknown, "NAME_UNKNOWN", 404),
            (Code::SizeInvalid, "SIZE_INVALID", 400),
            (Code::Unauthorized, "UNAUTHORIZED", 401),
            (Code::Denied, "DENIED", 403),
            (Code::Unsupported, "UNSUPPORTED", 405),
            (Code::TooManyRequests, "TOOMANYREQUESTS", 429),
            (Code::TagInvalid, "TAG_INVALID", 400),
            (Code::RangeInvalid, "RANGE_INVALID", 416),
            (Code::PaginationNumberInvalid, "PAGINATION_NUMBER_INVALID", 400),
            (Code::Unavailable, "UNAVAILABLE", 503),
            (Code::Unknown, "UNKNOWN", 500),
        ];
        for (code, text, status) in expected {
            assert_eq!((code.row().0, code.row().1.as_u16()), (text, status));
        }
    }

    #[test]
    fn the_engines_errors_reach_clients_as_what_they_can_act_on() {
        let expected = [
            (ErrorKind::ManifestUnknown, "MANIFEST_UNKNOWN", 404),
            (ErrorKind::BlobUnknown, "BLOB_UNKNOWN", 404),
            (ErrorKind::NameUnknown, "NAME_UNKNOWN", 404),
            (ErrorKind::Unsatisfiable { size: 7 }, "RANGE_INVALID", 416),
            (ErrorKind::Unsupported, "UNSUPPORTED", 405),
            (ErrorKind::TooManyRequests, "TOOMANYREQUESTS", 429),
            (ErrorKind::UpstreamUnavailable, "UNAVAILABLE", 502),
            (ErrorKind::UpstreamTimeout, "UNAVAILABLE", 504),
            (ErrorKind::Overloaded, "UNAVAILABLE", 503),
            (ErrorKind::Internal, "UNKNOWN", 500),
        ];
        for (kind, code, status) in expected {
            let error = WireError::from(EngineError::new(kind, "words"));
            assert_eq!((error.code.row().0, error.status.as_u16()), (code, status));
        }
    }

    fn body(reply: &Reply) -> serde_json::Value {
        match &reply.content {
            Content::Bytes(bytes) => serde_json::from_slice(bytes).expect("JSON"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_fault_of_ours_tells_the_request_id_and_nothing_from_inside() {
        let error = EngineError::new(ErrorKind::Internal, "redb: page 7 of /var/lib is torn");
        let reply = WireError::from(error).into_reply("abc123");
        let error = &body(&reply)["errors"][0];
        assert_eq!(error["detail"]["request_id"], "abc123");
        assert!(!error["message"].as_str().expect("text").contains("redb"));
    }

    #[test]
    fn a_limited_client_is_told_when_to_come_again() {
        let waits = [(None, "30"), (Some(7), "7"), (Some(0), "1"), (Some(1_000_000_000), "300")];
        for (given, said) in waits {
            let error = EngineError::new(ErrorKind::TooManyRequests, "slow down")
                .with_retry_after(given.map(Duration::from_secs));
            let reply = WireError::from(error).into_reply("");
            assert_eq!(reply.headers[RETRY_AFTER], said);
            assert_eq!(body(&reply)["errors"][0].get("detail"), None);
        }
    }

    #[test]
    fn a_range_outside_tells_the_size() {
        let error =
            EngineError::new(ErrorKind::Unsatisfiable { size: 1100 }, "outside").with_verdict(Verdict::Hit);
        let reply = WireError::from(error).into_reply("");
        assert_eq!(reply.headers[CONTENT_RANGE], "bytes */1100");
        assert_eq!(reply.headers[X_CACHE], "hit");
    }

    #[test]
    fn a_wrong_method_tells_the_right_ones() {
        assert_eq!(WireError::method("GET, HEAD").into_reply("").headers[ALLOW], "GET, HEAD");
    }
}
