//! Owns the record of what manifests mention that were pushed before there was one: made once in a data directory, before
//! its first cleanup, which looks at nothing else and would take what only they mention.
//! Must not know: what cleanup does with it.

use super::Engine;
use super::model::{EngineError, ErrorKind};
use super::shared::Shared;
use super::sweep::ROWS;
use crate::meta::{
    Batch, DocumentRow, Durability, EdgeRow, LinkRow, MetaError, MetaExt as _, Row, SettingKey, SettingRow,
};
use crate::names::{RepositoryId, mentions};

/// It is made.
const NOTED: SettingKey = SettingKey::new("mentions_noted");
const TRIES: usize = 16;

type Place = <LinkRow as Row>::Key;

impl Engine {
    /// Ended on the way it begins anew, and finds what it has noted.
    pub(super) async fn note_mentions(&self) -> Result<(), EngineError> {
        let shared = &self.shared;
        if shared.read(|shared| Ok(shared.meta.get::<SettingRow>(&NOTED)?.is_some())).await? {
            return Ok(());
        }
        let mut manifests = 0_u64;
        for repository in shared.repositories.list() {
            if repository.local().is_some() {
                manifests += self.note_mentions_in(repository.id).await?;
            }
        }
        // Durable, and with it all that went before.
        let mut done = Batch::new(Durability::Durable);
        done.put(&NOTED, &SettingRow { value: true.into() });
        shared.meta.apply(done).await?;
        if manifests > 0 {
            tracing::info!(manifests, "noted what manifests mention that were pushed to an earlier version");
        }
        Ok(())
    }

    async fn note_mentions_in(&self, repository: RepositoryId) -> Result<u64, EngineError> {
        let (mut manifests, mut after) = (0, None);
        loop {
            self.go_on()?;
            let read =
                move |shared: &Shared| Ok(shared.meta.scan::<LinkRow>(&repository, after.as_ref(), ROWS)?);
            let page = self.shared.read(read).await?;
            let is_last = page.len() < ROWS;
            for (place, _) in page.iter().filter(|(_, link)| link.media_type.is_some()) {
                manifests += u64::from(self.note_mentions_of(place).await?);
            }
            after = page.into_iter().last().map(|(place, _)| place);
            if is_last {
                return Ok(manifests);
            }
        }
    }

    /// Answers whether there was anything to note.
    async fn note_mentions_of(&self, manifest: &Place) -> Result<bool, EngineError> {
        for _ in 0..TRIES {
            let place = manifest.clone();
            let Some(batch) = self.shared.read(move |shared| unnoted(shared, &place)).await? else {
                return Ok(false);
            };
            match self.shared.meta.apply(batch).await {
                Ok(()) => return Ok(true),
                // Pushed again or removed meanwhile.
                Err(MetaError::Conflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(EngineError::new(ErrorKind::Overloaded, "a manifest is changed all the time; try again"))
    }
}

/// What is still to be noted of a manifest, on the condition that it is in its image. `None`: nothing.
fn unnoted(shared: &Shared, place: &Place) -> Result<Option<Batch>, EngineError> {
    let (_, _, manifest) = place;
    let Some(document) = shared.meta.get::<DocumentRow>(manifest)? else { return Ok(None) };
    // What cannot be read was taken by a version that read less of it.
    let Ok(mut open) = mentions(&document.bytes) else { return Ok(None) };
    let mut position = 0;
    shared.meta.each::<EdgeRow, EngineError>(manifest, |(_, last), edge| {
        open.remove(&edge.child);
        position = last + 1;
        Ok(())
    })?;
    let mut batch = Batch::new(Durability::Relaxed);
    batch.require_present::<LinkRow>(place);
    for (child, at) in open.iter().zip(position..) {
        let edge = EdgeRow { child: *child, size: 0, media_type: String::new() };
        // A push of the same manifest notes all of it.
        batch.require_absent::<EdgeRow>(&(*manifest, at)).put(&(*manifest, at), &edge);
    }
    Ok((!open.is_empty()).then_some(batch))
}
