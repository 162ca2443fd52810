//! Owns the value that a room answers a request with, whatever is spoken: status, headers, content, and a note
//! for the log. Must not know: sockets, and which protocol gave the status.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Serialize;

use crate::engine::{Reader, Verdict};
use crate::names::{ImageName, RepositoryName};

/// Under which a request is found again in the log. Each answer gets its own.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Room for what an answer with content says about it; it grows where there is more.
const USUAL_HEADERS: usize = 12;

/// An answer, not yet on its way.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub content: Content,
    pub note: Note,
}

/// The head of an answer that is given again and again: made once, and copied by the thread that made it. Its values
/// count who holds them, and threads that count together wait for each other.
#[derive(Debug)]
pub struct Head {
    status: StatusCode,
    headers: HeaderMap,
}

impl Head {
    /// With a place for the request's id: a map that grows when it is set would be copied once more.
    pub fn of(reply: &Reply) -> Self {
        let mut headers = reply.headers.clone();
        headers.insert(X_REQUEST_ID, HeaderValue::from_static(""));
        Self { status: reply.status, headers }
    }

    pub fn reply(&self, content: Content) -> Reply {
        Reply { status: self.status, headers: self.headers.clone(), content, note: Note::default() }
    }
}

/// What follows the head.
#[derive(Debug)]
pub enum Content {
    Empty,
    /// As many as the `Content-Length` beside it says.
    Bytes(Bytes),
    /// Exactly as many bytes as the `Content-Length` beside it says.
    Blob(Reader),
}

/// What the access log and the metrics say about a request. They use this, and not the path.
#[derive(Clone, Debug, Default)]
pub struct Note {
    /// A word of ours, such as `blob.get`; empty until the request was understood.
    pub action: &'static str,
    pub about: Option<Arc<About>>,
    pub verdict: Option<Verdict>,
    /// Who asked, where they logged in.
    pub user: Option<String>,
}

/// What a request names.
#[derive(Clone, Debug)]
pub struct About {
    pub repository: RepositoryName,
    pub image: Option<ImageName>,
    /// As text: the log tells it again and again.
    pub reference: Option<Box<str>>,
    /// Its path, where that came before: names and a reference by their grammar, as all that stands here.
    pub path: Option<Box<str>>,
}

impl Note {
    pub fn of(action: &'static str) -> Self {
        Self { action, ..Self::default() }
    }

    /// About a repository as a whole.
    pub fn on(self, repository: RepositoryName) -> Self {
        Self { about: Some(Arc::new(About { repository, image: None, reference: None, path: None })), ..self }
    }
}

impl Reply {
    /// A status, and nothing else.
    pub fn empty(status: StatusCode) -> Self {
        Self {
            status,
            headers: HeaderMap::with_capacity(USUAL_HEADERS),
            content: Content::Empty,
            note: Note::default(),
        }
    }

    pub fn bytes(status: StatusCode, media_type: &str, bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let mut reply = Self::empty(status).with_header(CONTENT_TYPE, media_type);
        reply.headers.insert(CONTENT_LENGTH, bytes.len().into());
        reply.content = Content::Bytes(bytes);
        reply
    }

    pub fn text(status: StatusCode, text: impl Into<String>) -> Self {
        Self::bytes(status, "text/plain; charset=utf-8", text.into())
    }

    /// Our own values always have a JSON form; should one not, the answer says that we are at fault.
    pub fn json(status: StatusCode, value: &impl Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(bytes) => Self::bytes(status, "application/json", bytes),
            Err(error) => {
                tracing::error!(%error, "an answer has no JSON form");
                Self::error(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "UNKNOWN",
                    "the answer cannot be written",
                    None,
                )
            }
        }
    }

    /// `{"errors":[{"code","message","detail"}]}`: the form that every registry client reads.
    pub fn error(status: StatusCode, code: &str, message: &str, detail: Option<serde_json::Value>) -> Self {
        let mut error = serde_json::json!({ "code": code, "message": message });
        if let Some(detail) = detail {
            error["detail"] = detail;
        }
        let body = serde_json::json!({ "errors": [error] }).to_string();
        Self::bytes(status, "application/json", body)
    }

    /// Sets a header. A value that cannot stand in a header is left out: it came from elsewhere.
    #[inline]
    pub fn with_header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }

    /// Sets a header to a text of ours, which is not copied.
    #[inline]
    pub fn with_static(mut self, name: HeaderName, value: &'static str) -> Self {
        self.headers.insert(name, HeaderValue::from_static(value));
        self
    }

    #[inline]
    pub fn with_number(mut self, name: HeaderName, value: u64) -> Self {
        self.headers.insert(name, HeaderValue::from(value));
        self
    }

    #[inline]
    pub fn with_note(mut self, note: Note) -> Self {
        self.note = note;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_escapes_what_it_quotes() {
        let reply = Reply::error(StatusCode::NOT_FOUND, "NAME_UNKNOWN", "no \"x\"\r\n", None);
        let Content::Bytes(bytes) = reply.content else { panic!("an error has a body") };
        let read: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
        assert_eq!(read["errors"][0]["message"], "no \"x\"\r\n");
        assert_eq!(read["errors"][0].get("detail"), None);
    }

    #[test]
    fn a_header_cannot_be_split() {
        let name = HeaderName::from_static("warning");
        let reply = Reply::empty(StatusCode::OK).with_header(name.clone(), "a\r\nSet-Cookie: b");
        assert!(!reply.headers.contains_key(name));
    }
}
