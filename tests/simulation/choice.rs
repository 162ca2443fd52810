//! Owns the list of what may happen next in the simulated world. Must not know: what comes of it.

use binaryrepo::cache::{ClaimId, Failure, FlightId, WaiterId};

use crate::names::{Name, Via};

/// One thing that may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Choice {
    Join {
        key: Name,
        via: Via,
        patient: bool,
    },
    Leave(WaiterId),
    /// A client that was told Ready opens the file, perhaps much later.
    Open(WaiterId),
    Head {
        flight: FlightId,
        sized: bool,
    },
    Finish(FlightId),
    Fail(FlightId, Failure),
    Deliver(Sender),
    Resend(usize),
    Sweep {
        blob: u8,
        works: bool,
    },
    Push {
        blob: u8,
        pinned: bool,
    },
    /// The pushed bytes get their name.
    Publish(ClaimId),
    /// The row is durable, and the client has its 201.
    Commit(ClaimId),
    Abandon(ClaimId),
    Unpin(u8),
    Collect(u8),
    Touch(u8),
    /// A file disappears behind our back.
    Vanish(u8),
    Space(u64),
    Share {
        upstream: u64,
        limit: Option<u64>,
    },
    Wait(u64),
    Tick,
    Restart,
    /// The boot scan comes one file further, or to its end.
    Scan,
}

/// Kinds of choices, for weights and budgets.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Join,
    Leave,
    Open,
    Head,
    Finish,
    Fail,
    /// One for each sort of sender, so that one sort may be slow.
    FillReports,
    SweepReports,
    PushReports,
    ClientReports,
    ScanReports,
    Resend,
    Sweep,
    SweepFails,
    Push,
    Publish,
    Commit,
    Abandon,
    Unpin,
    Collect,
    Touch,
    Vanish,
    Limit,
    Wait,
    Tick,
    Restart,
    Scan,
}

pub const KINDS: usize = Kind::Scan as usize + 1;

impl Choice {
    pub fn kind(&self) -> usize {
        let kind = match self {
            Self::Join { .. } => Kind::Join,
            Self::Leave(_) => Kind::Leave,
            Self::Open(_) => Kind::Open,
            Self::Head { .. } => Kind::Head,
            Self::Finish(_) => Kind::Finish,
            Self::Fail(..) => Kind::Fail,
            Self::Deliver(Sender::Fill(_)) => Kind::FillReports,
            Self::Deliver(Sender::Sweep(_)) => Kind::SweepReports,
            Self::Deliver(Sender::Push(_)) => Kind::PushReports,
            Self::Deliver(Sender::Client(_)) => Kind::ClientReports,
            Self::Deliver(Sender::Scan) => Kind::ScanReports,
            Self::Resend(_) => Kind::Resend,
            Self::Sweep { works: true, .. } => Kind::Sweep,
            Self::Sweep { works: false, .. } => Kind::SweepFails,
            Self::Push { .. } => Kind::Push,
            Self::Publish(_) => Kind::Publish,
            Self::Commit(_) => Kind::Commit,
            Self::Abandon(_) => Kind::Abandon,
            Self::Unpin(_) => Kind::Unpin,
            Self::Collect(_) => Kind::Collect,
            Self::Touch(_) => Kind::Touch,
            Self::Vanish(_) => Kind::Vanish,
            Self::Space(_) | Self::Share { .. } => Kind::Limit,
            Self::Wait(_) => Kind::Wait,
            Self::Tick => Kind::Tick,
            Self::Restart => Kind::Restart,
            Self::Scan => Kind::Scan,
        };
        kind as usize
    }
}

/// Whose reports arrive in the order in which they were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sender {
    Fill(FlightId),
    Sweep(u8),
    Push(ClaimId),
    Client(WaiterId),
    Scan,
}
