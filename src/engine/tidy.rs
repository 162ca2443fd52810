//! Owns what is tidied up at leisure: what removed repositories left, what was set aside as damaged, and manifests above
//! their cap. Nobody waits for it, and it takes as long as it takes.
//! Must not know: how room is made, why a file was set aside.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use super::actor::Coordination;
use super::blobs::{self, Copy};
use super::documents;
use super::model::{EngineError, ErrorKind};
use super::shared::Shared;
use super::sweep::ROWS;
use super::uploads;
use crate::cache::Event;
use crate::clock::UnixMillis;
use crate::meta::{
    Batch, ContentRow, CopyRow, Durability, HolderRow, LinkRow, MetaExt as _, ReferrerRow, RepositoryRow,
    TagRow,
};
use crate::names::{Digest, RepositoryId};
use crate::store::Aside;

const EVERY: Duration = Duration::from_secs(10);
/// Between two looks at what was set aside, and at the manifests.
const TRIM_EVERY: Duration = Duration::from_secs(60);
/// How long a damaged file lies there for a person to look at.
const ASIDE_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
/// What all of them may take, apart from the newest and from those that are spared.
const ASIDE_BYTES: u64 = 1 << 30;

/// What was trimmed.
#[derive(Default)]
struct Trimmed {
    files: u64,
    bytes: u64,
}

/// Runs until the stop.
pub(super) async fn tidy(shared: Arc<Shared>, coordination: Coordination) {
    let mut trim_due = shared.clock.now();
    loop {
        for id in shared.repositories.take_retired() {
            coordination.tell(Event::Share { upstream: id.0, limit: None }).await;
            clear_retired(&shared, id).await;
        }
        if shared.clock.now() >= trim_due {
            trim_due = shared.clock.now().after(TRIM_EVERY);
            match trim_quarantine(&shared).await {
                Ok(Trimmed { files: 0, .. }) => {}
                Ok(Trimmed { files, bytes }) => {
                    tracing::info!(files, bytes, "removed the oldest of what was set aside in quarantine/");
                }
                Err(error) => tracing::warn!(%error, "quarantine/ cannot be tidied up"),
            }
            if let Err(error) = documents::cap(&shared).await {
                tracing::warn!(%error, "the documents cannot be capped");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = shared.tasks.stopping() => return,
        }
    }
}

/// What is older than its life goes. Of the rest, from the newest on, stays what has room; the newest always, so that one
/// large file does not take the place of all. What is pushed and does not lie here whole is spared, whatever its age and
/// size: the file set aside may be the last there is, and intact where only the disk's controller failed.
async fn trim_quarantine(shared: &Arc<Shared>) -> Result<Trimmed, EngineError> {
    let life = u64::try_from(ASIDE_LIFE.as_millis()).unwrap_or(u64::MAX);
    let since = UnixMillis(shared.clock.wall().0.saturating_sub(life));
    let mut aside = shared.read(|shared| Ok(shared.store.list_aside()?)).await?;
    aside.sort_unstable_by_key(|one| (Reverse(one.at), one.digest));
    let (mut held, mut trimmed) = (0_u64, Trimmed::default());
    for (place, Aside { digest, size, at }) in aside.into_iter().enumerate() {
        let has_room = place == 0 || held.saturating_add(size) <= ASIDE_BYTES;
        if (has_room && at >= since) || !remove_aside(shared, digest).await? {
            held = held.saturating_add(size);
        } else {
            trimmed.files += 1;
            trimmed.bytes += size;
        }
    }
    Ok(trimmed)
}

/// Unless it is to be spared. In the digest's turn: nobody sets its blob aside between the look and the removal.
async fn remove_aside(shared: &Arc<Shared>, digest: Digest) -> Result<bool, EngineError> {
    let _turn = shared.turns.take(&digest).await;
    let remove = move |shared: &Shared| {
        let content = shared.meta.get::<ContentRow>(&digest)?;
        let copy = shared.meta.get::<CopyRow>(&digest)?;
        let pushed = content.is_some_and(|row| row.pushed) || copy.is_some_and(|row| row.durable);
        let spared = pushed && !matches!(blobs::look(shared, &digest)?, Copy::Here(_));
        Ok(!spared && shared.store.remove_aside(&digest)?)
    };
    shared.read(remove).await
}

/// Removes what a retired repository left, a page of rows at a time, then its own row; and once more what came
/// between the last look and that, since with the row nothing can be noted for it any more. Its blobs stay, unseen,
/// until room is wanted.
async fn clear_retired(shared: &Arc<Shared>, id: RepositoryId) {
    uploads::give_up_all(shared, id).await;
    let cleared = async {
        clear_rows(shared, id).await?;
        let mut last = Batch::new(Durability::Relaxed);
        last.delete::<RepositoryRow>(&id);
        shared.meta.apply(last).await?;
        clear_rows(shared, id).await
    };
    if let Err(error) = cleared.await {
        tracing::warn!(%id, %error, "a removed repository's rows stay until the next start");
    }
}

async fn clear_rows(shared: &Arc<Shared>, id: RepositoryId) -> Result<(), EngineError> {
    while let Some(page) = shared.read(move |shared| clear_page(shared, id)).await? {
        if shared.tasks.is_stopping() {
            return Err(EngineError::new(ErrorKind::Overloaded, "the server is stopping"));
        }
        shared.meta.apply(page).await?;
    }
    Ok(())
}

/// `None`: nothing is left.
fn clear_page(shared: &Shared, id: RepositoryId) -> Result<Option<Batch>, EngineError> {
    let mut batch = Batch::new(Durability::Relaxed);
    let links = shared.meta.scan::<LinkRow>(&id, None, ROWS)?;
    let tags = shared.meta.scan::<TagRow>(&id, None, ROWS)?;
    let referrers = shared.meta.scan::<ReferrerRow>(&id, None, ROWS)?;
    for (key, _) in &links {
        batch.delete::<LinkRow>(key);
        batch.delete::<HolderRow>(&(key.2, key.0, key.1.clone()));
    }
    for (key, _) in &tags {
        batch.delete::<TagRow>(key);
    }
    for (key, _) in &referrers {
        batch.delete::<ReferrerRow>(key);
    }
    let empty = links.is_empty() && tags.is_empty() && referrers.is_empty();
    Ok((!empty).then_some(batch))
}
