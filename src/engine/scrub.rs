//! Owns the scrub: every blob and manifest that lies here is hashed, at a bounded rate, while the server serves. What
//! is damaged is set aside, fetched again where a remote has it, and otherwise reported with the images that need it.
//! Must not know: HTTP, how a report is shown.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use super::Engine;
use super::damage;
use super::model::{BlobWant, Damaged, EngineError, ErrorKind, Remedy, Scope, ScrubReport, Want};
use super::shared::Shared;
use super::sweep::ROWS;
use crate::clock::{Clock, Millis};
use crate::meta::{
    Batch, ContentRow, CopyRow, DocumentRow, Durability, HolderRow, LinkRow, MetaError, MetaExt as _,
};
use crate::names::{Digest, Hasher, RangeRequest, Reference};
use crate::store::{self, Blob, Trouble};

/// Bytes of one read. Between two the pace is kept.
const PIECE: usize = 256 << 10;
/// Manifests of one read; each is up to 4 MiB.
const MANIFESTS: usize = 16;
/// Images named for one damaged digest, and damaged digests named in one report.
const MOST: usize = 100;
const MOST_DAMAGED: usize = 1_000;
/// A row whose last use is noted meanwhile is looked at again.
const TRIES: usize = 3;
/// A delay shorter than this is made up for later.
const GRAIN_MS: u64 = 5;

/// The scrub under way, or the last one.
#[derive(Debug, Default)]
pub(super) struct Scrub {
    report: Mutex<ScrubReport>,
    stop: Mutex<CancellationToken>,
}

impl Scrub {
    fn update(&self, change: impl FnOnce(&mut ScrubReport)) {
        change(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn report(&self) -> ScrubReport {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// `None`: one is under way.
    fn begin(&self) -> Option<CancellationToken> {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        if report.running {
            return None;
        }
        *report = ScrubReport { running: true, ..ScrubReport::default() };
        let stop = CancellationToken::new();
        *self.stop.lock().unwrap_or_else(PoisonError::into_inner) = stop.clone();
        Some(stop)
    }
}

/// Whether a file is what its row says.
enum Found {
    Whole,
    /// Removed, or replaced, since its row was read.
    Gone,
    Damaged(Option<Blob>),
}

impl Engine {
    /// Begins a scrub that reads so many bytes a second. One that is under way goes on, and is a conflict.
    pub fn start_scrub(&self, rate: u64) -> Result<(), EngineError> {
        let Some(stop) = self.shared.scrub.begin() else {
            return Err(EngineError::new(ErrorKind::Conflict, "a scrub is under way already"));
        };
        let run = Run { engine: self.clone(), stop, pace: Pace::new(&self.shared.clock, rate) };
        self.shared.tasks.spawn(run.run());
        Ok(())
    }

    /// Of the scrub under way, or of the last one since the start.
    pub fn scrub_report(&self) -> ScrubReport {
        self.shared.scrub.report()
    }

    /// Ends the scrub under way. What it has found stays in its report.
    pub fn stop_scrub(&self) {
        self.shared.scrub.stop.lock().unwrap_or_else(PoisonError::into_inner).cancel();
    }
}

struct Run {
    engine: Engine,
    stop: CancellationToken,
    pace: Pace,
}

impl Run {
    async fn run(mut self) {
        let ended = self.all().await.inspect_err(EngineError::report);
        let scrub = Arc::clone(&self.engine.shared);
        scrub.scrub.update(|report| {
            report.running = false;
            report.finished = matches!(ended, Ok(true));
            report.failed = ended.err().map(|error| error.message);
        });
        let report = scrub.scrub.report();
        let (blobs, manifests, damaged) = (report.blobs, report.manifests, report.damaged.len());
        tracing::info!(blobs, manifests, bytes = report.bytes, damaged, "a scrub has ended");
    }

    fn is_stopped(&self) -> bool {
        self.stop.is_cancelled() || self.engine.shared.tasks.is_stopping()
    }

    /// `false`: it was stopped.
    async fn all(&mut self) -> Result<bool, EngineError> {
        let shared = Arc::clone(&self.engine.shared);
        let total = shared.read(total).await?;
        shared.scrub.update(|report| report.total_bytes = total);
        if !self.missing().await? {
            return Ok(false);
        }
        let mut after = None;
        loop {
            let page = shared
                .read(move |shared| Ok(shared.meta.scan::<CopyRow>(&(), after.as_ref(), ROWS)?))
                .await?;
            for (digest, row) in &page {
                if self.is_stopped() {
                    return Ok(false);
                }
                self.blob(*digest, row).await?;
            }
            after = page.last().map(|(digest, _)| *digest);
            if page.len() < ROWS {
                break;
            }
        }
        self.manifests().await
    }

    /// What was pushed and is gone, with the row for its bytes: a start, or an earlier scrub, has met that already.
    async fn missing(&mut self) -> Result<bool, EngineError> {
        let shared = Arc::clone(&self.engine.shared);
        let mut after = None;
        loop {
            let page = shared.read(move |shared| missing(shared, after.as_ref())).await?;
            for (digest, size) in page.found {
                if self.is_stopped() {
                    return Ok(false);
                }
                self.damaged_blob(digest, size, None).await?;
            }
            after = page.next;
            if after.is_none() {
                return Ok(true);
            }
        }
    }

    async fn manifests(&mut self) -> Result<bool, EngineError> {
        let shared = Arc::clone(&self.engine.shared);
        let mut after = None;
        loop {
            let page = shared.read(move |shared| compared(shared, after.as_ref())).await?;
            for Compared { digest, size, is_right } in &page {
                if self.is_stopped() {
                    return Ok(false);
                }
                self.keep_pace(*size).await;
                if !is_right {
                    self.damaged_manifest(*digest).await?;
                }
                self.counted(*size, |report| report.manifests += 1);
            }
            after = page.last().map(|manifest| manifest.digest);
            if page.len() < MANIFESTS {
                return Ok(true);
            }
        }
    }

    async fn keep_pace(&mut self, bytes: u64) {
        tokio::select! {
            () = self.pace.keep(bytes) => {}
            () = self.stop.cancelled() => {}
            () = self.engine.shared.tasks.stopping() => {}
        }
    }

    fn counted(&self, bytes: u64, more: impl FnOnce(&mut ScrubReport)) {
        self.engine.shared.metrics.scrubbed(bytes);
        self.engine.shared.scrub.update(|report| {
            report.bytes += bytes;
            more(report);
        });
    }

    async fn blob(&mut self, digest: Digest, row: &CopyRow) -> Result<(), EngineError> {
        let found = self.examine(digest, row).await?;
        if let Found::Damaged(file) = found {
            self.damaged_blob(digest, row.size, file).await?;
        }
        self.engine.shared.scrub.update(|report| report.blobs += 1);
        Ok(())
    }

    async fn examine(&mut self, digest: Digest, row: &CopyRow) -> Result<Found, EngineError> {
        let shared = Arc::clone(&self.engine.shared);
        let opened = shared.read(move |shared| Ok(shared.store.open(&digest))).await?;
        let found = match opened {
            Ok(Some(blob)) if blob.size() == row.size => match self.hash(&digest, &blob).await {
                Ok(Some(hash)) if hash == digest => Found::Whole,
                // Stopped: nothing is known of it.
                Ok(None) => Found::Gone,
                Ok(Some(_)) => Found::Damaged(Some(blob)),
                Err(error) if Trouble::of(&error) == Trouble::Damage => Found::Damaged(Some(blob)),
                Err(error) => return Err(error.into()),
            },
            Ok(file) => Found::Damaged(file),
            Err(error) if Trouble::of(&error) == Trouble::Shortage => return Err(error.into()),
            Err(_) => Found::Damaged(None),
        };
        let now = shared.read(move |shared| Ok(shared.meta.get::<CopyRow>(&digest)?)).await?;
        // Its last use may have been noted meanwhile; anything else is another copy.
        let same = now.is_some_and(|now| CopyRow { last_used_ms: row.last_used_ms, ..now } == *row);
        Ok(if same { found } else { Found::Gone })
    }

    /// `None`: stopped on the way.
    async fn hash(&mut self, digest: &Digest, blob: &Blob) -> std::io::Result<Option<Digest>> {
        let mut hasher = Hasher::new(digest.algorithm());
        let mut reader = blob.reader(0, blob.size());
        while let Some(piece) = poll_fn(|cx| reader.poll_chunk(cx, PIECE)).await {
            let piece = piece?;
            let bytes = piece.len() as u64;
            // Not on a thread that serves: at a high rate requests would wait for it.
            let hashing = tokio::task::spawn_blocking(move || {
                hasher.update(&piece);
                hasher
            });
            hasher = hashing.await.map_err(std::io::Error::other)?;
            self.counted(bytes, |_| {});
            self.keep_pace(bytes).await;
            if self.is_stopped() {
                return Ok(None);
            }
        }
        Ok(Some(hasher.finish()))
    }

    async fn damaged_blob(&self, digest: Digest, size: u64, file: Option<Blob>) -> Result<(), EngineError> {
        let shared = &self.engine.shared;
        let mut is_newer = true;
        for _ in 0..TRIES {
            let now = shared.read(move |shared| Ok(shared.meta.get::<CopyRow>(&digest)?)).await?;
            is_newer = damage::put_away(shared, digest, now, file.clone()).await?;
            if !is_newer {
                break;
            }
        }
        if is_newer {
            return Ok(());
        }
        self.engine.lost(&digest).await;
        let needed = shared.read(move |shared| needed(shared, &digest)).await?;
        let healed = self.fetch_again(&digest, &needed).await;
        self.report(digest, size, false, &needed, healed);
        Ok(())
    }

    /// It is looked at again: since its page was read the pace was kept, and who has pushed it meanwhile was told that
    /// it is here.
    async fn damaged_manifest(&self, digest: Digest) -> Result<(), EngineError> {
        let shared = &self.engine.shared;
        for _ in 0..TRIES {
            let Some(row) = shared.read(move |shared| damaged_row(shared, &digest)).await? else {
                return Ok(());
            };
            let needed = shared.read(move |shared| needed(shared, &digest)).await?;
            if self.drop_document(digest, &row).await? {
                return self.report_manifest(digest, row.bytes.len() as u64, &needed).await;
            }
        }
        // Whoever changes it is faster each time, so it is pushed and used: the next scrub sees what it is then.
        Ok(())
    }

    /// Without its document nobody is shown it, until it is pushed or, by the links that stay, fetched again. `false`: it
    /// has changed.
    async fn drop_document(&self, digest: Digest, row: &DocumentRow) -> Result<bool, EngineError> {
        let shared = &self.engine.shared;
        let mut batch = Batch::new(Durability::Durable);
        batch.require_equal(&digest, row).delete::<DocumentRow>(&digest);
        match shared.meta.apply(batch).await {
            Ok(()) => {
                shared.answers.clear();
                Ok(true)
            }
            Err(MetaError::Conflict(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn report_manifest(&self, digest: Digest, size: u64, needed: &Needed) -> Result<(), EngineError> {
        let mut healed = false;
        for scope in &needed.remotes {
            let fetched = self.engine.manifest(scope, &Reference::Digest(digest), Want::Body).await;
            healed = healed || fetched.inspect_err(EngineError::report).is_ok();
        }
        self.report(digest, size, true, needed, healed);
        Ok(())
    }

    /// Through any remote that has shown it before.
    async fn fetch_again(&self, digest: &Digest, needed: &Needed) -> bool {
        for scope in &needed.remotes {
            match self.fetch_from(scope, digest, needed.pushed).await {
                Ok(true) => return true,
                Ok(false) => {}
                Err(error) => tracing::info!(%digest, %error, "damaged content cannot be fetched again here"),
            }
        }
        false
    }

    /// A pull, which leaves a cached copy behind. Where a push once promised the content, its bytes take the place of
    /// that copy, as durable as it was.
    async fn fetch_from(&self, scope: &Scope, digest: &Digest, pushed: bool) -> Result<bool, EngineError> {
        let shared = &self.engine.shared;
        let want = BlobWant { want: Want::Body, range: RangeRequest::Whole };
        let Some(mut reader) = self.engine.blob(scope, digest, want).await?.reader else { return Ok(false) };
        let mut draft = None;
        if pushed {
            let (id, algorithm) = (shared.next_draft(), digest.algorithm());
            draft = Some(shared.read(move |shared| Ok(shared.store.create_draft(id, algorithm)?)).await?);
        }
        while let Some(piece) = poll_fn(|cx| reader.poll_chunk(cx, PIECE)).await {
            let piece = piece?;
            if let Some(draft) = &mut draft {
                draft.append(vec![piece]).await?;
            }
        }
        let Some(draft) = draft else { return Ok(true) };
        if draft.digest() != *digest {
            return Ok(false);
        }
        let _claim = self.engine.coordination.claim(*digest).await?;
        let _turn = shared.turns.take(digest).await;
        draft.publish(digest, store::Durability::Durable).await?;
        Ok(true)
    }

    fn report(&self, digest: Digest, size: u64, manifest: bool, needed: &Needed, healed: bool) {
        let remedy = match (healed, needed.pushed) {
            (true, _) => Remedy::Fetched,
            (false, true) => Remedy::PushAgain,
            (false, false) => Remedy::NextPull,
        };
        let images = needed.images.clone();
        tracing::error!(%digest, size, ?remedy, images = images.join(", "), "a scrub found damaged bytes");
        self.engine.shared.metrics.damaged();
        self.engine.shared.scrub.update(|report| {
            report.lost += u64::from(remedy == Remedy::PushAgain);
            report.damaged_bytes += size;
            if report.damaged.len() < MOST_DAMAGED {
                report.damaged.push(Damaged { digest, size, manifest, remedy, images });
            } else {
                report.unnamed += 1;
            }
        });
    }
}

/// Who needs a digest.
struct Needed {
    pushed: bool,
    /// `repository/image`.
    images: Vec<String>,
    /// From where it can be fetched.
    remotes: Vec<Scope>,
}

fn needed(shared: &Shared, digest: &Digest) -> Result<Needed, EngineError> {
    let held = shared.meta.scan::<HolderRow>(digest, None, 1)?;
    let content = shared.meta.get::<ContentRow>(digest)?;
    let pushed = !held.is_empty() || content.is_some_and(|content| content.pushed);
    let (mut images, mut remotes) = (Vec::new(), Vec::new());
    shared.meta.each::<LinkRow, EngineError>(&(), |(id, image, linked), _| {
        if linked != *digest || images.len() == MOST {
            return Ok(());
        }
        if let Some(repository) = shared.repositories.by_id(id) {
            images.push(format!("{}/{image}", repository.name));
            if repository.remote().is_some() {
                remotes.push(Scope { repository, image });
            }
        }
        Ok(())
    })?;
    Ok(Needed { pushed, images, remotes })
}

/// Of one page of content, what was pushed and has no bytes.
struct Missing {
    found: Vec<(Digest, u64)>,
    /// Behind which digest the next page begins.
    next: Option<Digest>,
}

fn missing(shared: &Shared, after: Option<&Digest>) -> Result<Missing, EngineError> {
    let page = shared.meta.scan::<ContentRow>(&(), after, ROWS)?;
    let next = page.last().map(|(digest, _)| *digest).filter(|_| page.len() == ROWS);
    let mut found = Vec::new();
    for (digest, _) in page.iter().filter(|(_, content)| content.pushed) {
        let here = shared.meta.get::<CopyRow>(digest)?.is_some()
            || shared.meta.get::<DocumentRow>(digest)?.is_some();
        if !here
            && let Some(content) = shared.meta.get::<ContentRow>(digest)?.filter(|content| content.pushed)
        {
            // Asked again last: it was not deleted meanwhile.
            found.push((*digest, content.size));
        }
    }
    Ok(Missing { found, next })
}

/// A manifest, and whether its bytes are what its digest says.
struct Compared {
    digest: Digest,
    size: u64,
    is_right: bool,
}

impl Compared {
    fn new(digest: Digest, row: &DocumentRow) -> Self {
        let is_right = Digest::of(digest.algorithm(), &row.bytes) == digest;
        Self { digest, size: row.bytes.len() as u64, is_right }
    }
}

fn compared(shared: &Shared, after: Option<&Digest>) -> Result<Vec<Compared>, EngineError> {
    let page = shared.meta.scan::<DocumentRow>(&(), after, MANIFESTS)?;
    Ok(page.iter().map(|(digest, row)| Compared::new(*digest, row)).collect())
}

/// As long as its bytes are not what its digest says.
fn damaged_row(shared: &Shared, digest: &Digest) -> Result<Option<DocumentRow>, EngineError> {
    let row = shared.meta.get::<DocumentRow>(digest)?;
    Ok(row.filter(|row| !Compared::new(*digest, row).is_right))
}

fn total(shared: &Shared) -> Result<u64, EngineError> {
    let mut total = 0;
    shared.meta.each::<CopyRow, EngineError>(&(), |_, row| {
        total += row.size;
        Ok(())
    })?;
    shared.meta.each::<DocumentRow, EngineError>(&(), |_, row| {
        total += row.bytes.len() as u64;
        Ok(())
    })?;
    Ok(total)
}

/// Bytes come no faster than so many a second.
struct Pace {
    clock: Clock,
    rate: u64,
    /// In microseconds: millions of small pieces add up.
    due: u64,
}

impl Pace {
    fn new(clock: &Clock, rate: u64) -> Self {
        Self { clock: clock.clone(), rate: rate.max(1), due: 0 }
    }

    async fn keep(&mut self, bytes: u64) {
        let now = self.clock.now().0.saturating_mul(1_000);
        let takes = u128::from(bytes) * 1_000_000 / u128::from(self.rate);
        self.due = self.due.max(now).saturating_add(u64::try_from(takes).unwrap_or(u64::MAX));
        if self.due - now >= GRAIN_MS * 1_000 {
            self.clock.sleep_until(Millis(self.due / 1_000)).await;
        }
    }
}
