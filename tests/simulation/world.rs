//! Owns what surrounds the coordinator: a disk, clients, fills, sweeps, pushes, and reports that are still under way.
//! Each choice is one thing that may happen next. The coordinator in the middle is the production one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use binaryrepo::cache::{
    Action, Bug, ClaimId, Coordinator, Event, Failure, FlightId, Key, Lane, Limits, WaiterId,
};
use binaryrepo::clock::Millis;

use crate::model::{Model, Said, Told};
use crate::names::{LOCAL, NEGATIVE_MS, Name, PATIENCE_MS, Via, size_of};

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
    Deliver,
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
            Self::Deliver(_) => Kind::Deliver,
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
}

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
            disk: BTreeSet::new(),
            promised: BTreeSet::new(),
            vanished: BTreeSet::new(),
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

    /// Everything that may happen now.
    pub fn choices(&self, into: &mut Vec<Choice>) {
        into.clear();
        self.choices_of_clients(into);
        self.choices_of_fills(into);
        self.choices_of_files(into);
        self.choices_of_pushes(into);
        self.choices_of_the_house(into);
        into.retain(|choice| self.rules.budget[choice.kind()] > 0);
    }

    /// None of these choices goes on with what is under way: only something new, or time, could change anything.
    pub fn is_quiet(&self, choices: &[Choice]) -> bool {
        choices.iter().all(|choice| self.rules.budget[choice.kind()] != u32::MAX)
    }

    pub fn apply(&mut self, choice: Choice) -> Result<(), String> {
        let budget = &mut self.rules.budget[choice.kind()];
        if *budget != u32::MAX {
            *budget -= 1;
        }
        self.happen(choice)?;
        match self.promised.iter().find(|blob| !self.disk.contains(blob) && !self.vanished.contains(blob)) {
            Some(blob) => Err(format!("pushed blob {blob} is lost")),
            None => Ok(()),
        }
    }

    /// Lets everything that is under way come to its end, then looks whether all is well.
    pub fn come_to_rest(&mut self) -> Result<(), String> {
        for _ in 0..5_000 {
            match self.next_to_rest() {
                Some(choice) => self.happen(choice)?,
                None if self.report_vanished()? => {}
                None => match self.machine.next_wakeup() {
                    Some(at) => {
                        self.now = self.now.max(at);
                        self.tell(Event::Tick)?;
                    }
                    None => return self.judge_rest(),
                },
            }
        }
        Err(format!("does not come to rest; next is {:?}", self.next_to_rest()))
    }

    fn choices_of_clients(&self, into: &mut Vec<Choice>) {
        let blobs = (0..self.rules.blobs).map(Name::Blob);
        for key in blobs.chain((0..self.rules.documents).map(Name::Document)) {
            for via in (0..self.rules.sources).map(Via) {
                into.push(Choice::Join { key, via, patient: true });
                if !self.rules.waits.is_empty() {
                    into.push(Choice::Join { key, via, patient: false });
                }
            }
        }
        for (id, client) in &self.clients {
            into.push(if client.ready { Choice::Open(*id) } else { Choice::Leave(*id) });
        }
    }

    fn choices_of_fills(&self, into: &mut Vec<Choice>) {
        for (flight, fill) in &self.fills {
            let flight = *flight;
            if fill.cancelled {
                into.push(Choice::Fail(flight, Failure::Died));
                continue;
            }
            if fill.key.lane() == Lane::Content && !fill.head_sent {
                into.extend([true, false].map(|sized| Choice::Head { flight, sized }));
            } else if fill.key.lane() == Lane::Pointer || fill.admitted {
                into.push(Choice::Finish(flight));
            }
            into.extend(self.rules.failures.iter().map(|failure| Choice::Fail(flight, *failure)));
        }
    }

    fn choices_of_files(&self, into: &mut Vec<Choice>) {
        for blob in 0..self.rules.blobs {
            into.extend([Choice::Collect(blob), Choice::Touch(blob)]);
            if self.sweeps.contains(&blob) {
                into.extend([true, false].map(|works| Choice::Sweep { blob, works }));
            }
            if self.disk.contains(&blob) && !self.is_being_pushed(blob) {
                into.push(Choice::Vanish(blob));
            }
            if self.promised.contains(&blob)
                && !self.is_being_pushed(blob)
                && self.model.is_present(Name::Blob(blob))
            {
                into.push(Choice::Unpin(blob));
            }
        }
    }

    fn choices_of_pushes(&self, into: &mut Vec<Choice>) {
        for blob in 0..self.rules.blobs {
            into.extend([true, false].map(|pinned| Choice::Push { blob, pinned }));
        }
        for (claim, push) in &self.pushes {
            if !push.published {
                into.push(Choice::Abandon(*claim));
            }
            if push.granted {
                into.push(if push.published { Choice::Commit(*claim) } else { Choice::Publish(*claim) });
            }
        }
    }

    fn choices_of_the_house(&self, into: &mut Vec<Choice>) {
        into.extend(self.mail.keys().map(|sender| Choice::Deliver(*sender)));
        into.extend((0..self.history.len()).map(Choice::Resend));
        into.extend(self.rules.spaces.iter().map(|limit| Choice::Space(*limit)));
        for upstream in [0, 1] {
            into.extend([None, Some(9)].map(|limit| Choice::Share { upstream, limit }));
        }
        into.extend(self.rules.waits.iter().map(|ms| Choice::Wait(*ms)));
        into.extend([Choice::Tick, Choice::Restart]);
        into.extend(self.scan.iter().map(|_| Choice::Scan));
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
            Choice::Scan => self.scan_one(),
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
        let report = if works && !self.promised.contains(&blob) {
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
        self.promised.retain(|blob| self.disk.contains(blob));
        self.scan = Some(self.disk.clone());
        let limit = self.rules.spaces[0];
        self.tell(Event::Space { limit })
    }

    fn scan_one(&mut self) -> Result<(), String> {
        let Some(blob) = self.scan.as_mut().and_then(BTreeSet::pop_first) else {
            self.scan = None;
            return self.tell(Event::Loaded);
        };
        if !self.disk.contains(&blob) {
            let told = self.model.copies.contains_key(&Name::Blob(blob));
            let added = |event: &Told| matches!(event, Event::Added { key, .. } if *key == Name::Blob(blob));
            if !told && !self.mail.values().flatten().any(added) {
                // A row without its file: the scan raises the alarm and drops the promise.
                self.promised.remove(&blob);
            }
            return Ok(());
        }
        let pinned = self.promised.contains(&blob);
        let used = u64::from(blob) * 7 % 5;
        self.tell(Event::Load { key: Name::Blob(blob), upstream: 0, size: size_of(blob), used, pinned })
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

    fn next_to_rest(&self) -> Option<Choice> {
        let deliver = self.mail.keys().next().map(|sender| Choice::Deliver(*sender));
        let sweep = || self.sweeps.first().map(|blob| Choice::Sweep { blob: *blob, works: true });
        let push = || {
            let (claim, push) = self.pushes.iter().find(|(_, push)| push.granted)?;
            Some(if push.published { Choice::Commit(*claim) } else { Choice::Publish(*claim) })
        };
        let open = || self.clients.iter().find(|(_, client)| client.ready).map(|(id, _)| Choice::Open(*id));
        let scan = || self.scan.as_ref().map(|_| Choice::Scan);
        deliver.or_else(sweep).or_else(push).or_else(open).or_else(|| self.fill_to_rest()).or_else(scan)
    }

    fn fill_to_rest(&self) -> Option<Choice> {
        self.fills.iter().find_map(|(flight, fill)| {
            let flight = *flight;
            match fill {
                Fill { cancelled: true, .. } => Some(Choice::Fail(flight, Failure::Died)),
                Fill { key: Name::Document(_), .. } | Fill { admitted: true, .. } => {
                    Some(Choice::Finish(flight))
                }
                Fill { head_sent: false, .. } => Some(Choice::Head { flight, sized: true }),
                Fill { .. } => None,
            }
        })
    }

    /// Somebody comes upon a file that is not there. True if there was one to come upon.
    fn report_vanished(&mut self) -> Result<bool, String> {
        // What was gone before it was ever loaded, nobody here can miss.
        self.vanished.retain(|blob| self.model.copies.contains_key(&Name::Blob(*blob)));
        self.promised.retain(|blob| self.disk.contains(blob) || self.vanished.contains(blob));
        let Some(blob) = self.vanished.difference(&self.promised).next().copied() else { return Ok(false) };
        self.tell(Event::Lost { key: Name::Blob(blob) })?;
        if self.sweeps.contains(&blob) { Ok(true) } else { Err(format!("lost blob {blob} is left as it is")) }
    }

    fn judge_rest(&self) -> Result<(), String> {
        let counts = self.machine.counts();
        let left = [counts.flights, counts.queued, counts.waiters, self.clients.len(), self.fills.len()];
        let claims = self.model.claims.len() + self.pushes.len();
        if left != [0; 5] || claims > 0 || counts.reserved_bytes > 0 || counts.evicting_bytes > 0 {
            return Err(format!("at rest something is left over: {left:?}, {claims} claims, {counts:?}"));
        }
        let entries: BTreeSet<_> = self.model.copies.keys().copied().collect();
        let files: BTreeSet<_> = self.disk.union(&self.vanished).map(|blob| Name::Blob(*blob)).collect();
        if entries != files {
            return Err(format!("at rest the files are {files:?}, the entries {entries:?}"));
        }
        let order: Vec<_> = self.machine.eviction_order().map(|(key, used)| (used, *key)).collect();
        let free = self.model.copies.iter().filter(|(_, copy)| !copy.pinned);
        let expected: BTreeSet<_> = free.map(|(key, copy)| (copy.used, *key)).collect();
        if !order.iter().eq(expected.iter()) {
            return Err(format!("at rest the order of eviction is {order:?} instead of {expected:?}"));
        }
        if !self.model.limits_are_kept() {
            return Err(format!("at rest a limit is exceeded: {counts:?}"));
        }
        Ok(())
    }

    fn is_being_pushed(&self, blob: u8) -> bool {
        let pushing = self.pushes.values().any(|push| push.blob == blob);
        pushing || self.model.claims.values().any(|(key, _)| *key == Name::Blob(blob))
    }

    fn appear(&mut self, blob: u8) {
        self.disk.insert(blob);
        self.vanished.remove(&blob);
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
