//! Owns cleanup while serving: links that nobody needs, content that nobody links, uploads that nobody went on with.
//! It proposes; each batch requires that what was seen still holds, and only the coordinator lets a file go, so no
//! push falls between.
//! Must not know: HTTP, who asked.

use std::collections::HashSet;
use std::time::Duration;

use super::Engine;
use super::answers::Of;
use super::flight::{FlightKey, Source};
use super::model::{Collected, EngineError, ErrorKind};
use super::shared::Shared;
use super::sweep::ROWS;
use super::unneeded::{self, Rules, Spare, Spares};
use super::uploads;
use crate::cache::Event;
use crate::meta::{
    Batch, ContentRow, CopyRow, DocumentRow, Durability, EdgeRow, HolderRow, LinkRow, MetaError,
    MetaExt as _, ReferrerRow,
};
use crate::names::{Digest, ImageName, Reference, RepositoryId};

/// Between two cleanups that nobody asked for.
const EVERY: Duration = Duration::from_secs(3600);
/// Links removed in one commit. One that was pushed since spoils its whole batch.
const LINKS: usize = 100;
/// How long one look waits for the other.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// How long a page of files is waited for. The disk may take none of them.
const PATIENCE: Duration = Duration::from_secs(30);

type Held = (Digest, RepositoryId, ImageName);

/// Pushed content that no image holds.
#[derive(Clone, Debug)]
struct Unheld {
    digest: Digest,
    content: ContentRow,
    /// The size of the manifest.
    document: Option<u64>,
    /// The size of the blob's file.
    copy: Option<u64>,
    /// A remote shows it, too: from now on it is cached like everything else there.
    cached: bool,
}

impl Engine {
    /// Removes what nobody needs and says what that was; in a dry run only says it.
    pub async fn collect(&self, dry_run: bool) -> Result<Collected, EngineError> {
        let _alone = self.shared.cleanup.lock().await;
        self.note_mentions().await?;
        let mut sum = Collected::default();
        for upload in uploads::expired(&self.shared) {
            sum.uploads += 1;
            sum.bytes += upload.len();
        }
        if !dry_run {
            uploads::expire(&self.shared).await;
            self.until(|counts| counts.loaded).await?;
        }
        let mut gone = HashSet::new();
        for repository in self.shared.repositories.list() {
            if repository.local().is_some() {
                let id = repository.id;
                for spares in self.shared.read(move |shared| spares(shared, id)).await? {
                    self.take_links(spares, dry_run, &mut gone, &mut sum).await?;
                }
            }
        }
        let seen = if dry_run { gone } else { HashSet::new() };
        let unheld = self.shared.read(move |shared| unheld(shared, &seen)).await?;
        for page in unheld.chunks(ROWS) {
            self.take_content(page, dry_run, &mut sum).await?;
        }
        if !dry_run && sum != Collected::default() {
            let Collected { uploads, links, manifests, blobs, bytes } = sum;
            tracing::info!(uploads, links, manifests, blobs, bytes, "removed what nobody needs");
        }
        Ok(sum)
    }

    /// Layer by layer. Where somebody pushed meanwhile, what lies below may be needed again: it stays for the next
    /// time.
    async fn take_links(
        &self,
        spares: Spares,
        dry_run: bool,
        gone: &mut HashSet<Held>,
        sum: &mut Collected,
    ) -> Result<(), EngineError> {
        let Spares { image, layers } = spares;
        for layer in layers {
            for spares in layer.chunks(LINKS) {
                self.go_on()?;
                if !dry_run {
                    match self.shared.meta.apply(removal(&image, spares)).await {
                        Ok(()) => self.forget_answers(&image, spares),
                        Err(MetaError::Conflict(_)) => return Ok(()),
                        Err(error) => return Err(error.into()),
                    }
                }
                sum.links += spares.len() as u64;
                gone.extend(spares.iter().map(|one| (one.digest, image.repository, image.image.clone())));
            }
        }
        Ok(())
    }

    fn forget_answers(&self, image: &Source, spares: &[Spare]) {
        let of = spares
            .iter()
            .flat_map(|spare| [Of::Blob(spare.digest), Of::Manifest(Reference::Digest(spare.digest))]);
        self.shared.answers.committed(image.repository, &image.image, of);
    }

    async fn take_content(
        &self,
        page: &[Unheld],
        dry_run: bool,
        sum: &mut Collected,
    ) -> Result<(), EngineError> {
        self.go_on()?;
        let mut asked = Vec::new();
        for one in page {
            if dry_run {
                sum.add(one);
            } else if self.let_go(one).await? {
                asked.push(one);
            }
        }
        self.until(|counts| counts.evicting == 0).await?;
        for one in asked {
            if one.copy.is_none() || self.has_gone(one.digest).await? {
                sum.add(one);
            }
        }
        Ok(())
    }

    /// What has rows only goes at once; for a file the coordinator is asked. `false`: it was pushed meanwhile.
    async fn let_go(&self, one: &Unheld) -> Result<bool, EngineError> {
        if one.cached || one.document.is_some() || one.copy.is_none() {
            let digest = one.digest;
            let edges = self.shared.read(move |shared| edges(shared, &digest)).await?;
            match self.shared.meta.apply(one.removal(&edges)).await {
                Ok(()) => {}
                Err(MetaError::Conflict(_)) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
            self.shared.sizes.document_added(one.document.filter(|_| one.cached).unwrap_or(0));
        }
        if one.copy.is_some() {
            let key = FlightKey::Content(one.digest);
            self.coordination.tell(Event::Unpin { key: key.clone() }).await;
            if !one.cached {
                self.coordination.tell(Event::Collect { key }).await;
            }
        }
        Ok(true)
    }

    async fn has_gone(&self, digest: Digest) -> Result<bool, EngineError> {
        self.shared.read(move |shared| Ok(shared.meta.get::<CopyRow>(&digest)?.is_none())).await
    }

    async fn until(&self, done: impl Fn(crate::cache::Counts) -> bool) -> Result<(), EngineError> {
        let until = self.shared.clock.now().after(PATIENCE);
        while !done(self.coordination.counts().await) && self.shared.clock.now() < until {
            self.go_on()?;
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    pub(super) fn go_on(&self) -> Result<(), EngineError> {
        match self.shared.tasks.is_stopping() {
            true => Err(EngineError::new(ErrorKind::Overloaded, "the server is stopping")),
            false => Ok(()),
        }
    }
}

impl Collected {
    fn add(&mut self, one: &Unheld) {
        if one.cached {
            return;
        }
        self.manifests += u64::from(one.document.is_some());
        self.blobs += u64::from(one.copy.is_some());
        self.bytes += one.document.unwrap_or(0) + one.copy.unwrap_or(0);
    }
}

impl Unheld {
    /// On the condition that nobody holds it.
    fn removal(&self, edges: &[(Digest, u32)]) -> Batch {
        let mut batch = Batch::new(Durability::Durable);
        batch.require_none::<HolderRow>(&self.digest);
        batch.require_equal(&self.digest, &self.content).delete::<ContentRow>(&self.digest);
        if !self.cached {
            batch.delete::<DocumentRow>(&self.digest);
            for edge in edges {
                batch.delete::<EdgeRow>(edge);
            }
        }
        batch
    }
}

/// Cleans up every hour until the stop. Not at the start, when there is enough to do.
pub(super) async fn regularly(engine: Engine) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = engine.shared.tasks.stopping() => return,
        }
        if let Err(error) = engine.collect(false).await {
            tracing::warn!(%error, "what nobody needs cannot be removed now");
        }
    }
}

fn spares(shared: &Shared, repository: RepositoryId) -> Result<Vec<Spares>, EngineError> {
    let rules = Rules::of(shared);
    let mut all = Vec::new();
    unneeded::each_image(shared, repository, &rules, |spares| all.push(spares))?;
    Ok(all)
}

/// Relaxed: a crash brings back links to content that is still there, since what removes content is durable.
fn removal(image: &Source, spares: &[Spare]) -> Batch {
    let Source { repository, image } = image;
    let mut batch = Batch::new(Durability::Relaxed);
    for Spare { digest, holder, subjects } in spares {
        let held = (*digest, *repository, image.clone());
        batch.require_equal(&held, holder).delete::<HolderRow>(&held);
        batch.delete::<LinkRow>(&(*repository, image.clone(), *digest));
        for subject in subjects {
            batch.delete::<ReferrerRow>(&(*repository, image.clone(), (*subject, *digest)));
        }
    }
    batch
}

fn edges(shared: &Shared, digest: &Digest) -> Result<Vec<(Digest, u32)>, EngineError> {
    let mut all: Vec<(Digest, u32)> = Vec::new();
    loop {
        let page = shared.meta.scan::<EdgeRow>(digest, all.last(), ROWS)?;
        let is_last = page.len() < ROWS;
        all.extend(page.into_iter().map(|(key, _)| key));
        if is_last {
            return Ok(all);
        }
    }
}

/// Pushed content that nobody holds, apart from those that are `gone`.
fn unheld(shared: &Shared, gone: &HashSet<Held>) -> Result<Vec<Unheld>, EngineError> {
    let mut found = Vec::new();
    shared.meta.each::<ContentRow, EngineError>(&(), |digest, content| {
        if content.pushed && !is_held(shared, &digest, gone)? {
            found.push((digest, content));
        }
        Ok(())
    })?;
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let candidates: HashSet<Digest> = found.iter().map(|(digest, _)| *digest).collect();
    let mut linked = HashSet::new();
    shared.meta.each::<LinkRow, EngineError>(&(), |(repository, image, digest), _| {
        if candidates.contains(&digest) && !gone.contains(&(digest, repository, image)) {
            linked.insert(digest);
        }
        Ok(())
    })?;
    let whole = |(digest, content): (Digest, ContentRow)| {
        let document = shared.meta.get::<DocumentRow>(&digest)?.map(|row| row.bytes.len() as u64);
        let copy = shared.meta.get::<CopyRow>(&digest)?.map(|row| row.size);
        Ok(Unheld { digest, content, document, copy, cached: linked.contains(&digest) })
    };
    found.into_iter().map(whole).collect()
}

fn is_held(shared: &Shared, digest: &Digest, gone: &HashSet<Held>) -> Result<bool, EngineError> {
    let mut after = None;
    loop {
        let page = shared.meta.scan::<HolderRow>(digest, after.as_ref(), ROWS)?;
        let is_last = page.len() < ROWS;
        if page.iter().any(|(key, _)| !gone.contains(key)) {
            return Ok(true);
        }
        after = page.into_iter().last().map(|(key, _)| key);
        if is_last {
            return Ok(false);
        }
    }
}
