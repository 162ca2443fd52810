//! Owns a request from its first byte to an answer that can be used: token, redirects, judgement.
//! Must not know: what manifests, blobs and lists are.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::{AUTHORIZATION, HeaderMap};
use http::{Method, StatusCode};
use url::Url;

use super::auth::{Auth, Pass};
use super::body::BlobStream;
use super::error::{Kind, UpstreamError};
use super::headers::{BadLength, content_length, is_encoded, rate_limit, retry_after};
use super::model::RateLimit;
use super::redirect::{Trail, is_redirect};
use super::wire::{Wire, place};
use crate::clock::Clock;
use crate::names::ImageName;
use crate::planted::Bug;

/// What is asked for.
pub(super) struct Ask {
    pub(super) method: Method,
    pub(super) url: Url,
    /// Sent to whoever the request is redirected to as well: no secrets.
    pub(super) headers: HeaderMap,
    /// What a token must be good for.
    pub(super) image: Option<ImageName>,
}

/// The head of an answer, of any status, and its unread body.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: BlobStream,
    /// Who answered.
    pub(super) place: String,
    /// Whether that was somebody else than the registry: a CDN, say.
    foreign: bool,
    /// Whether it was asked with a token that had just been granted.
    granted: bool,
    retry_after: Option<Duration>,
}

/// Asks one registry.
pub(super) struct Client {
    wire: Arc<Wire>,
    auth: Auth,
    clock: Clock,
    idle: Duration,
    rate_limit: Mutex<Option<RateLimit>>,
}

impl Client {
    pub(super) fn new(wire: Arc<Wire>, auth: Auth, clock: Clock, idle: Duration) -> Self {
        Self { wire, auth, clock, idle, rate_limit: Mutex::new(None) }
    }

    pub(super) fn rate_limit(&self) -> Option<RateLimit> {
        *self.rate_limit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks, with a token where one is wanted, wherever the registry sends us.
    pub(super) async fn send(&self, ask: &Ask) -> Result<Answer, UpstreamError> {
        let mut pass = self.auth.pass(ask.image.as_ref()).await?;
        loop {
            let answer = self.follow(ask, &pass).await?;
            if answer.status != StatusCode::UNAUTHORIZED || answer.foreign {
                return Ok(answer);
            }
            answer.body.drain().await;
            pass = self.auth.after_refusal(&pass, &answer.headers, ask.image.as_ref()).await?;
        }
    }

    async fn follow(&self, ask: &Ask, pass: &Pass) -> Result<Answer, UpstreamError> {
        let mut trail = Trail::new(ask.url.clone());
        loop {
            let mut headers = ask.headers.clone();
            if let Some(authorization) = pass.header().filter(|_| !trail.left_origin()) {
                headers.insert(AUTHORIZATION, authorization.clone());
            }
            let url = trail.here();
            let place = place(url);
            let response = self.wire.exchange(&ask.method, url, &headers, Kind::Redirect).await?;
            let (head, body) = response.into_parts();
            let body = BlobStream::new(body, self.clock.clone(), place.clone(), self.idle);
            if is_redirect(head.status) {
                body.drain().await;
                trail.follow(&head.headers).map_err(|refusal| UpstreamError {
                    status: Some(head.status.as_u16()),
                    ..UpstreamError::new(Kind::Redirect, format!("{place} {refusal}"))
                })?;
                continue;
            }
            let foreign = trail.left_origin();
            if !foreign {
                self.note_rate_limit(&head.headers);
            }
            let retry_after = retry_after(&head.headers, self.clock.wall());
            return Ok(Answer {
                status: head.status,
                headers: head.headers,
                body,
                place,
                foreign,
                granted: pass.is_just_granted(),
                retry_after,
            });
        }
    }

    fn note_rate_limit(&self, headers: &HeaderMap) {
        if let Some(told) = rate_limit(headers) {
            *self.rate_limit.lock().unwrap_or_else(PoisonError::into_inner) = Some(told);
        }
    }
}

impl Answer {
    /// This answer, if it gives the whole of what was asked for.
    pub(super) fn whole(self) -> Result<Self, UpstreamError> {
        if self.status == StatusCode::PARTIAL_CONTENT {
            return Err(self.error(Kind::BadResponse, "a part, although the whole was asked for"));
        }
        self.whole_or_part()
    }

    /// This answer to a request with a range, which a server may ignore.
    pub(super) fn whole_or_part(self) -> Result<Self, UpstreamError> {
        if !matches!(self.status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
            return Err(self.refusal());
        }
        if is_encoded(&self.headers) && !Bug::EncodingAccepted.is_planted() {
            return Err(
                self.error(Kind::BadResponse, "the answer is encoded, although that was not asked for")
            );
        }
        Ok(self)
    }

    /// As it should be said: once, as a number, and without another framing beside it.
    pub(super) fn length(&self) -> Result<Option<u64>, UpstreamError> {
        content_length(&self.headers).map_err(|BadLength| {
            self.error(Kind::BadResponse, "the answer's length is said twice, or is no number")
        })
    }

    pub(super) fn error(&self, kind: Kind, what: &str) -> UpstreamError {
        UpstreamError {
            kind,
            status: Some(self.status.as_u16()),
            retry_after: self.retry_after,
            message: format!("{}: {what}", self.place),
        }
    }

    fn refusal(&self) -> UpstreamError {
        match self.status.as_u16() {
            // The signed address has expired, most likely: the registry gives a new one when asked again.
            401 | 403 if self.foreign && !Bug::ExpiredAddressBelieved.is_planted() => {
                self.error(Kind::Broken, "the address that the registry redirected to is refused")
            }
            401 | 403 | 451 if self.granted => self.error(Kind::Denied, "access is refused"),
            401 | 403 | 451 => self.error(Kind::Forbidden, "access is refused"),
            404 | 410 => self.error(Kind::NotFound, "there is no such content"),
            416 => self.error(Kind::BadResume, "it cannot go on at the byte that was asked for"),
            429 => self.error(Kind::RateLimited, "too many requests"),
            status @ (408 | 500..=599) => self.error(Kind::Status5xx, &format!("answers {status}")),
            status => self.error(Kind::BadResponse, &format!("unexpected status {status}")),
        }
    }
}
