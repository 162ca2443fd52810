//! Owns the writer thread: group commit, the time until relaxed batches are durable, and the way back after
//! a failed write.
//! Must not know: rows, and who asked.
//!
//! After one failed write redb refuses all further ones until it is opened anew. Reads go on in the old
//! opening until a probe shows that the disk takes writes again; only then is it closed. Relaxed
//! batches that were answered and not yet durable are lost by the closing, so they are kept and
//! applied again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::commit::{Committed, Group, Verdict, commit_again, commit_group};
use super::file::Medium;
use super::{Shared, State, layout, read_error};
use crate::clock::{Clock, Millis};
use crate::meta::MetaError;
use crate::meta::batch::{Batch, Change, Durability};

/// How many batches share a commit at most.
const GROUP: usize = 256;

/// Relaxed batches are made durable after this time, this number or this many bytes, whichever comes first.
const RELAXED_TIME: Duration = Duration::from_secs(1);
const RELAXED_BATCHES: usize = 1000;
const RELAXED_BYTES: usize = 8 << 20;

/// The pause between two tries to open the file anew doubles from the first to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

pub(super) enum Message {
    Apply(Batch, Reply),
    Close(Reply),
    Abandon,
}

/// The way back to the one who asked, and its place in the queue.
pub(super) struct Reply {
    sender: oneshot::Sender<Result<(), MetaError>>,
    _place: OwnedSemaphorePermit,
}

impl Reply {
    pub fn new(sender: oneshot::Sender<Result<(), MetaError>>, place: OwnedSemaphorePermit) -> Self {
        Self { sender, _place: place }
    }

    fn send(self, answer: Result<(), MetaError>) {
        // Who has gone away needs no answer.
        let _ = self.sender.send(answer);
    }
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    inbox: Receiver<Message>,
    medium: Box<dyn Medium>,
    clock: Clock,
    /// The number of the last commit.
    sequence: u64,
    relaxed: Relaxed,
    dead: Option<Dead>,
}

/// What was answered and is not durable yet.
#[derive(Default)]
struct Relaxed {
    /// When the oldest was answered.
    since: Option<Millis>,
    bytes: usize,
    batches: Vec<Applied>,
}

/// The changes of a batch, and the number of the commit that they were in.
struct Applied {
    sequence: u64,
    changes: Vec<Change>,
}

/// No write is possible before the file has been opened anew.
struct Dead {
    why: String,
    retry_at: Millis,
    pause: Duration,
}

/// What ends the thread.
enum End {
    Close(Reply),
    Abandon,
}

impl Writer {
    pub fn new(
        shared: Arc<Shared>,
        inbox: Receiver<Message>,
        medium: Box<dyn Medium>,
        sequence: u64,
    ) -> Self {
        // Made here and not handed in: a runtime's paused time must not hold up a thread outside of it.
        let clock = Clock::new();
        Self { shared, inbox, medium, clock, sequence, relaxed: Relaxed::default(), dead: None }
    }

    pub fn run(mut self) {
        loop {
            let (group, end) = self.receive();
            self.revive_if_due();
            if !group.is_empty() {
                self.apply(group);
            }
            self.flush_if_due();
            match end {
                None => {}
                Some(End::Close(reply)) => return reply.send(self.close()),
                Some(End::Abandon) => {
                    // redb syncs what it can when it is closed; nobody waits to hear more.
                    let _ = self.shared.close();
                    return;
                }
            }
        }
    }

    /// Waits for work or for the next date, then takes whatever has gathered meanwhile.
    fn receive(&self) -> (Vec<(Batch, Reply)>, Option<End>) {
        let mut group = Vec::new();
        let mut next = match self.next_date() {
            None => self.inbox.recv().map_err(RecvTimeoutError::from),
            Some(date) => self.inbox.recv_timeout(date.since(self.clock.now())),
        };
        loop {
            match next {
                Ok(Message::Apply(batch, reply)) => group.push((batch, reply)),
                Ok(Message::Close(reply)) => return (group, Some(End::Close(reply))),
                Ok(Message::Abandon) | Err(RecvTimeoutError::Disconnected) => {
                    return (group, Some(End::Abandon));
                }
                Err(RecvTimeoutError::Timeout) => return (group, None),
            }
            if group.len() == GROUP {
                return (group, None);
            }
            next = self.inbox.recv_timeout(Duration::ZERO);
        }
    }

    fn next_date(&self) -> Option<Millis> {
        match &self.dead {
            Some(dead) => Some(dead.retry_at),
            None => self.relaxed.since.map(|since| since.after(RELAXED_TIME)),
        }
    }

    fn apply(&mut self, group: Vec<(Batch, Reply)>) {
        let (batches, replies): (Vec<_>, Vec<_>) = group.into_iter().unzip();
        match self.commit(batches) {
            Ok(verdicts) => {
                for (reply, verdict) in replies.into_iter().zip(verdicts) {
                    reply.send(verdict.map_err(MetaError::Conflict));
                }
            }
            Err(why) => {
                for reply in replies {
                    reply.send(Err(MetaError::WriteDead(why.clone())));
                }
            }
        }
    }

    /// One commit for all; `Err` says why none of them is known to have happened.
    fn commit(&mut self, batches: Vec<Batch>) -> Result<Vec<Verdict>, String> {
        if let Some(dead) = &self.dead {
            return Err(dead.why.clone());
        }
        let durable = self.relaxed.is_due(self.clock.now(), batches.len())
            || batches.iter().any(|batch| batch.durability == Durability::Durable);
        let group = Group { batches: &batches, number: self.sequence + 1, durable };
        let committed = self.shared.state().database().and_then(|database| commit_group(database, &group));
        let verdicts = match committed {
            Ok(Committed::Nothing(verdicts)) => return Ok(verdicts),
            Ok(Committed::Applied(verdicts)) => verdicts,
            Err(error) => return Err(self.die(&error)),
        };
        self.committed(durable);
        if !durable {
            let applied = batches.into_iter().zip(&verdicts).filter(|(_, verdict)| verdict.is_ok());
            self.relaxed.add(applied.map(|(batch, _)| batch.changes), self.sequence, self.clock.now());
        }
        Ok(verdicts)
    }

    fn committed(&mut self, durable: bool) {
        self.sequence += 1;
        self.shared.commits.fetch_add(1, Ordering::Relaxed);
        if durable {
            self.relaxed = Relaxed::default();
        }
    }

    /// Makes relaxed batches durable whose time is over and that no durable one has taken along.
    fn flush_if_due(&mut self) {
        if self.dead.is_none() && self.relaxed.is_due(self.clock.now(), 0) {
            // A failure has been noted by the commit, which keeps the batches for the next opening.
            let _ = self.commit(vec![Batch::new(Durability::Durable)]);
        }
    }

    fn die(&mut self, error: &redb::Error) -> String {
        let why = error.to_string();
        tracing::error!(error = why, "writing the metadata failed; reads go on, opening the file anew");
        self.dead = Some(Dead { why: why.clone(), retry_at: self.clock.now(), pause: RETRY.0 });
        why
    }

    fn revive_if_due(&mut self) {
        let Some(mut dead) = self.dead.take_if(|dead| dead.retry_at <= self.clock.now()) else { return };
        match self.revive() {
            Ok(()) => tracing::warn!("the metadata takes writes again"),
            Err(error) => {
                dead.why = error.to_string();
                tracing::warn!(error = dead.why, "the metadata still takes no writes");
                dead.retry_at = self.clock.now().after(dead.pause);
                dead.pause = RETRY.1.min(dead.pause * 2);
                self.dead = Some(dead);
            }
        }
    }

    /// Opens the file anew and applies again what was answered and is not in it. The durable commit at the end
    /// also shows that writing works.
    fn revive(&mut self) -> Result<(), MetaError> {
        self.medium.probe()?;
        let mut state = self.shared.state_mut();
        // Drops the old opening, and with it the lock of the file. While this guard lives no read can find
        // it missing, unless the opening fails.
        *state = State::Down("the file could not be opened anew".to_owned());
        *state = State::Open(self.medium.open()?);
        let database = state.database().map_err(read_error)?;
        self.sequence = layout::last_commit(database)?;
        let lost = self.relaxed.after(self.sequence);
        commit_again(database, lost, self.sequence + 1).map_err(read_error)?;
        drop(state);
        self.committed(true);
        Ok(())
    }

    fn close(mut self) -> Result<(), MetaError> {
        if let Some(dead) = &mut self.dead {
            dead.retry_at = self.clock.now();
        }
        self.revive_if_due();
        let marked = match &self.dead {
            Some(dead) => Err(MetaError::WriteDead(dead.why.clone())),
            None => self.mark_clean().map_err(|error| MetaError::WriteDead(error.to_string())),
        };
        marked.and(self.shared.close())
    }

    fn mark_clean(&self) -> Result<(), MetaError> {
        let state = self.shared.state();
        layout::mark_clean(state.database().map_err(read_error)?)
    }
}

impl Relaxed {
    /// Whether the next commit, of `more` batches, must be a durable one.
    fn is_due(&self, now: Millis, more: usize) -> bool {
        self.since.is_some_and(|since| since.after(RELAXED_TIME) <= now)
            || self.batches.len() + more > RELAXED_BATCHES
            || self.bytes >= RELAXED_BYTES
    }

    fn add(&mut self, batches: impl Iterator<Item = Vec<Change>>, sequence: u64, now: Millis) {
        for changes in batches {
            self.since.get_or_insert(now);
            self.bytes += changes.iter().map(Change::size).sum::<usize>();
            self.batches.push(Applied { sequence, changes });
        }
    }

    /// The changes of later commits than `sequence`, in order.
    fn after(&self, sequence: u64) -> impl Iterator<Item = &[Change]> {
        let lost = self.batches.iter().filter(move |applied| applied.sequence > sequence);
        lost.map(|applied| applied.changes.as_slice())
    }
}
