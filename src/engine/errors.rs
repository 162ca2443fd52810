//! Owns what a refused waiter is told: from the cache's word and the flight's story to an `EngineError`.
//! Must not know: HTTP status codes.

use std::time::Duration;

use super::actor::Full;
use super::flight::Story;
use super::model::{EngineError, ErrorKind, Verdict};
use crate::cache::{Failure, Refusal};

/// What an upstream's limit is passed on as, at most.
const LONGEST_RETRY: Duration = Duration::from_secs(300);

impl From<Full> for EngineError {
    fn from(_: Full) -> Self {
        Self::new(ErrorKind::Overloaded, "the server has too many requests waiting; try again in a moment")
            .with_retry_after(Some(Duration::from_secs(1)))
    }
}

/// Why a remote has nothing to show.
#[derive(Debug)]
pub(super) enum Missed {
    /// The upstream answers, and does not have it.
    Gone(EngineError),
    /// It does not answer well, or not in time, or we failed: what it has is not known.
    Failed(EngineError),
}

impl Missed {
    pub fn of(why: Refusal, story: Option<&Story>, unknown: ErrorKind) -> Self {
        let error = refused(why, story, unknown);
        match why {
            Refusal::Failed(Failure::NotFound) | Refusal::Remembered(Failure::NotFound) => Self::Gone(error),
            _ => Self::Failed(error),
        }
    }
}

impl From<EngineError> for Missed {
    fn from(error: EngineError) -> Self {
        Self::Failed(error)
    }
}

impl From<Missed> for EngineError {
    fn from(missed: Missed) -> Self {
        match missed {
            Missed::Gone(error) | Missed::Failed(error) => error,
        }
    }
}

/// `unknown` is what an upstream's 404 means here: no such manifest, or no such blob.
pub(super) fn refused(why: Refusal, story: Option<&Story>, unknown: ErrorKind) -> EngineError {
    let (failure, remembered) = match why {
        Refusal::Failed(failure) => (failure, false),
        Refusal::Remembered(failure) => (failure, true),
        Refusal::Late => {
            let message = "the upstream did not answer in time";
            return EngineError::new(ErrorKind::UpstreamTimeout, message).with_verdict(Verdict::Miss);
        }
        Refusal::Bypass => (Failure::NoSpace, false),
    };
    let told = story.map(|story| story.message.as_ref());
    let error = match failure {
        Failure::NotFound => EngineError::new(unknown, told.unwrap_or("the upstream does not have it")),
        Failure::Forbidden => EngineError::new(unknown, told.unwrap_or("the upstream refuses access")),
        Failure::RateLimited { retry_after_ms } => {
            let after = Duration::from_millis(retry_after_ms).min(LONGEST_RETRY);
            let message = told.unwrap_or("the upstream limits how often it may be asked");
            EngineError::new(ErrorKind::TooManyRequests, message).with_retry_after(Some(after))
        }
        Failure::Mismatch => EngineError::new(
            ErrorKind::UpstreamUnavailable,
            told.unwrap_or("the upstream sent other bytes than the digest names"),
        ),
        Failure::Transport if story.is_some_and(|story| story.timed_out) => {
            EngineError::new(ErrorKind::UpstreamTimeout, told.unwrap_or_default())
        }
        Failure::Transport => EngineError::new(
            ErrorKind::UpstreamUnavailable,
            told.unwrap_or("the upstream failed a moment ago; it is asked again in a few seconds"),
        ),
        Failure::NoSpace => EngineError::new(ErrorKind::Overloaded, "there is no space left to cache this")
            .with_retry_after(Some(Duration::from_secs(5))),
        Failure::Died => EngineError::new(
            ErrorKind::Overloaded,
            told.unwrap_or("the fetch was ended before it was complete; try again"),
        )
        .with_retry_after(Some(Duration::from_secs(1))),
    };
    error.with_verdict(if remembered { Verdict::Negative } else { Verdict::Miss })
}
