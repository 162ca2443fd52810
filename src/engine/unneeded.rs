//! Owns the judgement which links of a local image nobody needs any more, and in which order they may go. Reads only.
//! Must not know: how anything is removed, what becomes of the content.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::flight::Source;
use super::model::EngineError;
use super::shared::Shared;
use super::sweep::ROWS;
use crate::meta::{EdgeRow, HolderRow, LinkRow, MetaExt as _, ReferrerRow, TagRow};
use crate::names::{Digest, RepositoryId};

/// What counts as needed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// What was pushed, mounted, named or asked for after this stamp stays.
    oldest: u64,
    /// Manifests without a tag, that nothing names, go as well.
    untagged: bool,
}

impl Rules {
    pub fn of(shared: &Shared) -> Self {
        let settings = &shared.settings;
        let oldest = shared.stamp().saturating_sub(micros(settings.collect_after));
        Self { oldest, untagged: settings.collect_untagged }
    }
}

pub(super) fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

/// A link that may go as long as its holder is as it was seen.
pub(super) struct Spare {
    pub digest: Digest,
    pub holder: HolderRow,
    /// What it is about, where it is a manifest that is about something.
    pub subjects: Vec<Digest>,
}

/// What an image can do without. What a layer names is free only when that layer has gone.
pub(super) struct Spares {
    pub image: Source,
    pub layers: Vec<Vec<Spare>>,
}

/// Visits all images of a repository that can do without something.
pub(super) fn each_image(
    shared: &Shared,
    repository: RepositoryId,
    rules: &Rules,
    mut visit: impl FnMut(Spares),
) -> Result<(), EngineError> {
    let mut current: Option<Image> = None;
    let mut after = None;
    loop {
        let page = shared.meta.scan::<LinkRow>(&repository, after.as_ref(), ROWS)?;
        let is_last = page.len() < ROWS;
        for (key, link) in page {
            let source = || Source { repository, image: key.1.clone() };
            if current.as_ref().is_none_or(|image| image.source.image != key.1)
                && let Some(done) = current.replace(Image::new(source()))
            {
                done.judge(shared, rules, &mut visit)?;
            }
            if let Some(image) = &mut current {
                image.links.insert(key.2, link.media_type.is_some());
            }
            after = Some(key);
        }
        if is_last || shared.tasks.is_stopping() {
            break;
        }
    }
    current.map_or(Ok(()), |image| image.judge(shared, rules, &mut visit))
}

/// One image, as it was when it was looked at.
struct Image {
    source: Source,
    /// `true`: a manifest.
    links: BTreeMap<Digest, bool>,
    tagged: BTreeSet<Digest>,
    /// What each manifest of the image keeps: what it names, and the manifests that are about it.
    keeps: BTreeMap<Digest, BTreeSet<Digest>>,
    /// By how many each is kept.
    kept_by: BTreeMap<Digest, usize>,
    subjects: BTreeMap<Digest, Vec<Digest>>,
}

impl Image {
    fn new(source: Source) -> Self {
        Self {
            source,
            links: BTreeMap::new(),
            tagged: BTreeSet::new(),
            keeps: BTreeMap::new(),
            kept_by: BTreeMap::new(),
            subjects: BTreeMap::new(),
        }
    }

    /// Looks twice: what a manifest names that was pushed before the holders were read must be found, and its batch may
    /// have been made, with an old stamp, long before it was applied. What is pushed after that renews the holders.
    fn judge(
        self,
        shared: &Shared,
        rules: &Rules,
        visit: &mut impl FnMut(Spares),
    ) -> Result<(), EngineError> {
        let source = self.source.clone();
        let mut holders = BTreeMap::new();
        let read = |digest: &Digest| {
            let key = (*digest, source.repository, source.image.clone());
            let holder = shared.meta.get::<HolderRow>(&key)?.filter(|holder| holder.stamp <= rules.oldest);
            holders.extend(holder.iter().map(|holder| (*digest, holder.clone())));
            Ok(holder)
        };
        if self.layers(shared, rules, read)?.is_empty() {
            return Ok(());
        }
        let mut again = Self::new(source);
        let image = (again.source.repository, again.source.image.clone());
        let mut after = None;
        loop {
            let page = shared.meta.scan::<LinkRow>(&image, after.as_ref(), ROWS)?;
            let is_last = page.len() < ROWS;
            again.links.extend(page.iter().map(|(key, link)| (key.2, link.media_type.is_some())));
            after = page.into_iter().last().map(|(key, _)| key);
            if is_last {
                break;
            }
        }
        let image = again.source.clone();
        let layers = again.layers(shared, rules, |digest| Ok(holders.get(digest).cloned()))?;
        if !layers.is_empty() {
            visit(Spares { image, layers });
        }
        Ok(())
    }

    fn layers(
        mut self,
        shared: &Shared,
        rules: &Rules,
        mut holder: impl FnMut(&Digest) -> Result<Option<HolderRow>, EngineError>,
    ) -> Result<Vec<Vec<Spare>>, EngineError> {
        self.look(shared)?;
        let mut layers = Vec::new();
        let mut free: Vec<Digest> = self.links.keys().copied().collect();
        loop {
            let mut layer = Vec::new();
            for digest in free {
                if self.is_free(rules, &digest)
                    && let Some(holder) = holder(&digest)?
                {
                    let subjects = self.subjects.get(&digest).cloned().unwrap_or_default();
                    layer.push(Spare { digest, holder, subjects });
                }
            }
            if layer.is_empty() {
                return Ok(layers);
            }
            free = self.without(&layer);
            layers.push(layer);
        }
    }

    fn look(&mut self, shared: &Shared) -> Result<(), EngineError> {
        let image = (self.source.repository, self.source.image.clone());
        let mut after = None;
        loop {
            let page = shared.meta.scan::<TagRow>(&image, after.as_ref(), ROWS)?;
            let is_last = page.len() < ROWS;
            self.tagged.extend(page.iter().map(|(_, row)| row.digest));
            after = page.into_iter().last().map(|(key, _)| key);
            if is_last {
                break;
            }
        }
        let mut after = None;
        loop {
            let page = shared.meta.scan::<ReferrerRow>(&image, after.as_ref(), ROWS)?;
            let is_last = page.len() < ROWS;
            for ((_, _, (subject, manifest)), _) in &page {
                self.subjects.entry(*manifest).or_default().push(*subject);
                if self.links.contains_key(subject) {
                    self.keep(*subject, *manifest);
                }
            }
            after = page.into_iter().last().map(|(key, _)| key);
            if is_last {
                break;
            }
        }
        let manifests: Vec<Digest> =
            self.links.iter().filter(|(_, is_manifest)| **is_manifest).map(|(digest, _)| *digest).collect();
        for manifest in manifests {
            for child in children(shared, &manifest)? {
                // What is missing here has nothing to keep it from.
                if self.links.contains_key(&child) {
                    self.keep(manifest, child);
                }
            }
        }
        Ok(())
    }

    fn keep(&mut self, keeper: Digest, kept: Digest) {
        if self.keeps.entry(keeper).or_default().insert(kept) {
            *self.kept_by.entry(kept).or_default() += 1;
        }
    }

    fn is_free(&self, rules: &Rules, digest: &Digest) -> bool {
        let Some(is_manifest) = self.links.get(digest) else { return false };
        let wanted = *is_manifest && (!rules.untagged || self.tagged.contains(digest));
        !wanted && self.kept_by.get(digest).is_none_or(|keepers| *keepers == 0)
    }

    /// What nothing keeps any more once the layer has gone.
    fn without(&mut self, layer: &[Spare]) -> Vec<Digest> {
        let mut free = Vec::new();
        for spare in layer {
            for kept in self.keeps.remove(&spare.digest).unwrap_or_default() {
                if let Some(keepers) = self.kept_by.get_mut(&kept) {
                    *keepers -= 1;
                    free.extend((*keepers == 0).then_some(kept));
                }
            }
        }
        free
    }
}

fn children(shared: &Shared, manifest: &Digest) -> Result<Vec<Digest>, EngineError> {
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let page = shared.meta.scan::<EdgeRow>(manifest, after.as_ref(), ROWS)?;
        let is_last = page.len() < ROWS;
        all.extend(page.iter().map(|(_, row)| row.child));
        after = page.into_iter().last().map(|(key, _)| key);
        if is_last {
            return Ok(all);
        }
    }
}
