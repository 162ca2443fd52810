//! Owns the plain values that the engine answers with: scopes, manifests, blobs, verdicts, errors.
//! Must not know: HTTP status codes, OCI error codes, how an answer came about.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::reader::Reader;
use super::repository::Repository;
use crate::names::{ByteRange, Digest, ImageName, MediaType, RangeRequest, RepositoryName, Tag};

/// Where a request looks: one image of one repository. `library/` was added where it belongs.
#[derive(Clone, Debug)]
pub struct Scope {
    pub repository: Arc<Repository>,
    pub image: ImageName,
}

/// Whether the caller wants the body, or only what a HEAD tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    Head,
    Body,
}

/// How an answer came about: the `X-Cache` word, the same in log and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// It lay here, and was fresh where freshness matters.
    Hit,
    /// This request started the fetch.
    Miss,
    /// This request joined a fetch that was under way.
    Joined,
    /// The upstream did not answer well; what is here is older than its time.
    Stale,
    /// The upstream said that what is here is still right.
    Revalidated,
    /// A failure or an absence was remembered.
    Negative,
    /// Fetched and not kept: nothing can be now, or it is larger than what may be.
    Bypass,
    /// A local repository: no cache is involved.
    Local,
}

impl Verdict {
    pub const ALL: [Self; 8] = [
        Self::Hit,
        Self::Miss,
        Self::Joined,
        Self::Stale,
        Self::Revalidated,
        Self::Negative,
        Self::Bypass,
        Self::Local,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Joined => "joined",
            Self::Stale => "stale",
            Self::Revalidated => "revalidated",
            Self::Negative => "negative",
            Self::Bypass => "bypass",
            Self::Local => "local",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A manifest, byte for byte as it was received.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub digest: Digest,
    pub media_type: MediaType,
    /// In bytes; a HEAD has it although it may have no `bytes`.
    pub size: u64,
    /// Empty where only the head was wanted and the manifest is not here.
    pub bytes: Bytes,
    pub verdict: Verdict,
    /// What a `Warning: 299` header should say.
    pub warning: Option<String>,
}

/// What is wanted of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobWant {
    pub want: Want,
    pub range: RangeRequest,
}

/// A blob, or the part of it that was asked for.
#[derive(Debug)]
pub struct BlobAnswer {
    pub digest: Digest,
    /// Of the whole blob, in bytes.
    pub size: u64,
    /// `Some` where only this part was asked for.
    pub range: Option<ByteRange>,
    /// `None` for a HEAD.
    pub reader: Option<Reader>,
    pub verdict: Verdict,
}

/// Which page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PageQuery {
    /// At most 1,000; more is cut.
    pub n: Option<u32>,
    pub last: Option<String>,
    /// All of it, for an upstream: its cursors may be of another kind than `last`. Here `n` is cut as well.
    pub query: String,
}

#[derive(Clone, Debug)]
pub struct TagsPage {
    pub tags: Vec<String>,
    /// The query of the next page, to be put on our own path.
    pub next_query: Option<String>,
    pub verdict: Verdict,
}

#[derive(Clone, Debug)]
pub struct ReferrersPage {
    /// An OCI index, as received or made.
    pub bytes: Bytes,
    pub next_query: Option<String>,
    pub filters_applied: Option<String>,
    pub verdict: Verdict,
}

/// What lies here of an image.
#[derive(Clone, Debug)]
pub struct StoredImage {
    pub repository: RepositoryName,
    pub image: ImageName,
    pub tags: Vec<StoredTag>,
    pub manifests: usize,
    pub blobs: usize,
    /// Sum of the sizes of what lies here; content that two images share counts in both.
    pub bytes: u64,
}

#[derive(Clone, Debug)]
pub struct StoredTag {
    pub tag: Tag,
    pub digest: Digest,
    pub media_type: String,
    /// Of its manifest and all that names, as far as that is known.
    pub size: u64,
    /// When it was last pushed or, of a remote, confirmed with the upstream: milliseconds since 1970.
    pub updated_ms: u64,
}

/// What `purge` removes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purge {
    All,
    Image(ImageName),
    Tag(ImageName, Tag),
    Digest(Digest),
}

/// What a scrub has found so far.
#[derive(Clone, Debug, Default)]
pub struct ScrubReport {
    pub running: bool,
    /// It came to the end of everything.
    pub finished: bool,
    pub failed: Option<String>,
    pub blobs: u64,
    pub manifests: u64,
    /// Hashed, of `total_bytes` that lay here when it began.
    pub bytes: u64,
    pub total_bytes: u64,
    pub damaged_bytes: u64,
    /// Digests that somebody must push again.
    pub lost: u64,
    pub damaged: Vec<Damaged>,
    /// Damaged as well, and too many to be named.
    pub unnamed: u64,
}

/// Bytes that were not what their digest says. They are set aside.
#[derive(Clone, Debug)]
pub struct Damaged {
    pub digest: Digest,
    pub size: u64,
    pub manifest: bool,
    pub remedy: Remedy,
    /// `repository/image` of those that show it.
    pub images: Vec<String>,
}

/// How damaged content comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// It was fetched again and is here.
    Fetched,
    /// No remote gave it now: the next pull asks again.
    NextPull,
    /// It was pushed here and is nowhere else.
    PushAgain,
}

/// What a cleanup removed, or would remove.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Uploads that nobody went on with.
    pub uploads: u64,
    /// Rights of images to show what nothing of theirs names.
    pub links: u64,
    pub manifests: u64,
    pub blobs: u64,
    /// Of all of them.
    pub bytes: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    pub documents: u64,
    pub blobs: u64,
    pub bytes: u64,
}

/// What `/readyz` and the gauges show.
#[derive(Clone, Debug)]
pub struct Status {
    pub ready: bool,
    pub checks: Vec<Check>,
    pub counts: crate::cache::Counts,
    pub free_bytes: u64,
    pub total_bytes: u64,
}

#[derive(Clone, Debug)]
pub struct Check {
    pub name: &'static str,
    pub ok: bool,
    pub detail: String,
}

/// What went wrong, in words of the field; the HTTP side has the one table of status codes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    ManifestUnknown,
    BlobUnknown,
    NameUnknown,
    /// A range outside the blob of this size.
    Unsatisfiable {
        size: u64,
    },
    /// Not possible on this repository, ever.
    Unsupported,
    /// The upstream limits us and nothing may be served instead.
    TooManyRequests,
    UpstreamUnavailable,
    UpstreamTimeout,
    /// We are full or stopping; try again.
    Overloaded,
    Internal,
    /// It exists already, or is in the way.
    Conflict,
    /// A field of a management request is wrong.
    Invalid {
        field: String,
    },
    /// No such upload, or not of this image, or over.
    UploadUnknown,
    /// Somebody else writes to the upload, or what came does not begin where it ends: at this byte.
    UploadOutOfOrder {
        at: u64,
    },
    /// What was pushed has another digest than it was pushed by.
    DigestMismatch,
    /// More than can ever be kept.
    TooLarge,
    /// What was pushed is no manifest that can be kept.
    ManifestInvalid,
    /// A pushed manifest gives content another size than it has.
    SizeMismatch,
    /// A pushed manifest names these, which its image does not have.
    ReferencesUnknown(Vec<Digest>),
    /// The repository's own rules forbid it.
    Denied,
}

/// An error with the sentence for the client. Shown to the log it tells its cause instead, if it has one.
#[derive(Clone, Debug)]
pub struct EngineError {
    pub kind: ErrorKind,
    pub message: String,
    pub verdict: Option<Verdict>,
    pub retry_after: Option<Duration>,
    pub(super) cause: Option<Arc<Cause>>,
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cause.as_deref() {
            Some(Cause { what, why }) => write!(f, "{what}: {why}"),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for EngineError {}

/// What only the log may see. It is not logged where it arises but where its way ends, once: a task does so in its own
/// line, which shows the error; a request by [`EngineError::report`].
#[derive(Debug)]
pub(super) struct Cause {
    what: &'static str,
    why: String,
}

impl EngineError {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), verdict: None, retry_after: None, cause: None }
    }

    pub(super) fn caused_by(mut self, what: &'static str, why: impl fmt::Display) -> Self {
        self.cause = Some(Arc::new(Cause { what, why: why.to_string() }));
        self
    }

    /// Logs the cause, where nobody shows the error itself to the log.
    pub fn report(&self) {
        if let Some(cause) = &self.cause {
            tracing::error!(error = %cause.why, "{}", cause.what);
        }
    }

    pub fn with_verdict(mut self, verdict: Verdict) -> Self {
        self.verdict = Some(verdict);
        self
    }

    pub fn with_retry_after(mut self, after: Option<Duration>) -> Self {
        self.retry_after = after;
        self
    }
}
