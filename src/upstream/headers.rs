//! Owns reading the headers of answers.
//! Must not know: what is decided by them.

use std::time::{Duration, UNIX_EPOCH};

use http::HeaderMap;
use http::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderName, LINK, RETRY_AFTER, TRANSFER_ENCODING,
};
use url::Url;

use super::model::RateLimit;
use crate::clock::UnixMillis;

/// The longest that an upstream may tell us to wait.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

pub(super) fn text(headers: &HeaderMap, name: impl http::header::AsHeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// The length is said twice, together with another framing, or is no number.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadLength;

pub(super) fn content_length(headers: &HeaderMap) -> Result<Option<u64>, BadLength> {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() || headers.contains_key(TRANSFER_ENCODING) {
        return Err(BadLength);
    }
    let digits = value.to_str().map_err(|_| BadLength)?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(BadLength);
    }
    digits.parse().map(Some).map_err(|_| BadLength)
}

/// We ask for `identity`; anything else would have to be decoded, and is not what has the digest.
pub(super) fn is_encoded(headers: &HeaderMap) -> bool {
    headers.get_all(CONTENT_ENCODING).iter().any(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// `bytes 5-9/10`, and `bytes */10` of a 416.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ContentRange {
    Part { first: u64, last: u64, total: u64 },
    Unsatisfied { total: u64 },
}

impl ContentRange {
    pub(super) fn read(headers: &HeaderMap) -> Option<Self> {
        let (range, total) = text(headers, CONTENT_RANGE)?.strip_prefix("bytes ")?.split_once('/')?;
        let total = total.parse().ok()?;
        if range == "*" {
            return Some(Self::Unsatisfied { total });
        }
        let (first, last) = range.split_once('-')?;
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        (first <= last && last < total).then_some(Self::Part { first, last, total })
    }
}

/// A strong entity tag: only such a one may be named in `If-Range`.
pub(super) fn strong_etag(headers: &HeaderMap) -> Option<String> {
    text(headers, ETAG).filter(|tag| is_strong(tag)).map(str::to_owned)
}

pub(super) fn is_strong(tag: &str) -> bool {
    tag.len() >= 2 && tag.starts_with('"') && tag.ends_with('"')
}

/// Seconds or a date; what is neither is not there.
pub(super) fn retry_after(headers: &HeaderMap, now: UnixMillis) -> Option<Duration> {
    let value = text(headers, RETRY_AFTER)?;
    let wait = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        Duration::from_secs(value.parse().unwrap_or(u64::MAX))
    } else {
        let date = httpdate::parse_http_date(value).ok()?;
        let now = UNIX_EPOCH + Duration::from_millis(now.0);
        date.duration_since(now).unwrap_or_default()
    };
    Some(wait.min(LONGEST_WAIT))
}

/// `ratelimit-limit: 100;w=21600` and `ratelimit-remaining: 76;w=21600`.
pub(super) fn rate_limit(headers: &HeaderMap) -> Option<RateLimit> {
    let (limit, window) = quota(headers, "ratelimit-limit")?;
    let (remaining, _) = quota(headers, "ratelimit-remaining")?;
    Some(RateLimit { limit, remaining, window_s: window.unwrap_or_default() })
}

fn quota(headers: &HeaderMap, name: &'static str) -> Option<(u64, Option<u64>)> {
    let value = text(headers, HeaderName::from_static(name))?;
    let (count, rest) = value.split_once(';').unwrap_or((value, ""));
    let window = rest.split(';').find_map(|part| part.trim().strip_prefix("w=")?.parse().ok());
    Some((count.trim().parse().ok()?, window))
}

/// The query of the address that `Link` calls the next page.
pub(super) fn next_query(headers: &HeaderMap, page: &Url) -> Option<String> {
    let values = headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(links).find_map(|(target, parameters)| {
        let is_next = parameters.split(';').any(|parameter| {
            let parameter = parameter.trim();
            let relation = parameter.split_once('=').filter(|(key, _)| key.eq_ignore_ascii_case("rel"));
            relation.is_some_and(|(_, relation)| relation.trim_matches('"').eq_ignore_ascii_case("next"))
        });
        if !is_next {
            return None;
        }
        page.join(target).ok()?.query().map(str::to_owned)
    })
}

/// The targets of a `Link` value, each with its own parameters. What cannot be read ends it.
fn links(value: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = value;
    std::iter::from_fn(move || {
        let (target, after) = rest.trim_start_matches([' ', '\t', ',']).strip_prefix('<')?.split_once('>')?;
        // A comma within quotes belongs to a parameter.
        let mut quoted = false;
        let ends = |at: char| {
            quoted ^= at == '"';
            at == ',' && !quoted
        };
        let end = after.find(ends).unwrap_or(after.len());
        let (parameters, next) = after.split_at(end);
        rest = next;
        Some((target, parameters))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        map
    }

    #[test]
    fn a_length_is_one_number_or_nothing() {
        let read = |pairs: &[(&'static str, &str)]| content_length(&headers(pairs));
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[("content-length", "5")]), Ok(Some(5)));
        assert_eq!(read(&[("content-length", "5"), ("content-length", "5")]), Err(BadLength));
        assert_eq!(read(&[("content-length", "5"), ("transfer-encoding", "chunked")]), Err(BadLength));
        for bad in ["", "-1", "5, 5", "+5", "99999999999999999999999"] {
            let result = read(&[("content-length", bad)]);
            assert!(result == Err(BadLength), "{bad}");
        }
    }

    #[test]
    fn content_ranges_must_make_sense() {
        let read = |value: &str| ContentRange::read(&headers(&[("content-range", value)]));
        assert_eq!(read("bytes 5-9/10"), Some(ContentRange::Part { first: 5, last: 9, total: 10 }));
        assert_eq!(read("bytes */10"), Some(ContentRange::Unsatisfied { total: 10 }));
        for bad in ["", "bytes", "bytes 5-9/*", "bytes 9-5/10", "bytes 5-10/10", "items 0-1/2", "5-9/10"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn waiting_is_bounded_and_junk_is_no_wait() {
        let now = UnixMillis(784_111_777_000); // Sun, 06 Nov 1994 08:49:37 GMT
        let read = |value: &str| retry_after(&headers(&[("retry-after", value)]), now).map(|w| w.as_secs());
        assert_eq!(read("7"), Some(7));
        assert_eq!(read("0"), Some(0));
        assert_eq!(read("1000000000"), Some(300));
        assert_eq!(read("99999999999999999999999999"), Some(300));
        assert_eq!(read("Sun, 06 Nov 1994 08:49:57 GMT"), Some(20));
        assert_eq!(read("Sun, 06 Nov 1994 08:00:00 GMT"), Some(0));
        assert_eq!(read("Sat, 06 Nov 2094 08:00:00 GMT"), Some(300));
        for junk in ["", "soon", "-5", "1.5", "5 seconds"] {
            assert_eq!(read(junk), None, "{junk}");
        }
    }

    #[test]
    fn the_pull_limit_is_read_with_its_window() {
        let full = headers(&[("ratelimit-limit", "100;w=21600"), ("ratelimit-remaining", "76;w=21600")]);
        assert_eq!(rate_limit(&full), Some(RateLimit { limit: 100, remaining: 76, window_s: 21600 }));
        let bare = headers(&[("ratelimit-limit", "100"), ("ratelimit-remaining", "0")]);
        assert_eq!(rate_limit(&bare), Some(RateLimit { limit: 100, remaining: 0, window_s: 0 }));
        assert_eq!(rate_limit(&headers(&[("ratelimit-limit", "junk"), ("ratelimit-remaining", "1")])), None);
        assert_eq!(rate_limit(&headers(&[("ratelimit-limit", "100")])), None);
    }

    #[test]
    fn of_the_next_page_only_the_query_is_believed() {
        let page = Url::parse("https://registry.example.com/v2/a/tags/list").unwrap();
        let read = |value: &str| next_query(&headers(&[("link", value)]), &page);
        assert_eq!(read("</v2/a/tags/list?last=x&n=5>; rel=\"next\"").as_deref(), Some("last=x&n=5"));
        assert_eq!(read("<https://evil.example/?last=y>; rel=next").as_deref(), Some("last=y"));
        let both = "</?last=a>; title=\"one, two\"; rel=\"prev\", </?last=z>; rel=\"next\"";
        assert_eq!(read(both).as_deref(), Some("last=z"));
        assert_eq!(read("<?n=2>;foo=1; REL=\"next\"").as_deref(), Some("n=2"));
        for nothing in ["</a?b=c>; rel=\"prev\"", "</a>; rel=\"next\"", "junk", "</a?b=c>", "<"] {
            assert_eq!(read(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn only_strong_tags_are_validators() {
        assert_eq!(strong_etag(&headers(&[("etag", "\"abc\"")])).as_deref(), Some("\"abc\""));
        for weak in ["W/\"abc\"", "abc", "\""] {
            assert_eq!(strong_etag(&headers(&[("etag", weak)])), None, "{weak}");
        }
    }
}
