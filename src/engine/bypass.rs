//! Owns streaming past the cache when the disk is full: one upstream GET for one reader, hashed on the way,
//! the last byte held until the digest is proven.
//! Must not know: drafts, the cache's decisions.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::attempts;
use super::errors::refused;
use super::flight::Salvage;
use super::manifests::source;
use super::model::{EngineError, ErrorKind, Scope};
use super::repository::Repository;
use super::shared::Shared;
use crate::cache::Refusal;
use crate::names::{Digest, Hasher, ImageName};
use crate::upstream::{BlobResponse, BlobStream, Kind, Resume, Upstream, UpstreamError};

/// How often a broken connection is taken up again.
const RESUMES: usize = 3;
/// How often all origins are asked in turn.
const ROUNDS: usize = 3;
const PAUSE: Duration = Duration::from_millis(200);

pub(super) struct Bypass {
    fetch: Fetch,
    size: u64,
    stream: BlobStream,
    /// Of all bytes before `at`.
    hasher: Hasher,
    /// The blob's offset that comes next.
    at: u64,
    /// To be dropped: a resume began earlier than asked.
    skip: u64,
    resumes: usize,
    /// One of the few places; freed with the reader.
    _place: OwnedSemaphorePermit,
}

/// What is asked for, and of whom.
struct Fetch {
    shared: Arc<Shared>,
    repository: Arc<Repository>,
    image: ImageName,
    digest: Digest,
}

impl Bypass {
    /// A GET from the beginning.
    pub async fn start(
        shared: &Arc<Shared>,
        scope: &Scope,
        digest: &Digest,
        linked: Option<u64>,
    ) -> Result<Self, EngineError> {
        let fresh = Salvage { at: 0, hasher: Hasher::new(digest.algorithm()) };
        Self::go_on(shared, scope, digest, linked, &fresh).await
    }

    /// A GET from where a fill ran out of space.
    pub async fn go_on(
        shared: &Arc<Shared>,
        scope: &Scope,
        digest: &Digest,
        linked: Option<u64>,
        from: &Salvage,
    ) -> Result<Self, EngineError> {
        let place = Arc::clone(&shared.bypass).try_acquire_owned().map_err(|_| full())?;
        let repository = Arc::clone(&scope.repository);
        let fetch =
            Fetch { shared: Arc::clone(shared), repository, image: source(scope).image, digest: *digest };
        let answer = fetch.ask(from.at).await.map_err(|error| {
            let why = Refusal::Failed(attempts::failure(&error));
            refused(why, Some(&attempts::story(&error)), ErrorKind::BlobUnknown)
        })?;
        // Without a size there is no holding back its last byte.
        let size = linked.or(answer.size).ok_or_else(full)?;
        let agreed = answer.size.is_none_or(|told| told == size);
        if !agreed || size == 0 && from.hasher.clone().finish() != *digest {
            let message = "the upstream's blob has another size than its manifest says";
            return Err(EngineError::new(ErrorKind::UpstreamUnavailable, message));
        }
        shared.metrics.cache_bypass();
        Ok(Self {
            fetch,
            size,
            stream: answer.body,
            hasher: from.hasher.clone(),
            at: from.at,
            skip: from.at - answer.offset,
            resumes: RESUMES,
            _place: place,
        })
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// Where the next piece begins.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// The next piece, proven where it holds the last byte. `None` behind that.
    pub async fn next(&mut self) -> Option<io::Result<Bytes>> {
        while self.at < self.size {
            let why = match self.stream.next().await {
                Some(Ok(chunk)) => match self.accept(chunk) {
                    Some(piece) => return Some(piece),
                    None => continue,
                },
                Some(Err(error)) => error.message,
                None => "the upstream ended the blob early".to_owned(),
            };
            if let Err(error) = self.resume(&why).await {
                return Some(Err(error));
            }
        }
        None
    }

    /// `None`: all of it was known already.
    fn accept(&mut self, mut chunk: Bytes) -> Option<io::Result<Bytes>> {
        let name = self.fetch.repository.name.as_str();
        self.fetch.shared.metrics.bytes_from_upstream(name, chunk.len() as u64);
        let dropped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(chunk.len());
        self.skip -= dropped as u64;
        let chunk = chunk.split_off(dropped);
        if chunk.is_empty() {
            return None;
        }
        self.hasher.update(&chunk);
        self.at += chunk.len() as u64;
        let proven = || self.hasher.clone().finish() == self.fetch.digest;
        if self.at > self.size || self.at == self.size && !proven() {
            self.fetch.shared.metrics.digest_mismatch();
            return Some(Err(broken("the upstream sent other bytes than were asked for")));
        }
        Some(Ok(chunk))
    }

    async fn resume(&mut self, why: &str) -> io::Result<()> {
        self.resumes = self.resumes.checked_sub(1).ok_or_else(|| broken(why))?;
        tokio::time::sleep(PAUSE).await;
        let answer = self.fetch.ask(self.at).await.map_err(|_| broken(why))?;
        self.fetch.shared.metrics.upstream_resumed();
        self.skip = self.at - answer.offset;
        self.stream = answer.body;
        Ok(())
    }
}

impl Fetch {
    /// The first origin that answers. If none does, what the first one said last.
    async fn ask(&self, at: u64) -> Result<BlobResponse, UpstreamError> {
        let mut rounds = ROUNDS;
        loop {
            rounds -= 1;
            let mut verdict = None;
            for origin in self.repository.origins() {
                match self.ask_one(origin, at).await {
                    Ok(answer) => return Ok(answer),
                    Err(error) => _ = verdict.get_or_insert(error),
                }
            }
            match verdict {
                Some(error) if error.retryable() && rounds > 0 => tokio::time::sleep(PAUSE).await,
                Some(error) => return Err(error),
                None => return Err(UpstreamError::bad_response("no upstream is configured")),
            }
        }
    }

    async fn ask_one(&self, origin: &Upstream, at: u64) -> Result<BlobResponse, UpstreamError> {
        let resume = (at > 0).then_some(Resume { at, validator: None });
        let answer = match origin.blob(&self.image, &self.digest, resume).await {
            Err(error) if error.kind == Kind::BadResume => origin.blob(&self.image, &self.digest, None).await,
            answer => answer,
        };
        let code = answer.as_ref().map_or_else(|error| error.status.unwrap_or(0), |_| 200);
        self.shared.metrics.upstream_request(self.repository.name.as_str(), "blob", code);
        answer
    }
}

fn full() -> EngineError {
    EngineError::new(ErrorKind::Overloaded, "the disk is full, and many are fetching past the cache already")
        .with_retry_after(Some(Duration::from_secs(5)))
}

fn broken(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, why)
}
