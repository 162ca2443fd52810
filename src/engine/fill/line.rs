//! Owns a fill's way to the actor: its head, a fresh start, and its end, which is reported whatever happens.
//! Must not know: what the actor makes of it.

use tokio::sync::mpsc::{self, OwnedPermit};
use tokio::sync::oneshot;

use crate::cache::{Failure, FlightId};
use crate::engine::actor::{Full, Report};
use crate::engine::flight::{FlightTail, Outcome, Story};

/// A fill's end. Dropped without a word (a panic, an abort) it reports that the fill died.
pub(in crate::engine) struct FillGuard {
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
        self.send(|flight| Report::Failed { flight, failure: Failure::Died, story: None });
    }
}

/// A running fill's way to report before its end.
pub(in crate::engine) struct FillLine {
    flight: FlightId,
    reports: mpsc::Sender<Report>,
}

impl FillLine {
    pub fn new(flight: FlightId, reports: mpsc::Sender<Report>) -> Self {
        Self { flight, reports }
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
}
