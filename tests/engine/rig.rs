//! A disk and a metadata store that fail as a test says.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use binaryrepo::meta::{Applying, Batch, CopyFile, Durability, Meta, MetaError, Pair, Table};
use binaryrepo::store::{Call, Faults, Strike};
use rustix::io::Errno;
use tokio::sync::watch;

/// Which calls fail, and after how many good ones.
#[derive(Clone, Default)]
pub struct Disk {
    rules: Arc<Mutex<Vec<Rule>>>,
    pub trail: Trail,
}

/// What was asked of a disk, and of the ledger beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Call(Call),
    /// A batch that is to be on the disk when it is answered.
    Commit,
}

/// The steps in their order, from when it is begun.
#[derive(Clone, Default)]
pub struct Trail(Arc<Mutex<Option<Vec<Step>>>>);

impl Trail {
    pub fn begin(&self) {
        *self.0.lock().unwrap() = Some(Vec::new());
    }

    /// And goes on.
    pub fn so_far(&self) -> Vec<Step> {
        self.0.lock().unwrap().clone().expect("it was begun")
    }

    fn note(&self, step: Step) {
        if let Some(steps) = &mut *self.0.lock().unwrap() {
            steps.push(step);
        }
    }

    fn note_commit(&self, batch: &Batch) {
        let noted = self.0.lock().unwrap().is_some();
        if noted && format!("{batch:?}").contains("durability: Durable") {
            self.note(Step::Commit);
        }
    }
}

struct Rule {
    call: Call,
    spare: usize,
    strikes: usize,
    what: What,
}

#[derive(Clone)]
enum What {
    Strike(Strike),
    Wait(Gate),
    Panic,
    Small { dir: PathBuf, bytes: u64 },
}

impl Disk {
    /// From now on.
    pub fn fail(&self, call: Call, errno: Errno) {
        self.fail_after(0, call, errno);
    }

    /// After so many good ones.
    pub fn fail_after(&self, spare: usize, call: Call, errno: Errno) {
        let what = What::Strike(Strike::Fail(errno.raw_os_error()));
        self.rules().push(Rule { call, spare, strikes: usize::MAX, what });
    }

    pub fn fail_times(&self, strikes: usize, call: Call, errno: Errno) {
        let what = What::Strike(Strike::Fail(errno.raw_os_error()));
        self.rules().push(Rule { call, spare: 0, strikes, what });
    }

    /// Each write takes no more than so many bytes.
    pub fn short_writes(&self, bytes: usize) {
        let what = What::Strike(Strike::Short(bytes));
        self.rules().push(Rule { call: Call::Write, spare: 0, strikes: usize::MAX, what });
    }

    /// From now on these panic, on whatever thread they are made.
    pub fn panic(&self, call: Call) {
        self.rules().push(Rule { call, spare: 0, strikes: usize::MAX, what: What::Panic });
    }

    /// After so many free ones these calls wait until the gate is opened.
    pub fn hold_after(&self, spare: usize, call: Call, gate: &Gate) {
        let what = What::Wait(gate.clone());
        self.rules().push(Rule { call, spare, strikes: usize::MAX, what });
    }

    /// From now on no more than so many bytes seem to be there for what lies in the data directory.
    pub fn is_small(&self, dir: &Path, bytes: u64) {
        let what = What::Small { dir: dir.to_owned(), bytes };
        self.rules().push(Rule { call: Call::Space, spare: 0, strikes: usize::MAX, what });
    }

    /// Everything works again.
    pub fn heal(&self) {
        self.rules().clear();
    }

    pub fn faults(&self) -> Faults {
        let this = self.clone();
        Faults::new(move |call| this.ask(call))
    }

    fn ask(&self, call: Call) -> Option<Strike> {
        self.trail.note(Step::Call(call));
        let what = {
            let mut rules = self.rules();
            let rule = rules.iter_mut().find(|rule| rule.call == call && rule.strikes > 0)?;
            if rule.spare > 0 {
                rule.spare -= 1;
                return None;
            }
            rule.strikes -= 1;
            rule.what.clone()
        };
        match what {
            What::Strike(strike) => Some(strike),
            What::Wait(gate) => {
                gate.wait();
                None
            }
            // Not by `panic!`: five hundred backtraces of what is meant hide the one of what is not.
            What::Panic => std::panic::resume_unwind(Box::new("planted")),
            What::Small { dir, bytes } => {
                let taken = size_of(&dir.join("cas")) + size_of(&dir.join("tmp"));
                Some(Strike::Short(usize::try_from(bytes.saturating_sub(taken)).unwrap()))
            }
        }
    }

    fn rules(&self) -> std::sync::MutexGuard<'_, Vec<Rule>> {
        self.rules.lock().unwrap()
    }
}

/// Of the files in a directory, as far as they stay while it is read.
fn size_of(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().filter_map(Result::ok);
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(of) if of.is_dir() => size_of(&entry.path()),
        of => of.map_or(0, |of| of.len()),
    };
    entries.map(size).sum()
}

/// Holds up whoever comes, until it is opened; a minute at most, so that a failed test ends.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<Latch>, Condvar)>);

#[derive(Default)]
struct Latch {
    open: bool,
    reached: bool,
}

impl Gate {
    pub fn open(&self) {
        self.0.0.lock().unwrap().open = true;
        self.0.1.notify_all();
    }

    /// Whether somebody came to it.
    pub fn is_reached(&self) -> bool {
        self.0.0.lock().unwrap().reached
    }

    fn wait(&self) {
        let mut latch = self.0.0.lock().unwrap();
        latch.reached = true;
        drop(self.0.1.wait_timeout_while(latch, Duration::from_secs(60), |latch| !latch.open));
    }
}

/// How the metadata store takes what it is asked to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Well,
    /// Takes no writes.
    Dead,
    /// Gone for good.
    Closed,
    /// Panics in whoever asks next, once.
    Panics,
    /// Panics in whoever notes next that a blob lies here, once.
    PanicsAtCopy,
    /// Takes one batch, and no write afterwards.
    DiesAfterOne,
    /// Never answers who changes tags.
    HoldsTags,
    /// Somebody else was faster wherever it is noted who holds a digest.
    ConflictsAtHolder,
    /// Lets whoever removes links on what they saw of them wait, until the mood is another one.
    HoldsUnlinking,
    /// Lets whoever notes who holds a digest wait, until the mood is another one.
    HoldsLinking,
    /// Lets whoever changes a manifest on what they saw of it wait, until the mood is another one.
    HoldsDocuments,
}

/// A metadata store with moods, which counts the rows that are read.
pub struct Ledger {
    inner: Arc<dyn Meta>,
    mood: watch::Sender<Mood>,
    rounds: watch::Sender<u64>,
    held: Arc<AtomicUsize>,
    rows_read: AtomicUsize,
    trail: Trail,
}

impl Ledger {
    pub fn over(inner: Arc<dyn Meta>) -> Self {
        Self::beside(inner, &Disk::default())
    }

    /// Notes its commits among the calls of this disk.
    pub fn beside(inner: Arc<dyn Meta>, disk: &Disk) -> Self {
        let trail = disk.trail.clone();
        let mood = watch::Sender::new(Mood::Well);
        let rounds = watch::Sender::default();
        Self { inner, mood, rounds, held: Arc::default(), rows_read: AtomicUsize::new(0), trail }
    }

    pub fn is(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    /// How many are made to wait.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Those who wait now go on. Whoever comes next waits again.
    pub fn let_go(&self) {
        self.held.store(0, Ordering::Relaxed);
        self.rounds.send_modify(|round| *round += 1);
    }

    /// Until the mood is another one, or it is let go.
    fn hold(&self, batch: Batch, mood: Mood) -> Applying {
        let (inner, held, mut moods) = (self.inner.clone(), self.held.clone(), self.mood.subscribe());
        let mut rounds = self.rounds.subscribe();
        held.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            tokio::select! {
                biased;
                over = rounds.changed() => over.unwrap(),
                over = moods.wait_for(|now| *now != mood) => {
                    over.unwrap();
                    held.fetch_sub(1, Ordering::Relaxed);
                }
            }
            inner.apply(batch).await
        })
    }

    /// How many rows were read since this was last asked.
    pub fn take_rows_read(&self) -> usize {
        self.rows_read.swap(0, Ordering::Relaxed)
    }

    /// Copies its data directory as a kill would leave it now.
    pub async fn crash_image(&self, from: &Path, to: &Path) {
        self.apply(Batch::new(Durability::Durable)).await.unwrap();
        copy(from, to);
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            // A draft may go while it is copied.
            let _ = std::fs::copy(entry.path(), target);
        }
    }
}

fn notes_a_holder(batch: &Batch) -> bool {
    let text = format!("{batch:?}");
    let mut changes = text.split("Change { ").skip(1);
    changes.any(|change| change.starts_with("table: Holder") && change.contains("value: Some"))
}

impl Meta for Ledger {
    fn get_raw(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, MetaError> {
        self.rows_read.fetch_add(1, Ordering::Relaxed);
        self.inner.get_raw(table, key)
    }

    fn scan_raw(
        &self,
        table: Table,
        after: Option<&[u8]>,
        prefix: &[u8],
        limit: usize,
    ) -> Result<Vec<Pair>, MetaError> {
        let rows = self.inner.scan_raw(table, after, prefix, limit)?;
        self.rows_read.fetch_add(rows.len(), Ordering::Relaxed);
        Ok(rows)
    }

    fn apply(&self, batch: Batch) -> Applying {
        let mood = *self.mood.borrow();
        self.trail.note_commit(&batch);
        match mood {
            Mood::Well => self.inner.apply(batch),
            Mood::Dead => {
                Box::pin(async { Err(MetaError::WriteDead("the disk takes no writes".to_owned())) })
            }
            Mood::Closed => Box::pin(async { Err(MetaError::Closed) }),
            Mood::DiesAfterOne => {
                self.is(Mood::Dead);
                self.inner.apply(batch)
            }
            Mood::HoldsTags if format!("{batch:?}").contains("table: Tag") => {
                Box::pin(std::future::pending())
            }
            Mood::ConflictsAtHolder if format!("{batch:?}").contains("table: Holder") => {
                Box::pin(async { Err(MetaError::Conflict(Table::Holder)) })
            }
            Mood::HoldsUnlinking if format!("{batch:?}").contains("Requirement { table: Link") => {
                self.hold(batch, mood)
            }
            Mood::HoldsLinking if notes_a_holder(&batch) => self.hold(batch, mood),
            Mood::HoldsDocuments if format!("{batch:?}").contains("Requirement { table: Document") => {
                self.hold(batch, mood)
            }
            Mood::HoldsTags
            | Mood::ConflictsAtHolder
            | Mood::HoldsUnlinking
            | Mood::HoldsLinking
            | Mood::HoldsDocuments => self.inner.apply(batch),
            Mood::PanicsAtCopy if !format!("{batch:?}").contains("table: Copy") => self.inner.apply(batch),
            Mood::Panics | Mood::PanicsAtCopy => {
                self.is(Mood::Well);
                panic!("planted");
            }
        }
    }

    fn copy_into(&self, dir: &Path, now: u64, go_on: &dyn Fn() -> bool) -> Result<CopyFile, MetaError> {
        self.inner.copy_into(dir, now, go_on)
    }

    fn close(&self) -> Applying {
        self.inner.close()
    }

    fn commits(&self) -> u64 {
        self.inner.commits()
    }
}
