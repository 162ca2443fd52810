//! Owns giving answers from memory, and giving the same one again: as long as nothing was committed that it rests on.
//! Must not know: HTTP, how answers come to be in memory.

use std::sync::Arc;

use bytes::Bytes;

use super::Engine;
use super::answers::{Answer, AnswerKey, Generation};
use super::blobs::{answered_from_memory, blob_key};
use super::manifests::{answer_key, from_memory};
use super::model::{BlobAnswer, BlobWant, EngineError, Manifest, Scope, Verdict, Want};
use crate::clock::Millis;
use crate::names::{Digest, Reference};

/// An answer from memory.
#[derive(Debug)]
pub struct Remembered {
    answer: Arc<Answer>,
    verdict: Verdict,
    noted: Generation,
}

impl Remembered {
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// All of it, with a count of references of its own: threads that give the same answer do not wait for each other.
    pub fn bytes(&self) -> Bytes {
        Bytes::from_owner(Whole(Arc::clone(&self.answer)))
    }

    pub fn manifest(&self) -> Manifest {
        Manifest { verdict: self.verdict, ..from_memory(&self.answer) }
    }

    pub fn blob(&self, want: BlobWant) -> Result<BlobAnswer, EngineError> {
        Ok(BlobAnswer { verdict: self.verdict, ..answered_from_memory(&self.answer, want)? })
    }
}

struct Whole(Arc<Answer>);

impl AsRef<[u8]> for Whole {
    fn as_ref(&self) -> &[u8] {
        &self.0.bytes
    }
}

impl Engine {
    /// A manifest that is in memory and fresh; `None` where it must be waited for.
    pub fn manifest_at_once(&self, scope: &Scope, reference: &Reference) -> Option<Remembered> {
        self.at_once(scope, &answer_key(scope, reference.clone()))
    }

    /// A blob that is in memory; `None` where it must be waited for.
    pub fn blob_at_once(&self, scope: &Scope, digest: &Digest, want: Want) -> Option<Remembered> {
        if scope.repository.local().is_some() && want == Want::Head {
            // Who asks whether it is here may leave out a push: that is answered from the rows, and holds the blob.
            return None;
        }
        self.at_once(scope, &blob_key(scope, digest))
    }

    fn at_once(&self, scope: &Scope, key: &AnswerKey) -> Option<Remembered> {
        // First: what is committed from here on is seen by who asks whether this may be given again.
        let noted = self.shared.answers.generation(key.repository, &key.image);
        let answer = self.remembered(scope, key)?;
        let verdict = if scope.repository.remote().is_some() { Verdict::Hit } else { Verdict::Local };
        Some(Remembered { answer, verdict, noted })
    }

    /// Whether the same question would get the same answer now. Its use is noted.
    pub fn is_current(&self, scope: &Scope, found: &Remembered) -> bool {
        self.shared.answers.is_current(found.noted)
            && self.may_give(scope, &found.answer, self.shared.clock.now())
    }

    pub(super) fn remembered(&self, scope: &Scope, key: &AnswerKey) -> Option<Arc<Answer>> {
        let now = self.shared.clock.now();
        let answer = self.shared.answers.get(key, now)?;
        self.may_give(scope, &answer, now).then_some(answer)
    }

    /// Not a manifest whose upstream fails: then it is looked at first whether all of the image is here. Nor where the
    /// freshness of a tag was reckoned by a policy that has changed.
    fn may_give(&self, scope: &Scope, answer: &Answer, now: Millis) -> bool {
        let remote = scope.repository.remote();
        let is_manifest = answer.media_type.is_some();
        if is_manifest && scope.repository.is_failing(now) || !answer.is_fresh(now) {
            return false;
        }
        let tag_ttl = remote.map(|remote| remote.spec.tag_ttl);
        if answer.fresh.is_some_and(|fresh| Some(fresh.tag_ttl) != tag_ttl) {
            return false;
        }
        if remote.is_some() && answer.is_news(now) {
            match is_manifest {
                true => self.touch_manifest(&answer.digest),
                false => self.touch(&answer.digest),
            }
        }
        true
    }
}
