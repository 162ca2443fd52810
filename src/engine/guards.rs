//! Owns guards: the drop of a future, a task or a value, turned into a message to the actor. Each holds its place in
//! the inbox from the start, so that it can always be sent.
//! Must not know: what the actor makes of it.

use tokio::sync::mpsc::{self, OwnedPermit};
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::actor::{Full, Report};
use super::flight::{FlightTail, Outcome, Story};
use crate::cache::{ClaimId, Failure, FlightId, WaiterId};

/// Turns the end of a waiting future into `Leave`. It holds its place in the inbox from the start.
pub(super) struct JoinGuard {
    waiter: WaiterId,
    permit: Option<OwnedPermit<Report>>,
}

impl JoinGuard {
    pub fn new(waiter: WaiterId, permit: OwnedPermit<Report>) -> Self {
        Self { waiter, permit: Some(permit) }
    }

    /// It waited to the end: there is nothing to leave.
    pub fn answered(mut self) {
        self.permit = None;
    }
}

impl Drop for JoinGuard {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            permit.send(Report::Leave(self.waiter));
        }
    }
}

/// A digest that stays while this lives. It holds its place in the inbox from the start.
#[must_use = "the digest may be removed as soon as this is dropped"]
pub(super) struct Claim {
    id: ClaimId,
    permit: Option<OwnedPermit<Report>>,
}

impl Claim {
    pub fn new(id: ClaimId, permit: OwnedPermit<Report>) -> Self {
        Self { id, permit: Some(permit) }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            permit.send(Report::Unclaim(self.id));
        }
    }
}

/// A fill's end. Dropped without a word (a panic, an abort) it reports that the fill died.
pub(super) struct FillGuard {
    flight: FlightId,
    permit: Option<OwnedPermit<Report>>,
}

impl FillGuard {
    pub fn new(flight: FlightId, permit: OwnedPermit<Report>) -> Self {
        Self { flight, permit: Some(permit) }
    }

    pub fn done(mut self, size: u64, outcome: Option<Outcome>) {
        self.send(|flight| Report::Done { flight, size, outcome });
    }

    pub fn failed(mut self, failure: Failure, story: Option<Story>) {
        self.send(|flight| Report::Failed { flight, failure, story });
    }

    fn send(&mut self, report: impl FnOnce(FlightId) -> Report) {
        if let Some(permit) = self.permit.take() {
            permit.send(report(self.flight));
        }
    }
}

impl Drop for FillGuard {
    fn drop(&mut self) {
        if self.permit.is_some() && std::thread::panicking() {
            tracing::error!(
                "a fetch panicked; who waits for it is answered, and the next request begins anew"
            );
        }
        self.send(|flight| Report::Failed { flight, failure: Failure::Died, story: None });
    }
}

/// A running fill's line to the actor before its end.
pub(super) struct FillLine {
    flight: FlightId,
    reports: mpsc::Sender<Report>,
    unneeded: CancellationToken,
}

impl FillLine {
    /// The actor cancels `unneeded`.
    pub fn new(flight: FlightId, reports: mpsc::Sender<Report>, unneeded: CancellationToken) -> Self {
        Self { flight, reports, unneeded }
    }

    /// Completes when the fill should end early.
    pub fn unneeded(&self) -> WaitForCancellationFutureOwned {
        self.unneeded.clone().cancelled_owned()
    }

    /// Announces the head and waits until there is room. `Err` only when the actor stopped.
    pub async fn head(&self, size: Option<u64>, tail: FlightTail) -> Result<(), Full> {
        let (admit, admitted) = oneshot::channel();
        let report = Report::Head { flight: self.flight, size, tail, admit };
        self.reports.send(report).await.map_err(|_| Full)?;
        admitted.await.map_err(|_| Full)
    }

    pub async fn restart(&self, tail: FlightTail) {
        // Without an actor nobody joins any more, so nobody misses the new tail.
        let _ = self.reports.send(Report::Restart { flight: self.flight, tail }).await;
    }

    /// Ends the flight unless somebody reads along. `true`: it has ended, and nobody will.
    pub async fn end_unless_read(&self) -> bool {
        let (reply, answer) = oneshot::channel();
        let report = Report::EndUnlessRead { flight: self.flight, reply };
        // Without an actor nobody joins any more; the stop ends the fill in its own way.
        self.reports.send(report).await.is_ok() && answer.await.unwrap_or(false)
    }
}
