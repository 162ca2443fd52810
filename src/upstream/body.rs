//! Owns reading bodies: silence and drip are noticed, and sizes are bounded.
//! Must not know: which request the body answers.

use std::fmt;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};

use super::error::{Kind, UpstreamError};
use crate::clock::Clock;

/// Bytes in a second below which a connection is given up.
const SLOWEST: u64 = 10 * 1024;
/// The bodies of refusals and redirects are read up to here, so that their connection can be used again.
const DRAIN: u64 = 16 * 1024;

/// The body of an answer, piece by piece. Dropping it early closes its connection.
pub struct BlobStream {
    body: Incoming,
    clock: Clock,
    place: String,
    idle: Duration,
    pace: Pace,
}

/// How much came while somebody waited for it. The time between two calls does not count: then it is
/// the reader that is slow.
#[derive(Debug, Default)]
struct Pace {
    waited: Duration,
    bytes: u64,
}

impl Pace {
    /// Whether the span just completed was too slow; a new span starts then.
    fn is_slow(&mut self, waited: Duration, bytes: u64, span: Duration) -> bool {
        self.waited += waited;
        self.bytes += bytes;
        if self.waited < span {
            return false;
        }
        let seen = std::mem::take(self);
        u128::from(seen.bytes) * 1000 < u128::from(SLOWEST) * seen.waited.as_millis()
    }
}

impl BlobStream {
    pub(super) fn new(body: Incoming, clock: Clock, place: String, idle: Duration) -> Self {
        Self { body, clock, place, idle, pace: Pace::default() }
    }

    /// `None`: the message ended as it was framed.
    pub async fn next(&mut self) -> Option<Result<Bytes, UpstreamError>> {
        loop {
            let started = self.clock.now();
            let Ok(frame) = tokio::time::timeout(self.idle, self.body.frame()).await else {
                return Some(Err(self.error(Kind::Timeout, &format!("no byte for {:?}", self.idle))));
            };
            let waited = self.clock.now().since(started);
            let frame = match frame? {
                Ok(frame) => frame,
                Err(error) => return Some(Err(self.broken(&error))),
            };
            // Trailers mean nothing to us.
            let Ok(bytes) = frame.into_data() else {
                continue;
            };
            if self.pace.is_slow(waited, bytes.len() as u64, self.idle) {
                return Some(Err(self.error(Kind::Slow, "less than 10 KiB a second")));
            }
            if !bytes.is_empty() {
                return Some(Ok(bytes));
            }
        }
    }

    /// The whole body, if it is no longer than `most`.
    pub(super) async fn read_all(mut self, most: u64) -> Result<Bytes, UpstreamError> {
        let mut whole = BytesMut::new();
        while let Some(piece) = self.next().await {
            let piece = piece?;
            if whole.len() as u64 + piece.len() as u64 > most {
                return Err(self.error(Kind::TooLarge, &format!("the answer is longer than {most} bytes")));
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole.freeze())
    }

    /// Reads what is left of a short body that nobody wants.
    pub(super) async fn drain(self) {
        if self.body.size_hint().upper().is_some_and(|most| most <= DRAIN) {
            // The connection is closed instead, where this fails.
            let _ = self.read_all(DRAIN).await;
        }
    }

    fn broken(&self, error: &hyper::Error) -> UpstreamError {
        if error.is_parse() {
            return self.error(Kind::BadResponse, "the body is framed wrongly");
        }
        self.error(Kind::Broken, "the connection ended in the middle of the body")
    }

    fn error(&self, kind: Kind, what: &str) -> UpstreamError {
        UpstreamError::new(kind, format!("{}: {what}", self.place))
    }
}

impl fmt::Debug for BlobStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobStream").field("place", &self.place).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Duration = Duration::from_secs(30);

    #[test]
    fn a_drip_is_slow_after_the_span() {
        let mut pace = Pace::default();
        for second in 1..30 {
            assert!(!pace.is_slow(Duration::from_secs(1), 10, SPAN), "{second}");
        }
        assert!(pace.is_slow(Duration::from_secs(1), 10, SPAN));
    }

    #[test]
    fn each_span_is_judged_alone() {
        let mut pace = Pace::default();
        assert!(!pace.is_slow(SPAN, 30 * SLOWEST, SPAN));
        assert!(pace.is_slow(SPAN, 30 * SLOWEST - 1, SPAN));
        assert!(!pace.is_slow(SPAN, 30 * SLOWEST, SPAN));
    }
}
