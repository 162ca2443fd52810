//! Owns one attempt of a fill: one answer of one origin, from where the draft ends to where the body ends.
//! Must not know: what happens after it stopped.

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;

use super::{Fill, Stopped};
use crate::planted::Bug;
use crate::store::Trouble;
use crate::upstream::{BlobResponse, Kind, Resume, Upstream, UpstreamError};

/// Pieces are gathered up to this size while they are there already; then one hop to a writer thread.
const GATHER: usize = 1024 * 1024;

impl Fill {
    pub(super) async fn attempt(&mut self, origin: &Upstream, pause: Duration) -> Result<(), Stopped> {
        tokio::time::sleep(pause).await;
        if self.is_over_early().await {
            return Err(Stopped::Unneeded);
        }
        let response = self.ask(origin).await?;
        self.agree_on_size(&response).await?;
        let mut skip = self.draft.len() - response.offset;
        let mut body = response.body;
        let size = self.expected;
        while let Some(first) = body.next().await {
            let mut batch = Vec::new();
            let mut gathered = self.take(first?, &mut skip, &mut batch);
            let mut ended = None;
            while gathered < GATHER && ended.is_none() {
                match body.next().now_or_never() {
                    Some(Some(Ok(chunk))) => gathered += self.take(chunk, &mut skip, &mut batch),
                    Some(Some(Err(error))) => ended = Some(Some(error)),
                    Some(None) => ended = Some(None),
                    None => break,
                }
            }
            if size.is_some_and(|size| self.draft.len() + gathered as u64 > size) {
                return Err(Stopped::Mismatch);
            }
            self.append(batch).await?;
            self.notes.now_and_then(&self.draft, self.expected).await;
            if self.is_over_early().await {
                return Err(Stopped::Unneeded);
            }
            match ended {
                Some(Some(error)) => return Err(error.into()),
                Some(None) => break,
                None => {}
            }
        }
        match size {
            Some(size) if self.draft.len() < size && !Bug::ShortBodyTakenForWhole.is_planted() => {
                Err(Stopped::Upstream(UpstreamError::broken(format!(
                    "{} ended the blob after {} of {size} bytes",
                    origin.host_label(),
                    self.draft.len()
                ))))
            }
            _ => Ok(()),
        }
    }

    fn take(&self, mut chunk: Bytes, skip: &mut u64, batch: &mut Vec<Bytes>) -> usize {
        self.shared.metrics.bytes_from_upstream(self.repository.name.as_str(), chunk.len() as u64);
        if Bug::ResumeNotSkipped.is_planted() {
            *skip = 0;
        }
        let dropped = usize::try_from(*skip).unwrap_or(usize::MAX).min(chunk.len());
        *skip -= dropped as u64;
        let kept = chunk.split_off(dropped);
        let length = kept.len();
        if length > 0 {
            batch.push(kept);
        }
        length
    }

    /// A source that cannot go on where the draft ends is read from its beginning.
    async fn ask(&self, origin: &Upstream) -> Result<BlobResponse, UpstreamError> {
        let at = self.draft.len();
        let resume = (at > 0).then(|| Resume { at, validator: self.validator.clone() });
        let resumed = resume.is_some();
        let image = &self.source.image;
        let name = self.repository.name.as_str();
        let mut answer = origin.blob(image, &self.digest, resume).await;
        if let Err(error) = &answer
            && error.kind == Kind::BadResume
        {
            self.shared.metrics.upstream_error(name, error.kind.as_str());
            answer = origin.blob(image, &self.digest, None).await;
        }
        let code = match &answer {
            Ok(_) => 200,
            Err(error) => error.status.unwrap_or(0),
        };
        self.shared.metrics.upstream_request(name, "blob", code);
        if resumed && answer.is_ok() && !Bug::ResumeNotCounted.is_planted() {
            self.shared.metrics.upstream_resumed();
        }
        // Manifests are promised by it: an absence or a refusal is an answer too.
        if !matches!(&answer, Err(error) if matches!(error.kind, Kind::NotFound | Kind::Denied | Kind::Forbidden))
        {
            self.repository.note_health(answer.is_ok(), self.shared.clock.now());
        }
        answer
    }

    /// Nobody is sent a byte before descriptor and upstream agree on the length, and before there is room for it:
    /// until then a waiter can still be answered in another way.
    async fn agree_on_size(&mut self, response: &BlobResponse) -> Result<(), Stopped> {
        if let (Some(expected), Some(size)) = (self.expected, response.size)
            && expected != size
            && !Bug::SizeNotAgreed.is_planted()
        {
            return Err(Stopped::Upstream(UpstreamError::bad_response(format!(
                "the upstream says the blob has {size} bytes, its manifest says {expected}"
            ))));
        }
        if self.validator.is_none() {
            self.validator.clone_from(&response.validator);
        }
        if self.announced {
            return Ok(());
        }
        self.expected = self.expected.or(response.size);
        let tail = self.tail();
        self.line.head(self.expected, tail).await.map_err(|_| Stopped::Stopping)?;
        if let Some(size) = self.expected {
            self.reserve(size).await?;
        }
        self.draft.announce(self.expected);
        self.announced = true;
        Ok(())
    }

    /// The cache made room by its own account; the disk has the last word. What others put on it meanwhile is
    /// noticed here, so room is made by a fresh account, once.
    async fn reserve(&mut self, size: u64) -> Result<(), Stopped> {
        match self.draft.reserve(size).await {
            Err(error) if Trouble::of(&error) == Trouble::Full && self.shared.room.make().await => {
                Ok(self.draft.reserve(size).await?)
            }
            reserved => Ok(reserved?),
        }
    }

    /// The same where nothing could be set aside beforehand: a failed append leaves the draft as it was.
    async fn append(&mut self, batch: Vec<Bytes>) -> Result<(), Stopped> {
        match self.draft.append(batch.clone()).await {
            Err(error) if Trouble::of(&error) == Trouble::Full && self.shared.room.make().await => {
                Ok(self.draft.append(batch).await?)
            }
            appended => Ok(appended?),
        }
    }
}
