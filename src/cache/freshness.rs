//! Owns the verdict on an age: may a document be served as it is, only in need, or not at all.
//! Must not know: what the document is, and what the time is now.

use std::time::Duration;

/// What a document of some age may still be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Freshness {
    /// Serve it and ask nobody.
    Fresh,
    /// Ask the upstream first; serve it only if the upstream does not answer.
    Stale,
    /// Not even then.
    Expired,
}

/// Fresh for `ttl`, then stale for `stale_window`. Each span ends at its last instant: with a `ttl` of zero nothing
/// is ever fresh.
pub fn judge(age: Duration, ttl: Duration, stale_window: Duration) -> Freshness {
    if age < ttl {
        Freshness::Fresh
    } else if age - ttl < stale_window {
        Freshness::Stale
    } else {
        Freshness::Expired
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_span_ends_at_its_boundary() {
        let cases = [
            (0, 60, 600, Freshness::Fresh),
            (59, 60, 600, Freshness::Fresh),
            (60, 60, 600, Freshness::Stale),
            (659, 60, 600, Freshness::Stale),
            (660, 60, 600, Freshness::Expired),
            (0, 0, 600, Freshness::Stale),
            (60, 60, 0, Freshness::Expired),
            (0, 0, 0, Freshness::Expired),
        ];
        for (age, ttl, window, expected) in cases {
            let seconds = Duration::from_secs;
            assert_eq!(judge(seconds(age), seconds(ttl), seconds(window)), expected, "{age} {ttl} {window}");
        }
    }

    #[test]
    fn an_endless_window_does_not_overflow() {
        assert_eq!(judge(Duration::MAX, Duration::from_secs(1), Duration::MAX), Freshness::Stale);
    }
}
