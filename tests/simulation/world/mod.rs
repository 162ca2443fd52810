//! Owns what surrounds the coordinator: a disk, clients, fills, sweeps, pushes, and reports that are still under way.
//! Each choice is one thing that may happen next. The coordinator in the middle is the production one.

mod choices;
mod rest;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use binaryrepo::cache::{Action, Bug, ClaimId, Coordinator, Event, Failure, FlightId, Limits, WaiterId};
use binaryrepo::clock::Millis;

use crate::choice::{Choice, KINDS, Sender};
use crate::model::{Model, Said, Told};
use crate::names::{LOCAL, NEGATIVE_MS, Name, PATIENCE_MS, Via, size_of};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Fill {
    key: Name,
    head_sent: bool,
    admitted: bool,
    cancelled: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Push {
    blob: u8,
    pinned: bool,
    granted: bool,
    published: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Client {
    key: Name,
    ready: bool,
}

/// How large a world is, and how often each kind of thing may happen in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rules {
    pub blobs: u8,
    pub documents: u8,
    pub sources: u8,
    /// What an earlier run left: files, and rows of pushed blobs.
    pub files: BTreeSet<u8>,
    pub rows: BTreeSet<u8>,
    pub limits: Limits,
    pub spaces: Vec<u64>,
    pub failures: Vec<Failure>,
    pub waits: Vec<u64>,
    /// `u32::MAX` is without limit.
    pub budget: [u32; KINDS],
}

#[derive(Clone, PartialEq, Eq, Hash)]
pub struct World {
    rules: Rules,
    bug: Option<Bug>,
    now: Millis,
    machine: Coordinator<Name, Via>,
    model: Model,
    disk: BTreeSet<u8>,
    /// Rows of pushed blobs: these were promised.
    promised: BTreeSet<u8>,
    /// Disappeared behind our back, and nobody has removed the entry yet.
    vanished: BTreeSet<u8>,
    /// Promised, and known to have disappeared: a start has raised the alarm.
    mourned: BTreeSet<u8>,
    fills: BTreeMap<FlightId, Fill>,
    sweeps: BTreeSet<u8>,
    pushes: BTreeMap<ClaimId, Push>,
    clients: BTreeMap<WaiterId, Client>,
    mail: BTreeMap<Sender, VecDeque<Told>>,
    /// Reports that were delivered, to be delivered once more.
    history: VecDeque<Told>,
    scan: Option<BTreeSet<u8>>,
    next_number: u64,
}

impl World {
    pub fn new(rules: Rules, bug: Option<Bug>) -> Result<Self, String> {
        let mut world = Self {
            now: Millis(1_000),
            machine: machine(rules.limits, bug),
            model: Model::new(rules.limits),
            disk: rules.files.clone(),
            promised: rules.rows.clone(),
            vanished: BTreeSet::new(),
            mourned: BTreeSet::new(),
            fills: BTreeMap::new(),
            sweeps: BTreeSet::new(),
            pushes: BTreeMap::new(),
            clients: BTreeMap::new(),
            mail: BTreeMap::new(),
            history: VecDeque::new(),
            scan: None,
            next_number: 1,
            rules,
            bug,
        };
        world.boot()?;
        Ok(world)
    }

    pub fn apply(&mut self, choice: Choice) -> Result<(), String> {
        let budget = &mut self.rules.budget[choice.kind()];
        if *budget != u32::MAX {
            *budget -= 1;
        }
        self.happen(choice)?;
        let somewhere =
            |blob: &&u8| [&self.disk, &self.vanished, &self.mourned].iter().any(|all| all.contains(blob));
        match self.promised.iter().find(|blob| !somewhere(blob)) {
            Some(blob) => Err(format!("pushed blob {blob} is lost")),
            None => Ok(()),
        }
    }

    fn happen(&mut self, choice: Choice) -> Result<(), String> {
        match choice {
            Choice::Join { key, via, patient } => self.join(key, via, patient),
            Choice::Leave(waiter) => {
                self.clients.remove(&waiter);
                self.tell(Event::Leave { waiter })
            }
            Choice::Open(waiter) => {
                let client = self.clients.remove(&waiter).expect("a client");
                if let Name::Blob(blob) = client.key
                    && !self.disk.contains(&blob)
                {
                    self.send(Sender::Client(waiter), Event::Lost { key: client.key });
                }
                Ok(())
            }
            Choice::Head { flight, sized } => {
                let fill = self.fills.get_mut(&flight).expect("a fill");
                fill.head_sent = true;
                let size = sized.then(|| size_of_key(fill.key));
                self.send(Sender::Fill(flight), Event::FillHead { flight, size });
                Ok(())
            }
            Choice::Finish(flight) => {
                let fill = self.fills.remove(&flight).expect("a fill");
                if let Name::Blob(blob) = fill.key {
                    self.appear(blob);
                }
                self.send(Sender::Fill(flight), Event::FillDone { flight, size: size_of_key(fill.key) });
                Ok(())
            }
            Choice::Fail(flight, failure) => {
                self.fills.remove(&flight);
                self.send(Sender::Fill(flight), Event::FillFailed { flight, failure });
                Ok(())
            }
            Choice::Deliver(sender) => self.deliver(sender),
            Choice::Resend(at) => self.resend(at),
            Choice::Sweep { blob, works } => {
                self.sweep(blob, works);
                Ok(())
            }
            Choice::Push { .. } | Choice::Publish(_) | Choice::Commit(_) | Choice::Abandon(_) => {
                self.push(choice)
            }
            Choice::Unpin(blob) => {
                self.promised.remove(&blob);
                self.tell(Event::Unpin { key: Name::Blob(blob) })
            }
            Choice::Collect(blob) => self.tell(Event::Collect { key: Name::Blob(blob) }),
            Choice::Touch(blob) => self.tell(Event::Touch { key: Name::Blob(blob) }),
            Choice::Vanish(blob) => {
                self.disk.remove(&blob);
                self.vanished.insert(blob);
                Ok(())
            }
            Choice::Space(limit) => self.tell(Event::Space { limit }),
            Choice::Share { upstream, limit } => self.tell(Event::Share { upstream, limit }),
            Choice::Wait(ms) => {
                self.now = Millis(self.now.0 + ms);
                Ok(())
            }
            Choice::Tick => self.tell(Event::Tick),
            Choice::Restart => self.boot(),
            Choice::Scan => {
                self.scan_one();
                Ok(())
            }
        }
    }

    fn join(&mut self, key: Name, source: Via, patient: bool) -> Result<(), String> {
        let waiter = WaiterId(self.number());
        let deadline = (!patient).then_some(Millis(self.now.0 + PATIENCE_MS));
        self.clients.insert(waiter, Client { key, ready: false });
        self.tell(Event::Join { waiter, key, source, negative_ms: NEGATIVE_MS, deadline })
    }

    fn push(&mut self, choice: Choice) -> Result<(), String> {
        match choice {
            Choice::Push { blob, pinned } => {
                let claim = ClaimId(self.number());
                self.pushes.insert(claim, Push { blob, pinned, granted: false, published: false });
                return self.tell(Event::Claim { claim, key: Name::Blob(blob) });
            }
            Choice::Publish(claim) => {
                let push = self.pushes.get_mut(&claim).expect("a push");
                push.published = true;
                let blob = push.blob;
                self.appear(blob);
            }
            Choice::Commit(claim) => {
                let Push { blob, pinned, .. } = self.pushes.remove(&claim).expect("a push");
                if !self.disk.contains(&blob) {
                    return Err(format!("pushed blob {blob} was removed before its 201"));
                }
                if pinned {
                    self.promised.insert(blob);
                }
                let added =
                    Event::Added { key: Name::Blob(blob), upstream: LOCAL, size: size_of(blob), pinned };
                self.send(Sender::Push(claim), added);
                self.send(Sender::Push(claim), Event::Unclaim { claim });
            }
            Choice::Abandon(claim) => {
                self.pushes.remove(&claim);
                self.send(Sender::Push(claim), Event::Unclaim { claim });
            }
            _ => {}
        }
        Ok(())
    }

    fn sweep(&mut self, blob: u8, works: bool) {
        self.sweeps.remove(&blob);
        let key = Name::Blob(blob);
        let report = if self.promised.contains(&blob) {
            Event::EvictRefused { key }
        } else if works {
            self.disk.remove(&blob);
            self.vanished.remove(&blob);
            Event::EvictDone { key }
        } else {
            Event::EvictFailed { key }
        };
        self.send(Sender::Sweep(blob), report);
    }

    fn deliver(&mut self, sender: Sender) -> Result<(), String> {
        let queue = self.mail.get_mut(&sender).expect("mail");
        let event = queue.pop_front().expect("mail");
        if queue.is_empty() {
            self.mail.remove(&sender);
        }
        if matches!(sender, Sender::Fill(_) | Sender::Sweep(_)) {
            self.history.push_back(event.clone());
            if self.history.len() > 4 {
                self.history.pop_front();
            }
        }
        self.tell(event)
    }

    /// The same report once more. A removal's cannot be told from that of a later removal, so it is not repeated then.
    fn resend(&mut self, at: usize) -> Result<(), String> {
        let event = self.history[at].clone();
        if !self.model.is_old_news(&event) {
            return Ok(());
        }
        let before = self.machine.clone();
        let mut said = Vec::new();
        self.machine.step(self.now, event.clone(), &mut said);
        if said.is_empty() && self.machine == before {
            return Ok(());
        }
        Err(format!("old news changed something: {event:?} led to {said:?}"))
    }

    /// A process starts with what lies on the disk; whatever was under way is gone.
    fn boot(&mut self) -> Result<(), String> {
        self.machine = machine(self.rules.limits, self.bug);
        self.model = Model::new(self.rules.limits);
        self.fills.clear();
        self.sweeps.clear();
        self.pushes.clear();
        self.clients.clear();
        self.mail.clear();
        self.history.clear();
        self.vanished.clear();
        self.mourned = self.promised.difference(&self.disk).copied().collect();
        self.scan = Some(self.disk.clone());
        let limit = self.rules.spaces[0];
        self.tell(Event::Space { limit })
    }

    /// Looks at one file. What it saw is told later, when it may not be so any more.
    fn scan_one(&mut self) {
        let Some(blob) = self.scan.as_mut().and_then(BTreeSet::pop_first) else {
            self.scan = None;
            return self.send(Sender::Scan, Event::Loaded);
        };
        if self.disk.contains(&blob) {
            let pinned = self.promised.contains(&blob);
            let (key, used) = (Name::Blob(blob), u64::from(blob) * 7 % 5);
            self.send(Sender::Scan, Event::Load { key, upstream: 0, size: size_of(blob), used, pinned });
        }
    }

    /// One step of the coordinator, held against the model, and its actions done.
    fn tell(&mut self, event: Told) -> Result<(), String> {
        let mut said = Vec::new();
        self.machine.step(self.now, event.clone(), &mut said);
        self.model.follow(self.now, &event, &said)?;
        self.model.compare(&self.machine).map_err(|what| format!("{what}, after {event:?}"))?;
        self.machine.check().map_err(|what| format!("{what}, after {event:?}"))?;
        said.into_iter().for_each(|action| self.obey(action));
        Ok(())
    }

    fn obey(&mut self, action: Said) {
        match action {
            Action::StartFill { flight, key, .. } => {
                self.fills.insert(flight, Fill { key, head_sent: false, admitted: false, cancelled: false });
            }
            Action::CancelFill { flight } => {
                if let Some(fill) = self.fills.get_mut(&flight) {
                    fill.cancelled = true;
                }
            }
            Action::Admit { flight } => {
                if let Some(fill) = self.fills.get_mut(&flight) {
                    fill.admitted = true;
                }
            }
            Action::Ready { waiter, flight: None } => {
                if let Some(client) = self.clients.get_mut(&waiter) {
                    client.ready = true;
                }
            }
            Action::Attach { waiter, .. } | Action::Ready { waiter, .. } | Action::Refuse { waiter, .. } => {
                self.clients.remove(&waiter);
            }
            Action::Claimed { claim } => {
                if let Some(push) = self.pushes.get_mut(&claim) {
                    push.granted = true;
                }
            }
            Action::Evict { key: Name::Blob(blob) } => {
                self.sweeps.insert(blob);
            }
            Action::Evict { key: Name::Document(_) } | Action::PinnedLost { .. } => {}
        }
    }

    fn is_being_pushed(&self, blob: u8) -> bool {
        let pushing = self.pushes.values().any(|push| push.blob == blob);
        pushing || self.model.claims.values().any(|(key, _)| *key == Name::Blob(blob))
    }

    fn appear(&mut self, blob: u8) {
        self.disk.insert(blob);
        self.vanished.remove(&blob);
        self.mourned.remove(&blob);
    }

    fn send(&mut self, sender: Sender, event: Told) {
        self.mail.entry(sender).or_default().push_back(event);
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }
}

fn machine(limits: Limits, bug: Option<Bug>) -> Coordinator<Name, Via> {
    bug.map_or_else(|| Coordinator::new(limits), |bug| Coordinator::with_bug(limits, bug))
}

fn size_of_key(key: Name) -> u64 {
    match key {
        Name::Blob(blob) => size_of(blob),
        Name::Document(_) => 1,
    }
}
