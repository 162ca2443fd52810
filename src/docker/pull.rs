//! Owns the answers to pulls: manifests and blobs, with their headers, conditions and ranges.
//! Must not know: how the engine came by the bytes.

use bytes::Bytes;
use http::StatusCode;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG,
    IF_NONE_MATCH, IF_RANGE, RANGE, WARNING, X_CONTENT_TYPE_OPTIONS,
};
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::wire::{API_VERSION, REGISTRY_2, WireError, X_CACHE};
use crate::engine::{BlobAnswer, BlobWant, Engine, Manifest, Remembered, Scope, Verdict, Want};
use crate::names::{Digest, RangeRequest, Reference};
use crate::reply::{Content, Reply};

pub const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// A digest names its bytes for ever.
const FOR_EVER: HeaderValue = HeaderValue::from_static("max-age=31536000");
const SANDBOX: HeaderValue = HeaderValue::from_static("default-src 'none'; sandbox");
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
const BYTES: HeaderValue = HeaderValue::from_static("bytes");
const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");
/// The specification allows 4,096 bytes of warnings in all.
const MAX_WARNING: usize = 1024;

/// Answers a manifest. There is one representation of a digest, so `Accept` chooses nothing and `Range` is ignored.
pub async fn manifest(
    engine: &Engine,
    scope: &Scope,
    reference: &Reference,
    want: Want,
    headers: &HeaderMap,
) -> Result<Reply, WireError> {
    let found = engine.manifest(scope, reference, want).await?;
    Ok(manifest_reply(found, want, headers))
}

/// An answer that the engine need not wait for.
pub struct AtOnce {
    pub reply: Reply,
    /// What it was made of, where whoever asks this way gets the same. A part is for who asked for it, and so is the
    /// word that the client has it already.
    pub whole: Option<Remembered>,
}

/// Whether a request asks for content as it is, and gets what others got.
pub fn is_plain(headers: &HeaderMap) -> bool {
    // Requests have few headers: to look at each is quicker than to look one up.
    !headers.keys().any(|name| *name == IF_NONE_MATCH || *name == RANGE)
}

/// The same where the engine need not wait for it.
pub fn manifest_at_once(
    engine: &Engine,
    scope: &Scope,
    reference: &Reference,
    want: Want,
    headers: &HeaderMap,
) -> Option<AtOnce> {
    let found = engine.manifest_at_once(scope, reference)?;
    let reply = manifest_reply(found.manifest(), want, headers);
    Some(AtOnce { reply, whole: is_plain(headers).then_some(found) })
}

/// Answers a blob, or the part of it that was asked for.
pub async fn blob(
    engine: &Engine,
    scope: &Scope,
    digest: &Digest,
    want: Want,
    headers: &HeaderMap,
) -> Result<Reply, WireError> {
    let asked = BlobAsked::read(digest, want, headers);
    let found = engine.blob(scope, digest, asked.want).await?;
    Ok(asked.reply(found))
}

/// The same where the engine need not wait for it.
pub fn blob_at_once(
    engine: &Engine,
    scope: &Scope,
    digest: &Digest,
    want: Want,
    headers: &HeaderMap,
) -> Option<Result<AtOnce, WireError>> {
    let asked = BlobAsked::read(digest, want, headers);
    let found = engine.blob_at_once(scope, digest, asked.want.want)?;
    Some(found.blob(asked.want).map_err(WireError::from).map(|blob| {
        let reply = asked.reply(blob);
        AtOnce { reply, whole: is_plain(headers).then_some(found) }
    }))
}

/// What of a blob a client asks for.
struct BlobAsked {
    /// Whoever has it needs no bytes, only to hear that it is still to be had.
    has_it: bool,
    want: BlobWant,
}

impl BlobAsked {
    fn read(digest: &Digest, want: Want, headers: &HeaderMap) -> Self {
        let has_it = none_match(headers, digest);
        let want = match want {
            Want::Body if !has_it => BlobWant { want, range: range(headers, digest) },
            Want::Body | Want::Head => BlobWant { want: Want::Head, range: RangeRequest::Whole },
        };
        Self { has_it, want }
    }

    fn reply(&self, found: BlobAnswer) -> Reply {
        if self.has_it { not_modified(&found.digest, found.verdict) } else { blob_reply(found) }
    }
}

fn manifest_reply(found: Manifest, want: Want, headers: &HeaderMap) -> Reply {
    let reply = if none_match(headers, &found.digest) {
        not_modified(&found.digest, found.verdict)
    } else {
        let mut reply = described(StatusCode::OK, &found.digest, found.verdict);
        if let Ok(media_type) = HeaderValue::from_str(found.media_type.as_str()) {
            reply.headers.insert(CONTENT_TYPE, media_type);
        }
        reply.headers.insert(CONTENT_LENGTH, found.size.into());
        // Its type is the upstream's word: a browser must never run it as a page of this host.
        reply.headers.insert(CONTENT_SECURITY_POLICY, SANDBOX);
        if want == Want::Body {
            reply.content = Content::Bytes(found.bytes);
        }
        reply
    };
    warn(reply, found.verdict, found.warning.as_deref())
}

fn blob_reply(found: BlobAnswer) -> Reply {
    let (status, length) = match found.range {
        Some(range) => (StatusCode::PARTIAL_CONTENT, range.len()),
        None => (StatusCode::OK, found.size),
    };
    let mut reply = described(status, &found.digest, found.verdict);
    reply.headers.insert(CONTENT_TYPE, OCTETS);
    reply.headers.insert(CONTENT_LENGTH, length.into());
    reply.headers.insert(ACCEPT_RANGES, BYTES);
    reply.headers.insert(CACHE_CONTROL, FOR_EVER);
    if let Some(range) = found.range {
        let last = range.end.saturating_sub(1);
        reply = reply.with_header(CONTENT_RANGE, &format!("bytes {}-{last}/{}", range.start, found.size));
    }
    if let Some(reader) = found.reader {
        reply.content = Content::Blob(reader);
    }
    warn(reply, found.verdict, None)
}

fn not_modified(digest: &Digest, verdict: Verdict) -> Reply {
    described(StatusCode::NOT_MODIFIED, digest, verdict)
}

/// What every answer with content says about it. The headers are set where they are, here and above: a reply that is
/// handed on for each of them is copied for each of them.
fn described(status: StatusCode, digest: &Digest, verdict: Verdict) -> Reply {
    let (tag, text) = entity_tag(digest);
    let mut reply = Reply::empty(status);
    reply.headers.insert(DOCKER_CONTENT_DIGEST, text);
    reply.headers.insert(ETAG, tag);
    reply.headers.insert(API_VERSION, REGISTRY_2);
    reply.headers.insert(X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    if verdict != Verdict::Local {
        reply.headers.insert(X_CACHE, HeaderValue::from_static(verdict.as_str()));
    }
    reply.note.verdict = Some(verdict);
    reply
}

/// A digest in quotes, and without: one text, seen in two ways.
fn entity_tag(digest: &Digest) -> (HeaderValue, HeaderValue) {
    let quoted = Bytes::from(["\"", digest.text().as_str(), "\""].concat());
    let bare = quoted.slice(1..quoted.len() - 1);
    let value = |text| HeaderValue::from_maybe_shared(text).expect("a digest is plain text");
    (value(quoted), value(bare))
}

/// Newer clients print a `Warning` to their users.
pub fn warn(reply: Reply, verdict: Verdict, warning: Option<&str>) -> Reply {
    let text = match (warning, verdict) {
        (Some(text), _) => text,
        (None, Verdict::Stale) => "the upstream does not answer well; this may be out of date",
        (None, _) => return reply,
    };
    let plain = |c: &char| c.is_ascii_graphic() && !matches!(c, '"' | '\\') || *c == ' ';
    let text: String = text.chars().filter(plain).take(MAX_WARNING).collect();
    reply.with_header(WARNING, &format!("299 - \"{text}\""))
}

/// Whether `If-None-Match` names this digest. Comparison is weak, as a condition on a read asks.
fn none_match(headers: &HeaderMap, digest: &Digest) -> bool {
    if !headers.contains_key(IF_NONE_MATCH) {
        return false;
    }
    let own = format!("\"{digest}\"");
    let lines = headers.get_all(IF_NONE_MATCH).iter().filter_map(|line| line.to_str().ok());
    let mut tags = lines.flat_map(|line| line.split(',')).map(str::trim);
    tags.any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == own)
}

/// The range asked for; the whole where `If-Range` holds anything but this digest's tag.
fn range(headers: &HeaderMap, digest: &Digest) -> RangeRequest {
    let mut lines = headers.get_all(RANGE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return RangeRequest::Whole;
    };
    let same = headers.get(IF_RANGE).is_none_or(|tag| tag.as_bytes() == format!("\"{digest}\"").as_bytes());
    match line.to_str() {
        Ok(text) if same => RangeRequest::parse(text),
        _ => RangeRequest::Whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{Algorithm, ByteRange, MediaType};

    fn digest() -> Digest {
        Digest::of(Algorithm::Sha256, b"layer")
    }

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(name, HeaderValue::from_str(value).expect("a header value"));
        }
        map
    }

    fn stored(verdict: Verdict, warning: Option<&str>) -> Manifest {
        Manifest {
            digest: digest(),
            media_type: MediaType::parse(MediaType::OCI_INDEX).expect("a type"),
            size: 3,
            bytes: Bytes::from_static(b"{}\n"),
            verdict,
            warning: warning.map(str::to_owned),
        }
    }

    fn part(size: u64, range: Option<ByteRange>) -> BlobAnswer {
        BlobAnswer { digest: digest(), size, range, reader: None, verdict: Verdict::Joined }
    }

    #[test]
    fn a_manifest_is_answered_as_it_is_stored_whatever_is_accepted() {
        let asked = headers(&[(http::header::ACCEPT, "text/plain"), (RANGE, "bytes=0-0")]);
        let reply = manifest_reply(stored(Verdict::Hit, None), Want::Body, &asked);
        assert_eq!(reply.status, StatusCode::OK);
        assert_eq!(reply.headers[CONTENT_TYPE], MediaType::OCI_INDEX);
        assert_eq!(reply.headers[CONTENT_LENGTH], "3");
        assert_eq!(reply.headers[DOCKER_CONTENT_DIGEST], digest().to_string().as_str());
        assert_eq!(reply.headers[ETAG], format!("\"{}\"", digest()).as_str());
        assert_eq!(reply.headers[X_CACHE], "hit");
        assert!(!reply.headers.contains_key(WARNING));
        assert!(matches!(reply.content, Content::Bytes(bytes) if &*bytes == b"{}\n"));
        let head = manifest_reply(stored(Verdict::Hit, None), Want::Head, &asked);
        assert_eq!(head.headers[CONTENT_LENGTH], "3");
        assert!(matches!(head.content, Content::Empty));
    }

    #[test]
    fn a_stale_answer_warns_in_one_clean_line() {
        let reply =
            manifest_reply(stored(Verdict::Stale, Some("a \"b\"\r\nc\u{e9}")), Want::Head, &HeaderMap::new());
        assert_eq!(reply.headers[WARNING], "299 - \"a bc\"");
        let reply = manifest_reply(stored(Verdict::Stale, None), Want::Head, &HeaderMap::new());
        assert!(reply.headers.contains_key(WARNING));
    }

    #[test]
    fn a_part_says_which_part_and_how_long_it_is() {
        let reply = blob_reply(part(100, Some(ByteRange { start: 90, end: 100 })));
        assert_eq!(reply.status, StatusCode::PARTIAL_CONTENT);
        assert_eq!(reply.headers[CONTENT_RANGE], "bytes 90-99/100");
        assert_eq!(reply.headers[CONTENT_LENGTH], "10");
        let whole = blob_reply(part(100, None));
        assert_eq!(whole.status, StatusCode::OK);
        assert_eq!(whole.headers[CONTENT_LENGTH], "100");
        assert_eq!(whole.headers[ACCEPT_RANGES], "bytes");
        assert_eq!(whole.headers[CACHE_CONTROL], FOR_EVER);
        assert!(!whole.headers.contains_key(CONTENT_RANGE));
    }

    #[test]
    fn a_known_tag_of_the_content_spares_the_body() {
        let own = format!("\"{}\"", digest());
        let weak = format!("W/{own}");
        let list = format!("\"x\", {own}");
        for value in [own.as_str(), &weak, &list, "*"] {
            assert!(none_match(&headers(&[(IF_NONE_MATCH, value)]), &digest()), "{value}");
        }
        assert!(none_match(&headers(&[(IF_NONE_MATCH, "\"x\""), (IF_NONE_MATCH, &own)]), &digest()));
        for value in ["\"x\"", "", &digest().to_string()] {
            assert!(!none_match(&headers(&[(IF_NONE_MATCH, value)]), &digest()), "{value}");
        }
        let known = headers(&[(IF_NONE_MATCH, &own)]);
        let reply = manifest_reply(stored(Verdict::Hit, None), Want::Body, &known);
        assert_eq!(reply.status, StatusCode::NOT_MODIFIED);
        assert!(matches!(reply.content, Content::Empty));
        assert_eq!(reply.headers[ETAG], own.as_str());
    }

    #[test]
    fn a_range_counts_once_and_only_for_the_same_content() {
        let own = format!("\"{}\"", digest());
        let weak = format!("W/{own}");
        let asked = RangeRequest::From { first: 5, last: None };
        assert_eq!(range(&headers(&[(RANGE, "bytes=5-")]), &digest()), asked);
        assert_eq!(range(&headers(&[(RANGE, "bytes=5-"), (IF_RANGE, &own)]), &digest()), asked);
        for other in ["\"x\"", &weak, "Wed, 21 Oct 2015 07:28:00 GMT"] {
            let changed = headers(&[(RANGE, "bytes=5-"), (IF_RANGE, other)]);
            assert_eq!(range(&changed, &digest()), RangeRequest::Whole, "{other}");
        }
        let twice = headers(&[(RANGE, "bytes=5-"), (RANGE, "bytes=6-")]);
        assert_eq!(range(&twice, &digest()), RangeRequest::Whole);
        assert_eq!(range(&HeaderMap::new(), &digest()), RangeRequest::Whole);
    }
}
