//! Owns the API's errors: `{"error":{"field"?,"message","hint"?}}`, and the one table of their statuses.
//! Must not know: which request failed.

use std::time::Duration;

use http::StatusCode;
use http::header::{ALLOW, RETRY_AFTER};
use serde_json::{Map, Value, json};

use crate::engine::{EngineError, ErrorKind};
use crate::form::FormError;
use crate::reply::Reply;

/// Why a management request was not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    status: StatusCode,
    /// The field or parameter that is wrong.
    field: Option<String>,
    message: String,
    hint: Option<String>,
    allow: Option<String>,
    retry_after: Option<Duration>,
}

impl ApiError {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, field: None, message: message.into(), hint: None, allow: None, retry_after: None }
    }

    pub(super) fn field(field: &str, message: impl Into<String>) -> Self {
        Self { field: Some(field.to_owned()), ..Self::new(StatusCode::BAD_REQUEST, message) }
    }

    /// The body as a whole is wrong.
    pub(super) fn whole(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, message)
    }

    /// `allowed` as in the `Allow` header: `GET, POST`.
    pub(super) fn method(allowed: &str) -> Self {
        let error = Self::new(StatusCode::METHOD_NOT_ALLOWED, format!("this path takes {allowed}"));
        Self { allow: Some(allowed.to_owned()), ..error }
    }

    pub(super) fn too_large(limit: usize) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {limit} bytes"))
    }

    pub fn with_wait(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub fn into_reply(self) -> Reply {
        let mut error = Map::new();
        if let Some(field) = self.field {
            error.insert("field".to_owned(), Value::String(field));
        }
        error.insert("message".to_owned(), Value::String(self.message));
        if let Some(hint) = self.hint {
            error.insert("hint".to_owned(), Value::String(hint));
        }
        let mut reply = Reply::json(self.status, &json!({ "error": error }));
        if let Some(allow) = self.allow {
            reply = reply.with_header(ALLOW, &allow);
        }
        if let Some(after) = self.retry_after {
            reply = reply.with_header(RETRY_AFTER, &after.as_secs().max(1).to_string());
        }
        reply
    }
}

impl From<FormError> for ApiError {
    fn from(error: FormError) -> Self {
        Self { field: error.field, hint: error.hint, ..Self::new(StatusCode::BAD_REQUEST, error.message) }
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        error.report();
        let field = match &error.kind {
            ErrorKind::Invalid { field } => Some(field.clone()),
            _ => None,
        };
        let retry_after = error.retry_after;
        Self { field, retry_after, ..Self::new(status(&error.kind), error.message) }
    }
}

/// The one table.
fn status(kind: &ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::ManifestUnknown | ErrorKind::BlobUnknown | ErrorKind::NameUnknown => StatusCode::NOT_FOUND,
        // A 405 would have to say which methods there are; the method is not what is wrong.
        ErrorKind::Invalid { .. } | ErrorKind::Unsupported => StatusCode::BAD_REQUEST,
        ErrorKind::Conflict => StatusCode::CONFLICT,
        ErrorKind::Unsatisfiable { .. } => StatusCode::RANGE_NOT_SATISFIABLE,
        ErrorKind::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::UpstreamUnavailable => StatusCode::BAD_GATEWAY,
        ErrorKind::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
        ErrorKind::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::UploadUnknown => StatusCode::NOT_FOUND,
        // Pushes only: no management request meets them.
        ErrorKind::UploadOutOfOrder { .. }
        | ErrorKind::DigestMismatch
        | ErrorKind::TooLarge
        | ErrorKind::ManifestInvalid
        | ErrorKind::SizeMismatch
        | ErrorKind::ReferencesUnknown(_) => StatusCode::BAD_REQUEST,
        ErrorKind::Denied => StatusCode::FORBIDDEN,
        ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
