//! Owns which redirects are followed, and what goes along.
//! Must not know: connections; whether an address is public is judged where it is connected to.

use crate::planted::Bug;
use http::{HeaderMap, StatusCode, header};
use url::Url;

/// More than this is refused.
const MOST_HOPS: usize = 5;

/// The way a request has gone so far.
#[derive(Debug)]
pub(super) struct Trail {
    /// Never empty: the first is where it started.
    visited: Vec<Url>,
    left_origin: bool,
}

/// Why a redirect is not followed. Names no address: what stands behind its `?` may be a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("redirects without saying where to")]
    Nowhere,
    #[error("redirects to something that is not a plain http or https address")]
    Address,
    #[error("redirects from https to http")]
    Downgrade,
    #[error("redirects in a circle")]
    Loop,
    #[error("redirects more than 5 times")]
    TooMany,
}

impl Trail {
    pub(super) fn new(start: Url) -> Self {
        Self { visited: vec![start], left_origin: false }
    }

    pub(super) fn here(&self) -> &Url {
        self.visited.last().expect("the trail holds its start")
    }

    /// Whether the request has been at another origin. Credentials stay behind from then on, even
    /// where the way leads back.
    pub(super) fn left_origin(&self) -> bool {
        self.left_origin
    }

    pub(super) fn hops(&self) -> usize {
        self.visited.len() - 1
    }

    /// Goes where the answer says.
    pub(super) fn follow(&mut self, headers: &HeaderMap) -> Result<(), Refusal> {
        let endless = Bug::RedirectsWithoutEnd.is_planted();
        if self.hops() == MOST_HOPS && !endless {
            return Err(Refusal::TooMany);
        }
        let location = headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
        let mut next = self.here().join(location.ok_or(Refusal::Nowhere)?).map_err(|_| Refusal::Address)?;
        next.set_fragment(None);
        let plain = next.username().is_empty() && next.password().is_none() && next.has_host();
        if !plain || !matches!(next.scheme(), "http" | "https") {
            return Err(Refusal::Address);
        }
        if self.here().scheme() == "https" && next.scheme() == "http" {
            return Err(Refusal::Downgrade);
        }
        if self.visited.contains(&next) && !endless {
            return Err(Refusal::Loop);
        }
        self.left_origin |= next.origin() != self.here().origin();
        self.visited.push(next);
        Ok(())
    }
}

pub(super) fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(location: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::LOCATION, location.parse().unwrap())])
    }

    fn trail() -> Trail {
        Trail::new(Url::parse("https://registry.example.com/v2/a/blobs/x").unwrap())
    }

    #[test]
    fn a_relative_redirect_stays_at_its_origin() {
        let mut trail = trail();
        trail.follow(&to("/elsewhere")).unwrap();
        assert_eq!(trail.here().as_str(), "https://registry.example.com/elsewhere");
        assert!(!trail.left_origin());
    }

    #[test]
    fn once_away_is_away() {
        for other in ["https://cdn.example.com/x", "https://registry.example.com:444/x"] {
            let mut trail = trail();
            trail.follow(&to(other)).unwrap();
            assert!(trail.left_origin(), "{other}");
            trail.follow(&to("https://registry.example.com/y")).unwrap();
            assert!(trail.left_origin(), "{other} and back");
        }
    }

    #[test]
    fn bad_redirects_are_refused() {
        let cases = [
            ("http://registry.example.com/x", Refusal::Downgrade),
            ("https://registry.example.com/v2/a/blobs/x", Refusal::Loop),
            ("https://registry.example.com/v2/a/blobs/x#again", Refusal::Loop),
            ("ftp://registry.example.com/x", Refusal::Address),
            ("file:///etc/passwd", Refusal::Address),
            ("https://user:word@cdn.example.com/x", Refusal::Address),
            ("https://[broken", Refusal::Address),
        ];
        for (location, reason) in cases {
            assert_eq!(trail().follow(&to(location)), Err(reason), "{location}");
        }
        assert_eq!(trail().follow(&HeaderMap::new()), Err(Refusal::Nowhere));
    }

    #[test]
    fn the_sixth_hop_is_refused() {
        let mut trail = trail();
        for hop in 0..5 {
            trail.follow(&to(&format!("/{hop}"))).unwrap();
        }
        assert_eq!(trail.follow(&to("/5")), Err(Refusal::TooMany));
    }
}
