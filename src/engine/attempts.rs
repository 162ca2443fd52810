//! Owns the order in which a remote's origins are tried, and the pauses between.
//! Must not know: what is asked of them.

use std::time::Duration;

use super::flight::Story;
use crate::cache::Failure;
use crate::planted::Bug;
use crate::upstream::{Kind, Upstream, UpstreamError};

/// Tries of one origin without progress between them.
const TRIES: usize = 3;
const PAUSES: [Duration; TRIES] = [Duration::ZERO, Duration::from_millis(200), Duration::from_secs(1)];

/// So many bytes further count as progress. With fewer, an upstream that sends a byte and breaks off would be asked
/// without end.
const PROGRESS: u64 = 64 * 1024;
/// Of a remote that could not be set up at the start: a file that it names was gone.
const NO_ORIGIN: &str = "the upstream cannot be asked, since the repository's settings name a file that could not \
                         be read when the server started";

/// Walks the origins: each is tried up to three times in a row, then the next mirror. Progress gives an origin
/// its tries back, since a large blob may break often and still arrive.
pub(super) struct Attempts<'a> {
    origins: &'a [Upstream],
    origin: usize,
    tries: usize,
    mismatches: u32,
    /// What the first origin did last: it is the one that was asked for, mirrors are only help.
    verdict: Option<Verdict>,
}

/// Why there is nothing.
#[derive(Debug)]
pub(super) enum Verdict {
    Error(UpstreamError),
    /// It sent other bytes than were asked for.
    Mismatch,
}

impl<'a> Attempts<'a> {
    pub fn new(origins: &'a [Upstream]) -> Self {
        let none = || Verdict::Error(UpstreamError::bad_response(NO_ORIGIN));
        Self { origins, origin: 0, tries: 0, mismatches: 0, verdict: origins.is_empty().then(none) }
    }

    /// The next origin to ask and how long to wait before, or `None` when all were tried.
    pub fn next(&mut self) -> Option<(&'a Upstream, Duration)> {
        if self.tries >= TRIES {
            self.move_on();
        }
        let origin = self.origins.get(self.origin)?;
        let pause = PAUSES[self.tries];
        self.tries += 1;
        // Up to half as much again, so that many servers do not come back in step.
        Some((origin, pause + pause.mul_f64(fastrand::f64() / 2.0)))
    }

    /// This attempt failed.
    pub fn failed(&mut self, error: UpstreamError) {
        let retryable = match error.kind {
            Kind::NotFound => Bug::NotFoundRetried.is_planted(),
            _ => error.retryable() && !Bug::BreakNotRetried.is_planted(),
        };
        if !retryable {
            self.tries = TRIES;
        }
        self.note(Verdict::Error(error));
    }

    /// Other bytes came; says how often by now. One clean retry of the same origin, since a broken cache on the way
    /// may have been passed by; afterwards each gets one chance.
    pub fn mismatched(&mut self) -> u32 {
        self.mismatches += 1;
        if self.mismatches > 1 {
            self.tries = TRIES;
        }
        self.note(Verdict::Mismatch);
        self.mismatches
    }

    /// This attempt came so many bytes further before it failed.
    pub fn progressed(&mut self, bytes: u64) {
        if bytes >= PROGRESS {
            self.tries = 1;
        }
    }

    /// What to report when all were tried.
    pub fn into_verdict(self) -> Option<Verdict> {
        self.verdict
    }

    fn note(&mut self, verdict: Verdict) {
        if self.origin == 0 || self.verdict.is_none() {
            self.verdict = Some(verdict);
        }
    }

    fn move_on(&mut self) {
        self.origin = if Bug::MirrorsForgotten.is_planted() { self.origins.len() } else { self.origin + 1 };
        self.tries = 0;
    }
}

/// What an upstream's error means to the cache.
pub(super) fn failure(error: &UpstreamError) -> Failure {
    match error.kind {
        Kind::NotFound | Kind::Denied => Failure::NotFound,
        Kind::Forbidden => Failure::Forbidden,
        Kind::RateLimited if !Bug::RateLimitHidden.is_planted() => {
            let span = error.retry_after.unwrap_or(Duration::from_secs(30));
            Failure::RateLimited { retry_after_ms: u64::try_from(span.as_millis()).unwrap_or(u64::MAX) }
        }
        Kind::Connect
        | Kind::Tls
        | Kind::Timeout
        | Kind::Broken
        | Kind::Status5xx
        | Kind::OwnCredentials
        | Kind::Redirect
        | Kind::Realm
        | Kind::BadResponse
        | Kind::BadResume
        | Kind::HeadUnsupported
        | Kind::TooLarge
        | Kind::Slow
        | Kind::RateLimited => Failure::Transport,
    }
}

/// What an upstream's error means to a client.
pub(super) fn story(error: &UpstreamError) -> Story {
    Story {
        message: error.message.as_str().into(),
        timed_out: matches!(error.kind, Kind::Timeout | Kind::Slow),
    }
}
