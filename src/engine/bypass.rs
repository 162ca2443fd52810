//! Owns streaming past the cache when the disk is full: one upstream GET for one reader, hashed on the way,
//! the last byte held until the digest is proven.
//! Must not know: drafts, the cache's decisions.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::flight::Salvage;
use super::manifests::source;
use super::model::{EngineError, ErrorKind, Scope};
use super::repository::Repository;
use super::shared::Shared;
use crate::names::{Digest, Hasher, ImageName};
use crate::upstream::{BlobStream, Kind, Resume};

/// How often a broken connection is taken up again.
const RESUMES: usize = 3;

pub(super) struct Bypass {
    repository: Arc<Repository>,
    image: ImageName,
    digest: Digest,
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
        let origin = scope.repository.origins().first().ok_or_else(full)?;
        let image = source(scope).image;
        let resume = (from.at > 0).then_some(Resume { at: from.at, validator: None });
        let answer = match origin.blob(&image, digest, resume).await {
            Err(error) if error.kind == Kind::BadResume => origin.blob(&image, digest, None).await,
            answer => answer,
        };
        let answer =
            answer.map_err(|error| EngineError::new(ErrorKind::UpstreamUnavailable, error.message))?;
        let size = linked.or(answer.size).ok_or_else(full)?;
        Ok(Self {
            repository: Arc::clone(&scope.repository),
            image,
            digest: *digest,
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
            match self.stream.next().await {
                Some(Ok(mut chunk)) => {
                    let dropped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(chunk.len());
                    self.skip -= dropped as u64;
                    let chunk = chunk.split_off(dropped);
                    if !chunk.is_empty() {
                        return Some(self.accept(chunk));
                    }
                }
                Some(Err(error)) => {
                    if let Err(error) = self.resume(error.message).await {
                        return Some(Err(error));
                    }
                }
                None => {
                    if let Err(error) = self.resume("the upstream ended the blob early".to_owned()).await {
                        return Some(Err(error));
                    }
                }
            }
        }
        None
    }

    fn accept(&mut self, chunk: Bytes) -> io::Result<Bytes> {
        self.hasher.update(&chunk);
        self.at += chunk.len() as u64;
        let wrong =
            self.at > self.size || (self.at == self.size && self.hasher.clone().finish() != self.digest);
        if wrong {
            return Err(broken("the upstream sent other bytes than were asked for"));
        }
        Ok(chunk)
    }

    async fn resume(&mut self, why: String) -> io::Result<()> {
        let origin = self.repository.origins().first();
        while let Some(origin) = origin
            && self.resumes > 0
        {
            self.resumes -= 1;
            tokio::time::sleep(Duration::from_millis(200)).await;
            let resume = Some(Resume { at: self.at, validator: None });
            if let Ok(answer) = origin.blob(&self.image, &self.digest, resume).await {
                self.skip = self.at - answer.offset;
                self.stream = answer.body;
                return Ok(());
            }
        }
        Err(broken(&why))
    }
}

fn full() -> EngineError {
    EngineError::new(ErrorKind::Overloaded, "the disk is full, and many are fetching past the cache already")
        .with_retry_after(Some(Duration::from_secs(5)))
}

fn broken(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, why)
}
