//! Owns the grammar of requests: (method, path, query) to a typed [`Route`]. Pure.
//! Must not know: which repositories exist, headers, bodies.

use std::borrow::Cow;

use http::{Method, StatusCode};

use super::permit::Right;
use super::wire::{Code, WireError};
use crate::engine::{MAX_PAGE, PageQuery, Want};
use crate::names::{Algorithm, Digest, Reference, ReferenceError, Tag, UploadId};

/// A request target longer than this is refused with 414.
pub const MAX_URI: usize = 8 * 1024;
/// How many tags one push of a manifest may set besides its reference.
const MAX_TAGS: usize = 10;

const READ: &str = "GET, HEAD";

/// A request that follows the grammar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route<'a> {
    /// The repository that a path `/repo/<repository>/v2/…` names.
    pub repository: Option<&'a str>,
    pub target: Target<'a>,
}

/// What stands behind `/v2/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// `/v2`: asks to be sent to `/v2/`.
    Unslashed,
    /// `/v2/`: is this a registry?
    Base,
    /// `/v2/_catalog`
    Catalog { page: PageQuery },
    /// `name` is what stands before the endpoint, as it was written: its first part may be a repository.
    Content { name: &'a str, action: Action },
}

/// What is asked of an image. Authorisation, log and metrics look at this, not at the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Manifest {
        reference: Reference,
        want: Want,
    },
    Blob {
        digest: Digest,
        want: Want,
    },
    Tags {
        page: PageQuery,
    },
    /// `query` is the whole of it without `ns`: an upstream's pages have cursors of their own.
    Referrers {
        digest: Digest,
        query: String,
    },
    Push(Push),
}

/// What writes or removes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Push {
    PutManifest { reference: Reference, tags: Vec<Tag> },
    DeleteManifest { reference: Reference },
    DeleteBlob { digest: Digest },
    StartUpload(Start),
    Upload { id: UploadId, step: Step },
}

impl Push {
    /// What is pushed or removed, for the log.
    pub fn reference(&self) -> Option<Reference> {
        let digest = match self {
            Self::PutManifest { reference, .. } | Self::DeleteManifest { reference } => {
                return Some(reference.clone());
            }
            Self::DeleteBlob { digest } | Self::Upload { step: Step::Finish { digest }, .. } => Some(*digest),
            Self::StartUpload(Start { mount, digest, .. }) => {
                digest.or(mount.as_ref().map(|mount| mount.digest))
            }
            Self::Upload { .. } => None,
        };
        digest.map(Reference::Digest)
    }
}

/// How an upload begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// Perhaps another image has it already.
    pub mount: Option<Mount>,
    /// The body is the whole blob.
    pub digest: Option<Digest>,
    /// What the digest will be one of.
    pub algorithm: Option<Algorithm>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub digest: Digest,
    /// The image as the client spells it; any that has the digest, if it names none.
    pub from: Option<String>,
}

/// What is done with an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Status,
    Append,
    Finish { digest: Digest },
    Cancel,
}

impl Action {
    /// What the caller must be allowed to.
    pub const fn right(&self) -> Right {
        match self {
            Self::Manifest { .. } | Self::Blob { .. } | Self::Tags { .. } | Self::Referrers { .. } => {
                Right::Pull
            }
            Self::Push(Push::PutManifest { .. } | Push::StartUpload(_) | Push::Upload { .. }) => Right::Push,
            Self::Push(Push::DeleteManifest { .. } | Push::DeleteBlob { .. }) => Right::Delete,
        }
    }

    /// The word for log and metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Manifest { want: Want::Body, .. } => "manifest.get",
            Self::Manifest { want: Want::Head, .. } => "manifest.head",
            Self::Blob { want: Want::Body, .. } => "blob.get",
            Self::Blob { want: Want::Head, .. } => "blob.head",
            Self::Tags { .. } => "tags.list",
            Self::Referrers { .. } => "referrers.list",
            Self::Push(Push::PutManifest { .. }) => "manifest.put",
            Self::Push(Push::DeleteManifest { .. }) => "manifest.delete",
            Self::Push(Push::DeleteBlob { .. }) => "blob.delete",
            Self::Push(Push::StartUpload(_)) => "upload.start",
            Self::Push(Push::Upload { step: Step::Status, .. }) => "upload.status",
            Self::Push(Push::Upload { step: Step::Append, .. }) => "upload.append",
            Self::Push(Push::Upload { step: Step::Finish { .. }, .. }) => "upload.finish",
            Self::Push(Push::Upload { step: Step::Cancel, .. }) => "upload.cancel",
        }
    }
}

/// Reads a request. The path is checked before anything in it is looked at.
pub fn route<'a>(method: &Method, path: &'a str, query: Option<&str>) -> Result<Route<'a>, WireError> {
    if path.len() + query.map_or(0, str::len) > MAX_URI {
        let message = format!("the request target is longer than {MAX_URI} bytes");
        return Err(WireError::new(Code::NameInvalid, message).with_status(StatusCode::URI_TOO_LONG));
    }
    check_path(path)?;
    let (repository, path) = match path.strip_prefix("/repo/") {
        Some(rest) => {
            let (name, _) = rest.split_once('/').ok_or_else(WireError::no_such_path)?;
            (Some(name), &rest[name.len()..])
        }
        None => (None, path),
    };
    let target = match path {
        "/v2" => read_only(method, Target::Unslashed)?,
        "/v2/" => read_only(method, Target::Base)?,
        "/v2/_catalog" => read_only(method, Target::Catalog { page: page(query)? })?,
        _ => content(method, path.strip_prefix("/v2/").ok_or_else(WireError::no_such_path)?, query)?,
    };
    Ok(Route { repository, target })
}

fn read_only<'a>(method: &Method, target: Target<'a>) -> Result<Target<'a>, WireError> {
    if matches!(*method, Method::GET | Method::HEAD) { Ok(target) } else { Err(WireError::method(READ)) }
}

/// Refuses what a front and we might read differently. Names need none of it; a digest's colon may come as
/// `%3A`, and only in the last segment.
fn check_path(path: &str) -> Result<(), WireError> {
    if is_plain(path) {
        return Ok(());
    }
    let refuse = |what: &str| Err(WireError::new(Code::NameInvalid, format!("the path holds {what}")));
    let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
    if let Some(odd) = path.bytes().find(|byte| !byte.is_ascii_graphic() || *byte == b'\\') {
        return refuse(&format!("the byte 0x{odd:02x}, which no name may hold"));
    }
    if directory.contains('%') || without_colon(path).contains('%') {
        return refuse("a percent sign, which no name may hold");
    }
    if path.contains("//") {
        return refuse("an empty part");
    }
    if path.split('/').any(|part| part == "." || part == "..") {
        return refuse("a part of only dots");
    }
    Ok(())
}

/// Whether there is nothing to look at more closely. Nearly every path is so, and that is seen without a branch.
fn is_plain(path: &str) -> bool {
    let bytes = path.as_bytes();
    let legal = |byte: &u8| byte.is_ascii_graphic() & !matches!(byte, b'\\' | b'%');
    let begins_oddly = |(before, byte): (&u8, &u8)| (*before == b'/') & matches!(byte, b'/' | b'.');
    let all_legal = bytes.iter().fold(true, |all, byte| all & legal(byte));
    let pairs = bytes.iter().zip(bytes.iter().skip(1));
    all_legal & path.starts_with('/') & !pairs.fold(false, |seen, pair| seen | begins_oddly(pair))
}

/// `sha256%3A…` with its colon; anything else as it is.
fn without_colon(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    match text.split_once("%3A").or_else(|| text.split_once("%3a")) {
        Some((before, after)) => Cow::Owned(format!("{before}:{after}")),
        None => Cow::Borrowed(text),
    }
}

/// An endpoint, told from the right, since a name may hold any of its words: `foo/blobs` and `tags/list` are names.
fn content<'a>(method: &Method, path: &'a str, query: Option<&str>) -> Result<Target<'a>, WireError> {
    let (before, last) = path.rsplit_once('/').ok_or_else(WireError::no_such_path)?;
    let (name, word) = before.rsplit_once('/').unwrap_or(("", before));
    let (name, action) = match word {
        "manifests" => (name, manifest(method, last, query)?),
        "blobs" if last == "uploads" => (name, upload_start(method, query)?),
        "blobs" => (name, blob(method, last)?),
        "tags" if last == "list" => (name, tags(method, query)?),
        "referrers" => (name, referrers(method, last, query)?),
        "uploads" => match name.rsplit_once('/') {
            Some((name, "blobs")) if last.is_empty() => (name, upload_start(method, query)?),
            Some((name, "blobs")) => (name, upload(method, last, query)?),
            _ => return Err(WireError::no_such_path()),
        },
        _ => return Err(WireError::no_such_path()),
    };
    if name.is_empty() { Err(WireError::no_such_path()) } else { Ok(Target::Content { name, action }) }
}

fn want(method: &Method) -> Option<Want> {
    match *method {
        Method::GET => Some(Want::Body),
        Method::HEAD => Some(Want::Head),
        _ => None,
    }
}

fn manifest(method: &Method, text: &str, query: Option<&str>) -> Result<Action, WireError> {
    let reference = without_colon(text).parse::<Reference>();
    match *method {
        Method::GET | Method::HEAD | Method::PUT | Method::DELETE => {}
        _ => return Err(WireError::method("GET, HEAD, PUT, DELETE")),
    }
    let reference = match reference {
        Ok(reference) => reference,
        Err(error @ ReferenceError::Digest(_)) => {
            return Err(WireError::new(Code::DigestInvalid, error.to_string()));
        }
        // A tag that cannot be is a tag that is not there; only making it is a mistake.
        Err(error @ ReferenceError::Tag) if *method == Method::PUT => {
            return Err(WireError::new(Code::TagInvalid, error.to_string()));
        }
        Err(ReferenceError::Tag) => {
            return Err(WireError::new(Code::ManifestUnknown, "there is no such tag"));
        }
    };
    Ok(match want(method) {
        Some(want) => Action::Manifest { reference, want },
        None if *method == Method::PUT => {
            Action::Push(Push::PutManifest { reference, tags: tags_to_set(query)? })
        }
        None => Action::Push(Push::DeleteManifest { reference }),
    })
}

/// `?tag=a&tag=b`
fn tags_to_set(query: Option<&str>) -> Result<Vec<Tag>, WireError> {
    let pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let tags = pairs.filter(|(key, _)| key == "tag").map(|(_, value)| value.parse());
    let tags: Vec<Tag> = tags
        .collect::<Result<_, ReferenceError>>()
        .map_err(|error| WireError::new(Code::TagInvalid, error.to_string()))?;
    if tags.len() > MAX_TAGS {
        return Err(WireError::new(Code::TagInvalid, format!("at most {MAX_TAGS} tags can be set at once")));
    }
    Ok(tags)
}

fn digest(text: &str) -> Result<Digest, WireError> {
    let parsed = without_colon(text).parse::<Digest>();
    parsed.map_err(|error| WireError::new(Code::DigestInvalid, error.to_string()))
}

fn blob(method: &Method, text: &str) -> Result<Action, WireError> {
    let digest = digest(text)?;
    match want(method) {
        Some(want) => Ok(Action::Blob { digest, want }),
        None if *method == Method::DELETE => Ok(Action::Push(Push::DeleteBlob { digest })),
        None => Err(WireError::method("GET, HEAD, DELETE")),
    }
}

fn upload_start(method: &Method, query: Option<&str>) -> Result<Action, WireError> {
    if *method != Method::POST {
        return Err(WireError::method("POST"));
    }
    let named = |name| parameter(query, name).map(|text| digest(&text)).transpose();
    let mount = named("mount")?.map(|digest| Mount { digest, from: parameter(query, "from") });
    // An algorithm that nobody here knows is a hint that comes too early, no mistake yet.
    let algorithm = parameter(query, "digest-algorithm").and_then(|name| name.parse().ok());
    Ok(Action::Push(Push::StartUpload(Start { mount, digest: named("digest")?, algorithm })))
}

fn upload(method: &Method, text: &str, query: Option<&str>) -> Result<Action, WireError> {
    let step = match *method {
        Method::GET | Method::HEAD => Step::Status,
        Method::PATCH => Step::Append,
        Method::PUT => {
            let missing = || WireError::new(Code::DigestInvalid, "an upload ends with ?digest= of the blob");
            Step::Finish { digest: digest(&parameter(query, "digest").ok_or_else(missing)?)? }
        }
        Method::DELETE => Step::Cancel,
        _ => return Err(WireError::method("GET, HEAD, PATCH, PUT, DELETE")),
    };
    match text.parse() {
        Ok(id) => Ok(Action::Push(Push::Upload { id, step })),
        Err(_) => Err(WireError::new(Code::BlobUploadUnknown, "there is no such upload")),
    }
}

fn tags(method: &Method, query: Option<&str>) -> Result<Action, WireError> {
    want(method).ok_or(WireError::method(READ))?;
    Ok(Action::Tags { page: page(query)? })
}

/// `n` and `last`.
pub fn page(query: Option<&str>) -> Result<PageQuery, WireError> {
    let n = match parameter(query, "n") {
        Some(text) => Some(page_size(&text)?),
        None => None,
    };
    let last = parameter(query, "last").filter(|last| !last.is_empty());
    Ok(PageQuery { n, last, query: passed_on(query.unwrap_or_default(), n) })
}

/// Digits only; what is too large is cut to the largest page.
fn page_size(text: &str) -> Result<u32, WireError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        let message = "n is a number: how many names a page may hold";
        return Err(WireError::new(Code::PaginationNumberInvalid, message));
    }
    Ok(text.parse().unwrap_or(MAX_PAGE).min(MAX_PAGE))
}

fn referrers(method: &Method, text: &str, query: Option<&str>) -> Result<Action, WireError> {
    want(method).ok_or(WireError::method(READ))?;
    let digest = digest(text)?;
    Ok(Action::Referrers { digest, query: without_namespace(query.unwrap_or_default()) })
}

/// The first value of a query parameter, decoded.
pub fn parameter(query: Option<&str>, name: &str) -> Option<String> {
    let mut pairs = url::form_urlencoded::parse(query?.as_bytes());
    pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// `ns` chose the repository; it means nothing further on.
pub fn without_namespace(query: &str) -> String {
    let kept: Vec<&str> = query.split('&').filter(|part| !part.is_empty() && !is(part, "ns")).collect();
    kept.join("&")
}

/// The query as the upstream is to read it: whatever its cursors are called, and never a longer page than ours.
fn passed_on(query: &str, n: Option<u32>) -> String {
    let query = without_namespace(query);
    let mut n = n.map(|n| format!("n={n}"));
    let parts = query.split('&').filter(|part| !part.is_empty());
    let kept = parts.filter_map(|part| if is(part, "n") { n.take() } else { Some(part.to_owned()) });
    kept.collect::<Vec<_>>().join("&")
}

/// Whether a part of a query is this parameter, however it is spelt.
fn is(part: &str, name: &str) -> bool {
    url::form_urlencoded::parse(part.as_bytes()).any(|(key, _)| key == name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "1-00000000000000000000000000000007";
    const HEX: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    fn named(method: Method, path: &str) -> (String, &'static str) {
        match route(&method, path, None).map(|route| route.target) {
            Ok(Target::Content { name, action }) => (name.to_owned(), action.name()),
            other => panic!("{method} {path}: {other:?}"),
        }
    }

    fn refused(method: Method, path: &str, query: Option<&str>) -> (&'static str, u16) {
        match route(&method, path, query) {
            Err(error) => (error.code.row().0, error.status.as_u16()),
            Ok(route) => panic!("{method} {path}: {route:?}"),
        }
    }

    #[test]
    fn endpoints_are_told_from_the_right() {
        let digest = format!("sha256:{HEX}");
        let cases = [
            (Method::GET, "/v2/a/manifests/latest".to_owned(), "a", "manifest.get"),
            (Method::HEAD, format!("/v2/a/b/manifests/{digest}"), "a/b", "manifest.head"),
            (Method::GET, format!("/v2/foo/blobs/manifests/sha256%3A{HEX}"), "foo/blobs", "manifest.get"),
            (Method::GET, format!("/v2/foo/blobs/uploads/blobs/{digest}"), "foo/blobs/uploads", "blob.get"),
            (Method::HEAD, format!("/v2/tags/list/blobs/{digest}"), "tags/list", "blob.head"),
            (Method::GET, "/v2/tags/list/tags/list".to_owned(), "tags/list", "tags.list"),
            (Method::GET, "/v2/a/manifests/tags/list".to_owned(), "a/manifests", "tags.list"),
            (Method::GET, "/v2/manifests/manifests/manifests".to_owned(), "manifests", "manifest.get"),
            (Method::GET, format!("/v2/a/referrers/{digest}"), "a", "referrers.list"),
            (Method::POST, "/v2/a/blobs/uploads/".to_owned(), "a", "upload.start"),
            (Method::POST, "/v2/a/blobs/uploads".to_owned(), "a", "upload.start"),
            (Method::PATCH, format!("/v2/a/blobs/blobs/uploads/{ID}"), "a/blobs", "upload.append"),
            (Method::GET, format!("/v2/a/blobs/uploads/{ID}"), "a", "upload.status"),
            (Method::DELETE, format!("/v2/a/blobs/uploads/{ID}"), "a", "upload.cancel"),
            (Method::PUT, "/v2/a/manifests/latest".to_owned(), "a", "manifest.put"),
            (Method::DELETE, "/v2/a/manifests/latest".to_owned(), "a", "manifest.delete"),
            (Method::DELETE, format!("/v2/a/blobs/{digest}"), "a", "blob.delete"),
        ];
        for (method, path, name, action) in cases {
            assert_eq!(named(method, &path), (name.to_owned(), action), "{path}");
        }
    }

    #[test]
    fn the_fixed_paths_are_known_with_and_without_a_repository() {
        let catalog = Target::Catalog { page: PageQuery::default() };
        for (path, target) in [("/v2", Target::Unslashed), ("/v2/", Target::Base), ("/v2/_catalog", catalog)]
        {
            let plain = route(&Method::GET, path, None).expect(path);
            assert_eq!(plain, Route { repository: None, target: target.clone() });
            let below = format!("/repo/quay{path}");
            let below = route(&Method::HEAD, &below, None).expect(path);
            assert_eq!(below, Route { repository: Some("quay"), target });
        }
    }

    #[test]
    fn hostile_paths_are_refused_before_anything_is_looked_up() {
        let name_invalid = [
            "/v2/a%2fb/manifests/..%2f..%2fx",
            "/v2/a/manifests/%2e%2e",
            "/v2/%61/manifests/latest",
            "/v2/a\\b/manifests/x",
            "/v2/a//b/manifests/x",
            "//v2/a/manifests/x",
            "/v2/a/../b/manifests/x",
            "/v2/./a/manifests/x",
            "/v2/a/manifests/..",
            "/v2/a/manifests/x%00",
            "/v2/\u{e9}/manifests/x",
            "/v2/a\0/manifests/x",
            "/v2/a b/manifests/x",
            "/v2/a%3Ab/manifests/x",
            "/v2/a/manifests/sha256%3A%3A",
            "/repo/../v2/a/manifests/x",
            "/repo/a%2f/v2/a/manifests/x",
        ];
        for path in name_invalid {
            assert_eq!(refused(Method::GET, path, None), ("NAME_INVALID", 400), "{path}");
        }
    }

    #[test]
    fn wrong_digests_tags_and_methods_have_their_own_answers() {
        let upper = format!("/v2/a/blobs/sha256:{}", HEX.to_uppercase());
        let cases = [
            (Method::GET, upper.as_str(), ("DIGEST_INVALID", 400)),
            (Method::GET, "/v2/a/blobs/sha256:abc", ("DIGEST_INVALID", 400)),
            (Method::GET, "/v2/a/blobs/md5:d41d8cd98f00b204e9800998ecf8427e", ("DIGEST_INVALID", 400)),
            (Method::GET, "/v2/a/manifests/sha256:baddigeststring", ("DIGEST_INVALID", 400)),
            (Method::GET, "/v2/a/referrers/sha256:baddigeststring", ("DIGEST_INVALID", 400)),
            (Method::GET, "/v2/a/manifests/.INVALID_MANIFEST_NAME", ("MANIFEST_UNKNOWN", 404)),
            (Method::PUT, "/v2/a/manifests/.x", ("TAG_INVALID", 400)),
            (Method::PATCH, "/v2/a/blobs/uploads/7", ("BLOB_UPLOAD_UNKNOWN", 404)),
            (Method::PUT, "/v2/a/blobs/uploads/7", ("DIGEST_INVALID", 400)),
            (Method::POST, "/v2/a/manifests/x", ("UNSUPPORTED", 405)),
            (Method::POST, "/v2/", ("UNSUPPORTED", 405)),
            (Method::OPTIONS, "/v2/a/tags/list", ("UNSUPPORTED", 405)),
            (Method::GET, "/v2/a/blobs/uploads/", ("UNSUPPORTED", 405)),
            (Method::GET, "/v2/tags/list", ("UNSUPPORTED", 404)),
            (Method::GET, "/v2/manifests/latest", ("UNSUPPORTED", 404)),
            (Method::GET, "/v2/a/nonsense/x", ("UNSUPPORTED", 404)),
            (Method::GET, "/v1/_ping", ("UNSUPPORTED", 404)),
            (Method::GET, "/repo/quay", ("UNSUPPORTED", 404)),
            (Method::GET, "/", ("UNSUPPORTED", 404)),
            (Method::GET, "", ("UNSUPPORTED", 404)),
        ];
        for (method, path, expected) in cases {
            assert_eq!(refused(method.clone(), path, None), expected, "{method} {path}");
        }
    }

    #[test]
    fn pushes_say_in_the_query_what_they_mean() {
        let digest: Digest = format!("sha256:{HEX}").parse().expect("a digest");
        let push = |method, path: &str, query: &str| match route(&method, path, Some(query)).map(|r| r.target)
        {
            Ok(Target::Content { action: Action::Push(push), .. }) => Ok(push),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.code),
        };
        let start = |query: &str| match push(Method::POST, "/v2/a/blobs/uploads/", query) {
            Ok(Push::StartUpload(start)) => Ok(start),
            Ok(other) => panic!("{other:?}"),
            Err(code) => Err(code),
        };
        assert_eq!(start(""), Ok(Start::default()));
        let mount = Mount { digest, from: Some("b/c".into()) };
        let mounting = Start { mount: Some(mount), ..Start::default() };
        assert_eq!(start(&format!("mount=sha256%3A{HEX}&from=b/c")), Ok(mounting));
        let whole = Start { digest: Some(digest), algorithm: Some(Algorithm::Sha512), mount: None };
        assert_eq!(start(&format!("digest=sha256:{HEX}&digest-algorithm=sha512")), Ok(whole));
        assert_eq!(start("digest-algorithm=blake3"), Ok(Start::default()));
        assert_eq!(start("digest=sha256:abc"), Err(Code::DigestInvalid));
        let upload = format!("/v2/a/blobs/uploads/{ID}");
        let finish = Push::Upload { id: ID.parse().expect("an id"), step: Step::Finish { digest } };
        assert_eq!(push(Method::PUT, &upload, &format!("digest=sha256%3A{HEX}")), Ok(finish));
        assert_eq!(push(Method::PUT, &upload, ""), Err(Code::DigestInvalid));
        let reference: Reference = "v1".parse().expect("a tag");
        let tags = vec!["v2".parse().expect("a tag"), "v3".parse().expect("a tag")];
        let tagged = Push::PutManifest { reference, tags };
        assert_eq!(push(Method::PUT, "/v2/a/manifests/v1", "tag=v2&tag=v3"), Ok(tagged));
        assert_eq!(push(Method::PUT, "/v2/a/manifests/v1", "tag=.x"), Err(Code::TagInvalid));
        let many: Vec<String> = (0..11).map(|n| format!("tag=t{n}")).collect();
        assert_eq!(push(Method::PUT, "/v2/a/manifests/v1", &many.join("&")), Err(Code::TagInvalid));
    }

    #[test]
    fn a_target_over_the_limit_is_too_long() {
        let long = format!("/v2/{}/manifests/x", "a".repeat(MAX_URI));
        assert_eq!(refused(Method::GET, &long, None), ("NAME_INVALID", 414));
        let query = "x".repeat(MAX_URI);
        assert_eq!(refused(Method::GET, "/v2/", Some(&query)).1, 414);
    }

    #[test]
    fn pages_have_a_size_and_a_start() {
        let page = |query| match route(&Method::GET, "/v2/a/tags/list", Some(query)).map(|r| r.target) {
            Ok(Target::Content { action: Action::Tags { page }, .. }) => Ok((page.n, page.last, page.query)),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.code),
        };
        let all = |n, last: Option<&str>, query: &str| Ok((n, last.map(str::to_owned), query.to_owned()));
        assert_eq!(page(""), all(None, None, ""));
        assert_eq!(page("n=0&last=v1%2Bx"), all(Some(0), Some("v1+x"), "n=0&last=v1%2Bx"));
        assert_eq!(page("n=1000000000000000000&last="), all(Some(MAX_PAGE), None, "n=1000&last="));
        // A cursor of the upstream's own, and no way around the longest page.
        assert_eq!(page("next_page=gAAA%3D&ns=quay.io&%6Es=x"), all(None, None, "next_page=gAAA%3D"));
        assert_eq!(page("n=5&%6E=99999&n=99999"), all(Some(5), None, "n=5"));
        for bad in ["n=-1", "n=", "n=ten", "n=1.5", "n=%201"] {
            assert_eq!(page(bad), Err(Code::PaginationNumberInvalid), "{bad}");
        }
    }

    #[test]
    fn a_namespace_goes_no_further() {
        let path = format!("/v2/a/referrers/sha256:{HEX}");
        let query = "ns=docker.io&artifactType=a%2Fb&nsx=1&next=Zm9v";
        match route(&Method::GET, &path, Some(query)).map(|route| route.target) {
            Ok(Target::Content { action: Action::Referrers { query, .. }, .. }) => {
                assert_eq!(parameter(Some(&query), "artifactType").as_deref(), Some("a/b"));
                assert_eq!(query, "artifactType=a%2Fb&nsx=1&next=Zm9v");
            }
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        /// Whatever comes, there is an answer, and what was understood holds nothing that was to be refused.
        #[test]
        fn no_path_breaks_the_router(path in "(/(v2|repo|a|blobs|manifests|tags|list|uploads|[%.\\\\:a-f0-9]{0,8}|\\PC{0,6})){0,7}/?") {
            if let Ok(Route { target: Target::Content { name, .. }, .. }) = route(&Method::GET, &path, None) {
                let hostile = name.contains(['%', '\\']) || name.split('/').any(|part| part.is_empty() || part == "..");
                prop_assert!(!hostile, "{}", name);
            }
        }
    }
}
