//! Owns the writer thread: group commit, the time until relaxed batches are durable, and the way back after
//! a failed write.
//! Must not know: rows, and who asked.
//!
//! After one failure redb refuses every write, and every read that its cache does not answer, until the
//! file is opened anew. While the disk takes no writes, that is done under an overlay, so that reads go on;
//! once a probe shows that it does again, it is done for good. Relaxed batches that were answered and
//! are not durable yet are lost by either, so they are kept and applied again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::commit::{Committed, Group, Verdict, commit_again, commit_group};
use super::file::{Medium, Opening};
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

/// After a failed read the file is opened anew only if it has been open for this long.
const REOPEN: Duration = Duration::from_secs(1);

pub(super) enum Message {
    Apply(Batch, Reply),
    Close(Reply),
    /// A reader met an error of the disk.
    ReadFailed {
        opening: u64,
    },
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

pub(super) struct Writer<M> {
    shared: Arc<Shared>,
    inbox: Receiver<Message>,
    medium: M,
    clock: Clock,
    /// The number of the last commit.
    sequence: u64,
    relaxed: Relaxed,
    dead: Option<Dead>,
    /// When the file was last opened.
    opened: Millis,
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
    /// Reads have the overlay.
    sheltered: bool,
    retry_at: Millis,
    pause: Duration,
}

/// What has come in.
#[derive(Default)]
struct Work {
    batches: Vec<Batch>,
    replies: Vec<Reply>,
    /// In which opening.
    read_failed: Option<u64>,
    end: Option<End>,
}

/// What ends the thread.
enum End {
    Close(Reply),
    Abandon,
}

impl<M: Medium> Writer<M> {
    pub fn new(shared: Arc<Shared>, inbox: Receiver<Message>, medium: M, sequence: u64) -> Self {
        // Made here and not handed in: a runtime's paused time must not hold up a thread outside of it.
        let clock = Clock::new();
        let opened = clock.now();
        Self { shared, inbox, medium, clock, sequence, relaxed: Relaxed::default(), dead: None, opened }
    }

    pub fn run(mut self) {
        loop {
            let work = self.receive();
            if let Some(opening) = work.read_failed {
                self.read_failed(opening);
            }
            self.revive_if_due();
            if !work.batches.is_empty() {
                self.apply(work.batches, work.replies);
            }
            self.flush_if_due();
            match work.end {
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
    fn receive(&self) -> Work {
        let mut work = Work::default();
        let mut next = match self.next_date() {
            None => self.inbox.recv().map_err(RecvTimeoutError::from),
            Some(date) => self.inbox.recv_timeout(date.since(self.clock.now())),
        };
        while work.end.is_none() {
            match next {
                Ok(Message::Apply(batch, reply)) => {
                    work.batches.push(batch);
                    work.replies.push(reply);
                }
                Ok(Message::ReadFailed { opening }) => work.read_failed = Some(opening),
                Ok(Message::Close(reply)) => work.end = Some(End::Close(reply)),
                Ok(Message::Abandon) | Err(RecvTimeoutError::Disconnected) => work.end = Some(End::Abandon),
                Err(RecvTimeoutError::Timeout) => break,
            }
            if work.batches.len() == GROUP {
                break;
            }
            next = self.inbox.recv_timeout(Duration::ZERO);
        }
        work
    }

    fn next_date(&self) -> Option<Millis> {
        match &self.dead {
            Some(dead) => Some(dead.retry_at),
            None => self.relaxed.since.map(|since| since.after(RELAXED_TIME)),
        }
    }

    fn apply(&mut self, batches: Vec<Batch>, replies: Vec<Reply>) {
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
        // Where nothing changes and nothing waits to be made durable there is nothing to promise, and no disk to wake.
        let idle = self.relaxed.batches.is_empty() && batches.iter().all(|batch| batch.changes.is_empty());
        let durable = !idle
            && (self.relaxed.is_due(self.clock.now(), batches.len())
                || batches.iter().any(|batch| batch.durability == Durability::Durable));
        let group = Group { batches: &batches, number: self.sequence + 1, durable };
        let committed = self.shared.state().database().and_then(|database| commit_group(database, &group));
        let verdicts = match committed {
            Ok(Committed::Nothing(verdicts)) => return Ok(verdicts),
            Ok(Committed::Applied(verdicts)) => verdicts,
            Err(error) => return Err(self.die(&error, self.clock.now())),
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

    fn die(&mut self, error: &redb::Error, retry_at: Millis) -> String {
        let why = error.to_string();
        tracing::error!(error = why, "the metadata file failed; opening it anew");
        self.dead = Some(Dead { why: why.clone(), sheltered: false, retry_at, pause: RETRY.0 });
        why
    }

    /// Has the file opened anew for the readers, at most once in [`REOPEN`]: a disk that cannot be read at one
    /// place would otherwise keep this thread busy.
    fn read_failed(&mut self, opening: u64) {
        self.shared.writer_told.store(false, Ordering::Relaxed);
        if opening != self.shared.openings.load(Ordering::Relaxed) {
            return;
        }
        let soonest = self.opened.after(REOPEN);
        match &mut self.dead {
            Some(dead) => {
                dead.sheltered = false;
                dead.retry_at = dead.retry_at.min(soonest);
            }
            None => _ = self.die(&redb::Error::PreviousIo, soonest),
        }
    }

    fn revive_if_due(&mut self) {
        let Some(mut dead) = self.dead.take_if(|dead| dead.retry_at <= self.clock.now()) else { return };
        let Err(error) = self.revive(&mut dead) else {
            tracing::warn!("the metadata takes writes again");
            return;
        };
        dead.why = error.to_string();
        tracing::warn!(error = dead.why, "the metadata still takes no writes");
        if !dead.sheltered {
            let sheltered = self.open(Opening::Overlaid);
            dead.sheltered =
                sheltered.inspect_err(|error| tracing::error!(%error, "and cannot be read")).is_ok();
        }
        dead.retry_at = self.clock.now().after(dead.pause);
        dead.pause = RETRY.1.min(dead.pause * 2);
        self.dead = Some(dead);
    }

    fn revive(&mut self, dead: &mut Dead) -> Result<(), MetaError> {
        self.medium.probe()?;
        dead.sheltered = false;
        self.sequence = self.open(Opening::Again)?;
        self.committed(true);
        Ok(())
    }

    /// Opens the file anew and applies again what was answered and is not in it. Tells the number of the last
    /// commit before that. The durable commit at the end also shows whether writing works.
    fn open(&mut self, opening: Opening) -> Result<u64, MetaError> {
        self.opened = self.clock.now();
        let mut state = self.shared.state_mut();
        // Closes the former opening and frees the lock of the file. While this guard lives nobody finds it
        // missing, unless the opening fails.
        *state = State::Down("the metadata file could not be opened anew".to_owned());
        self.shared.note_opening();
        *state = State::Open(self.medium.open(opening)?);
        let database = state.database().map_err(read_error)?;
        let sequence = layout::last_commit(database)?;
        commit_again(database, self.relaxed.after(sequence), sequence + 1).map_err(read_error)?;
        Ok(sequence)
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
