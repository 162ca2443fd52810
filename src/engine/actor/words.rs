//! Owns the words that are said to the actor, and what it answers who waits for a key.
//! Must not know: what comes of them.

use std::time::Duration;

use tokio::sync::oneshot;

use crate::cache::{ClaimId, Counts, Event, Failure, FlightId, Refusal, WaiterId};
use crate::engine::flight::{FlightKey, FlightTail, Outcome, Source, Story};
use crate::engine::sweep::Eviction;
use crate::names::Digest;

/// What a waiter learns.
#[derive(Debug)]
pub(in crate::engine) enum Joined {
    /// Read along. `first` started the fetch. What is `too_large` goes as soon as it is here.
    Tail {
        tail: FlightTail,
        first: bool,
        too_large: bool,
        /// Who came found all of it there; only its row was not written yet.
        whole: bool,
    },
    /// It lies under its digest.
    Present,
    /// The pointer flight's result.
    Document {
        outcome: Outcome,
        first: bool,
    },
    /// Somebody else's source brought it: show that this source may have it, then ask again.
    NeedProof,
    Refused {
        why: Refusal,
        story: Option<Story>,
    },
}

/// What a request for a key carries.
#[derive(Debug)]
pub(in crate::engine) struct Join {
    pub key: FlightKey,
    pub source: Source,
    /// Whether the source was already shown to have the digest.
    pub proven: bool,
    pub negative: Duration,
    pub deadline: Option<Duration>,
}

#[derive(Debug)]
pub(super) enum Request {
    Join { waiter: WaiterId, join: Join, reply: oneshot::Sender<Joined> },
    Event(Event<FlightKey, Source>),
    Counts(oneshot::Sender<Counts>),
}

/// What tasks and guards tell the actor.
#[derive(Debug)]
pub(in crate::engine) enum Report {
    Leave(WaiterId),
    /// Here and not among the requests, so that it never overtakes the end of a claim.
    Claim {
        claim: ClaimId,
        digest: Digest,
        granted: oneshot::Sender<()>,
    },
    Unclaim(ClaimId),
    /// The head of a fill; `admit` fires when there is room.
    Head {
        flight: FlightId,
        size: Option<u64>,
        tail: FlightTail,
        admit: oneshot::Sender<()>,
    },
    /// A fill starts over on a new draft; who was sent nothing yet may follow.
    Restart {
        flight: FlightId,
        tail: FlightTail,
    },
    /// Nobody will ask for what this fill brings. Decided here, since who joins is handed its tail here.
    EndUnlessRead {
        flight: FlightId,
        reply: oneshot::Sender<bool>,
    },
    Done {
        flight: FlightId,
        size: u64,
        outcome: Option<Outcome>,
    },
    Failed {
        flight: FlightId,
        failure: Failure,
        story: Option<Story>,
    },
    /// What became of a blob that was to be evicted.
    Swept {
        digest: Digest,
        eviction: Eviction,
    },
    Event(Event<FlightKey, Source>),
}
