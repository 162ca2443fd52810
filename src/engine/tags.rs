//! Owns what a tag of a remote names: fresh from here, asked for again, followed where it moved, or stale when the
//! upstream fails.
//! Must not know: HTTP, how flights are scheduled.

use std::time::Duration;

use super::Engine;
use super::actor::Joined;
use super::answers::{AnswerKey, Fresh, Of};
use super::errors::Missed;
use super::flight::{Outcome, Resolution, Source, Task};
use super::manifests::{lost_answer, source};
use super::model::{EngineError, ErrorKind, Manifest, Scope, Verdict, Want};
use super::repository::Remote;
use crate::cache::{Freshness, judge};
use crate::clock::Millis;
use crate::meta::{Batch, Durability, MetaExt as _, TagRow};
use crate::names::{Digest, MediaType, Reference, Tag};
use crate::planted::Bug;

/// How long a client waits for the upstream when something stale could be served instead.
const PATIENCE: Duration = Duration::from_secs(2);

/// The same while the upstream is known to fail: time enough for it to show that it is back.
const IMPATIENCE: Duration = Duration::from_millis(250);

/// What the upstream said that a tag names, and how long ago.
#[derive(Clone)]
struct Heard {
    resolution: Resolution,
    age: Duration,
}

/// How long the upstream is waited for where something stale can be served instead: whether all of that is here is only
/// looked at then.
#[derive(Clone, Copy)]
pub(super) struct Until {
    pub at: Millis,
    spare: Digest,
}

/// What is known of a tag.
#[derive(Default)]
struct Known {
    /// By the last HEAD. A tag that has just moved names a manifest that is not here yet.
    latest: Option<Heard>,
    /// By the tag's row, whose manifest lies here.
    stored: Option<Heard>,
}

/// One client's question for a tag.
struct Question<'a> {
    scope: &'a Scope,
    tag: &'a Tag,
    want: Want,
    /// What may be served if the upstream does not answer well.
    spare: Option<&'a Heard>,
    /// When it is served, then, whatever the upstream still has to be asked.
    until: Option<Until>,
}

impl Engine {
    pub(super) async fn manifest_by_stored_tag(
        &self,
        scope: &Scope,
        remote: &Remote,
        tag: &Tag,
        want: Want,
        key: AnswerKey,
    ) -> Result<Manifest, EngineError> {
        let noted = self.shared.answers.generation(key.repository, &key.image);
        let Known { latest, stored } = self.known(scope, tag).await?;
        let spec = &remote.spec;
        let judged = |heard: &&Heard| judge(heard.age, spec.tag_ttl, spec.stale_if_error);
        let fresh = latest.as_ref().filter(|heard| judged(heard) == Freshness::Fresh);
        let spare = stored.as_ref().filter(|heard| judged(heard) != Freshness::Expired);
        let until = spare.map(|heard| Until {
            at: self.shared.clock.now().after(self.patience(scope)),
            spare: heard.resolution.digest,
        });
        let question = Question { scope, tag, want, spare, until };
        let told = match fresh {
            Some(heard) => self.named(&question, &heard.resolution, Verdict::Hit).await,
            None => self.asked_again(&question, latest.as_ref()).await,
        };
        match (told, spare) {
            (Ok(manifest), _) => {
                if let Some(heard) = fresh {
                    let until = self.shared.clock.now().after(spec.tag_ttl.saturating_sub(heard.age));
                    self.remember(key, &manifest, Some(Fresh { until, tag_ttl: spec.tag_ttl }), noted);
                }
                Ok(manifest)
            }
            (Err(Missed::Gone(error)), _) => {
                // Nothing stale may bring it back.
                if latest.is_some() {
                    self.forget_tag(scope, tag).await?;
                }
                Err(error)
            }
            (Err(Missed::Failed(error)), Some(spare)) => self.stale(scope, spare, error).await,
            (Err(Missed::Failed(error)), None) => Err(error),
        }
    }

    async fn known(&self, scope: &Scope, tag: &Tag) -> Result<Known, EngineError> {
        let source = source(scope);
        let key = (source.repository, source.image.clone(), tag.clone());
        let row = self.shared.read(move |shared| Ok(shared.meta.get::<TagRow>(&key)?)).await?;
        let now = self.shared.clock.now();
        let wall = self.shared.clock.wall().0;
        let stored = row.and_then(|row| {
            let media_type = MediaType::parse(&row.media_type)?;
            // From the future: the clock was set back since. Then it is as old as it seems young.
            let age = if Bug::FutureTagFresh.is_planted() {
                wall.saturating_sub(row.checked_ms)
            } else {
                wall.abs_diff(row.checked_ms)
            };
            let age = Duration::from_millis(age);
            Some(Heard { resolution: Resolution { digest: row.digest, media_type, size: row.size }, age })
        });
        let seen = self
            .shared
            .resolutions
            .get(&source, tag)
            .map(|seen| Heard { age: now.since(seen.at), resolution: seen.resolution });
        let older = |seen: &Heard| stored.as_ref().is_some_and(|stored| stored.age <= seen.age);
        let latest = seen.filter(|seen| !older(seen)).or_else(|| stored.clone());
        Ok(Known { latest, stored })
    }

    fn patience(&self, scope: &Scope) -> Duration {
        if scope.repository.is_failing(self.shared.clock.now()) { IMPATIENCE } else { PATIENCE }
    }

    /// A HEAD tells the digest, and the GET is by digest, so that clients that ask by tag and those that ask by
    /// digest share it: GETs are what registries count.
    async fn asked_again(&self, question: &Question<'_>, latest: Option<&Heard>) -> Result<Manifest, Missed> {
        let task = Task::Resolve(question.tag.clone());
        match self.fly(question.scope, task, question.until).await? {
            Joined::Document { outcome, first } => {
                let new = if first { Verdict::Miss } else { Verdict::Joined };
                match outcome {
                    Outcome::Resolved(now) => {
                        let same = latest.is_some_and(|heard| heard.resolution.digest == now.digest);
                        self.named(question, &now, if same { Verdict::Revalidated } else { new }).await
                    }
                    Outcome::Fetched(manifest) => Ok(Manifest { verdict: new, ..manifest }),
                    _ => Err(lost_answer().into()),
                }
            }
            Joined::Refused { why, story } => {
                Err(Missed::of(why, story.as_ref(), ErrorKind::ManifestUnknown))
            }
            _ => Err(lost_answer().into()),
        }
    }

    /// The manifest that the tag names. For a HEAD what is known of it is enough, unless the tag has moved: clients
    /// ask for that digest next, and one that cannot be had is worse than the old one.
    async fn named(
        &self,
        question: &Question<'_>,
        resolution: &Resolution,
        verdict: Verdict,
    ) -> Result<Manifest, Missed> {
        let Question { scope, tag, want, spare, until } = *question;
        let moved = spare.is_some_and(|spare| spare.resolution.digest != resolution.digest);
        if want == Want::Head && !moved {
            // A client that has it already asks for no more.
            self.touch_manifest(&resolution.digest);
            return Ok(Manifest {
                digest: resolution.digest,
                media_type: resolution.media_type.clone(),
                size: resolution.size,
                bytes: bytes::Bytes::new(),
                verdict,
                warning: None,
            });
        }
        match self.manifest_by_digest(scope, &resolution.digest, verdict, until).await {
            // The HEAD lied, or the tag moved and its old manifest went at once: the tag itself decides.
            Err(Missed::Gone(_)) => self.fetched(scope, Reference::Tag(tag.clone()), until).await,
            told => told,
        }
    }

    /// The upstream does not answer well: what is here, if a client can be served all of it.
    async fn stale(&self, scope: &Scope, spare: &Heard, error: EngineError) -> Result<Manifest, EngineError> {
        let Some(manifest) = self.whole_image(scope, &spare.resolution.digest).await? else {
            return Err(error);
        };
        let minutes = spare.age.as_secs() / 60;
        tracing::info!(repository = %scope.repository.name, image = %scope.image, minutes, why = %error,
            "served stale");
        let warning = format!("stale: the upstream does not answer; confirmed {minutes} minutes ago");
        Ok(Manifest { warning: Some(warning), ..manifest })
    }

    /// A manifest of which a client can be served all.
    async fn whole_image(&self, scope: &Scope, digest: &Digest) -> Result<Option<Manifest>, EngineError> {
        let Some(manifest) = self.stored(scope, digest, Verdict::Stale).await? else { return Ok(None) };
        Ok(self.first_missing(&manifest).await?.is_none().then_some(manifest))
    }

    /// Whether time is up: where nothing can be served instead, the upstream has all the time that it needs.
    pub(super) async fn is_up(&self, scope: &Scope, until: &Until) -> Result<bool, EngineError> {
        Ok(self.whole_image(scope, &until.spare).await?.is_some())
    }

    async fn forget_tag(&self, scope: &Scope, tag: &Tag) -> Result<(), EngineError> {
        let Source { repository, image } = source(scope);
        self.shared.resolutions.forget(&source(scope), tag);
        let mut batch = Batch::new(Durability::Relaxed);
        batch.delete::<TagRow>(&(repository, image.clone(), tag.clone()));
        self.shared.meta.apply(batch).await?;
        self.shared.answers.committed(repository, &image, [Of::Manifest(Reference::Tag(tag.clone()))]);
        Ok(())
    }
}
