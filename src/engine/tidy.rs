//! Owns what is tidied up at leisure: what removed repositories left, and what was set aside as damaged. Nobody waits for
//! it, and it takes as long as it takes.
//! Must not know: how room is made, why a file was set aside.

use std::sync::Arc;
use std::time::Duration;

use super::actor::Coordination;
use super::model::{EngineError, ErrorKind};
use super::shared::Shared;
use super::sweep::ROWS;
use super::uploads;
use crate::cache::Event;
use crate::clock::UnixMillis;
use crate::meta::{Batch, Durability, HolderRow, LinkRow, MetaExt as _, ReferrerRow, RepositoryRow, TagRow};
use crate::names::RepositoryId;

const EVERY: Duration = Duration::from_secs(10);
const TRIM_EVERY: Duration = Duration::from_secs(60);
/// How long a damaged file lies there for a person to look at.
const ASIDE_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
/// What all of them may take.
const ASIDE_BYTES: u64 = 1 << 30;

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
            trim_quarantine(&shared).await;
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = shared.tasks.stopping() => return,
        }
    }
}

async fn trim_quarantine(shared: &Arc<Shared>) {
    let life = u64::try_from(ASIDE_LIFE.as_millis()).unwrap_or(u64::MAX);
    let since = UnixMillis(shared.clock.wall().0.saturating_sub(life));
    match shared.read(move |shared| Ok(shared.store.trim_quarantine(since, ASIDE_BYTES)?)).await {
        Ok(removed) if removed.files > 0 => {
            let (files, bytes) = (removed.files, removed.bytes);
            tracing::info!(files, bytes, "removed the oldest of what was set aside in quarantine/");
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "quarantine/ cannot be tidied up"),
    }
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
