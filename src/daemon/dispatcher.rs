//! The one loop's brain: an event comes in, the tables change, messages go out.
//!
//! Nobody else changes a table. What the tables hold is described where it is used:
//!
//! - [`super::clients`]: connections without a request
//! - [`super::runs`]: runs from their request to their end
//! - [`super::builds`]: roots and zygotes from the wish for one to its end
//! - [`super::status`]: all of it as a document
//!
//! Time comes in as an argument, so that tests can make it pass.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use nix::poll::PollFlags;

use super::clients::{ClientId, Clients, Delivery};
use super::door::Door;
use super::history::History;
use super::learned::Learned;
use super::pressure::Gauge;
use super::relief::Memory;
use super::root::{Root, Want};
use super::runs::{Run, Stage};
use super::settings::Settings;
use super::shape::RootKey;
use super::spawn::Spawn;
use super::supervisor::{Zygote, ZygoteId};
use super::watcher::Watch;
use crate::error::Error;
use crate::process::{Change, Process};
use crate::protocol::{Hello, Notice, Reply, Request};
use crate::transport::{Connection, Filled};

/// Everything that can happen to the daemon.
#[derive(Debug)]
pub(super) enum Event {
    /// Somebody connected.
    Connected(UnixStream),
    /// A connection without a request can be read.
    Spoke(ClientId),
    /// A zygote's channel can be read.
    Noticed(ZygoteId),
    /// The process that runs plain pytest in a run's place ended.
    PlainEnded(u64),
    /// A child ended, or one of its kind changed.
    Child(Change),
    /// Entries of these directories changed, and it is quiet there again.
    Changed(BTreeSet<PathBuf>),
    /// A signal asks for the end.
    Quit(i32),
}

/// What the loop listens to, besides its own descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Client(ClientId),
    Zygote(ZygoteId),
    Plain(u64),
}

/// Who this daemon is.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) key: String,
    pub(super) root: PathBuf,
    pub(super) script: PathBuf,
    pub(super) python: PathBuf,
    pub(super) build: String,
    pub(super) socket: PathBuf,
    pub(super) log: Option<PathBuf>,
}

/// What the dispatcher works with; tests bring their own.
pub(super) struct Parts {
    pub(super) identity: Identity,
    pub(super) door: Option<Door>,
    pub(super) spawner: Box<dyn Spawn>,
    pub(super) watcher: Box<dyn Watch>,
    /// The build id of what is installed at this moment.
    pub(super) installed: Box<dyn Fn() -> String>,
    pub(super) settings: Settings,
    pub(super) learned: Learned,
    pub(super) gauge: Gauge,
}

pub(super) struct Dispatcher {
    pub(super) identity: Identity,
    pub(super) born: Instant,
    pub(super) door: Option<Door>,
    pub(super) spawner: Box<dyn Spawn>,
    pub(super) watcher: Box<dyn Watch>,
    installed: Box<dyn Fn() -> String>,
    pub(super) settings: Settings,
    pub(super) learned: Learned,
    clients: Clients,
    pub(super) roots: Vec<Root>,
    pub(super) zygotes: BTreeMap<ZygoteId, Zygote>,
    pub(super) runs: BTreeMap<u64, Run>,
    /// Processes that run plain pytest in a run's place, as far as they can be watched.
    pub(super) plains: BTreeMap<u64, Process>,
    pub(super) history: History,
    pub(super) last_run: u64,
    pub(super) last_zygote: u64,
    /// When the last run of any kind ended, while none is under way.
    pub(super) quiet_since: Option<Instant>,
    /// Directories that changed, to be looked at when it is quiet.
    pub(super) changed: Option<(Want, BTreeSet<PathBuf>)>,
    /// What is to be watched is not what is watched.
    pub(super) watches_outdated: bool,
    pub(super) memory: Memory,
    next_look: Instant,
    closing: Option<Closing>,
}

/// The daemon takes no more runs and is about to go.
struct Closing {
    since: Instant,
    /// Who asked for it, to be told when it is done.
    asked: Vec<Connection>,
}

/// How often an idle daemon looks whether it is still of use: a stat or two.
const LOOK_PAUSE: Duration = Duration::from_secs(60);

/// A run that was handed over reports within the zygote's watchdog of five seconds; one that did
/// not is lost, and its client falls back when the daemon is gone.
const CLOSING_LIMIT: Duration = Duration::from_secs(6);

/// A change on disk is looked into when no run is under way, to leave the processors to it.
const RECHECK_PAUSE: Duration = Duration::from_millis(50);
const RECHECK_PATIENCE: Duration = Duration::from_secs(2);

/// Between two looks at a file that is being saved: half of what it takes at most to put one in
/// another's place.
const SAVING_PAUSE: Duration = Duration::from_millis(10);

impl Dispatcher {
    pub(super) fn new(parts: Parts, now: Instant) -> Self {
        let hello = Hello {
            version: crate::protocol::VERSION,
            pid: std::process::id() as i32,
        };
        Self {
            identity: parts.identity,
            born: now,
            door: parts.door,
            spawner: parts.spawner,
            watcher: parts.watcher,
            installed: parts.installed,
            settings: parts.settings,
            learned: parts.learned,
            clients: Clients::new(hello),
            roots: Vec::new(),
            zygotes: BTreeMap::new(),
            runs: BTreeMap::new(),
            plains: BTreeMap::new(),
            history: History::default(),
            last_run: 0,
            last_zygote: 0,
            quiet_since: Some(now),
            changed: None,
            watches_outdated: false,
            memory: Memory::new(parts.gauge, now),
            next_look: now + LOOK_PAUSE,
            closing: None,
        }
    }

    /// Takes in one event.
    pub(super) fn handle(&mut self, event: Event, now: Instant) {
        match event {
            Event::Connected(stream) => {
                if let Err(error) = self.clients.admit(stream, now) {
                    tracing::warn!("{error}");
                }
            }
            Event::Spoke(id) => match self.clients.read(id) {
                Ok(None) => {}
                Ok(Some(delivery)) => self.request(delivery, now),
                // A probe of whether anybody listens ends like this.
                Err(Error::Closed) => {}
                Err(error) => tracing::warn!("ended a connection: {error}"),
            },
            Event::Noticed(zygote) => self.hear(zygote, now),
            Event::PlainEnded(run) => self.on_plain_ended(run),
            Event::Child(change) => Self::on_child(change),
            Event::Changed(directories) => self.on_changed(directories, now),
            Event::Quit(signal) => {
                tracing::info!("asked to go by signal {signal}");
                self.close(None, now);
            }
        }
    }

    fn request(&mut self, delivery: Delivery, now: Instant) {
        match delivery.request {
            Request::Status => {
                self.settings.refresh();
                self.recheck_all(now);
                let document = self.document(now);
                let _ = delivery.connection.send(&Reply::Status(document), &[]);
            }
            Request::Explain(question) => {
                self.settings.refresh();
                self.recheck_all(now);
                let document = self.explanation(&question, now);
                let _ = delivery.connection.send(&Reply::Explained(document), &[]);
            }
            Request::Distrust(request) => {
                let (has_changed, names) = self.on_distrust(&request, now);
                let reply = Reply::Distrusted(has_changed, names);
                let _ = delivery.connection.send(&reply, &[]);
            }
            Request::Stop => {
                tracing::info!("asked to go by process {}", delivery.pid);
                self.close(Some(delivery.connection), now);
            }
            Request::Run(run) => {
                self.watcher.awake();
                if self.closing.is_none() && self.is_outdated() {
                    self.close(None, now);
                }
                if self.closing.is_some() {
                    let _ = delivery.connection.send(&Reply::Retire, &[]);
                    return;
                }
                self.settings.refresh();
                self.settings.note_run(&run);
                self.receive(run, delivery.fds, delivery.connection, delivery.pid, now);
            }
        }
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.is_some()
    }

    /// True if the installed product is not the one that this daemon was started from.
    pub(super) fn is_outdated(&self) -> bool {
        let outdated = (self.installed)() != self.identity.build;
        if outdated {
            tracing::info!("another build is installed: going");
        }
        outdated
    }

    /// Reads all that a zygote has said, and writes what it was not quick enough to read.
    fn hear(&mut self, id: ZygoteId, now: Instant) {
        if let Some(zygote) = self.zygotes.get_mut(&id) {
            // If it is gone, what it said before is still to be read.
            let _ = zygote.control.flush();
        }
        loop {
            let Some(zygote) = self.zygotes.get_mut(&id) else {
                return;
            };
            let notice = match zygote.control.next_frame() {
                Ok(Some(frame)) => frame.decode::<Notice>().map(Some),
                Ok(None) => match zygote.control.fill() {
                    Ok(Filled::Some) => Ok(None),
                    Ok(Filled::WouldBlock) => return,
                    Ok(Filled::Eof) => Err(Error::Closed),
                    Err(error) => Err(error),
                },
                Err(error) => Err(error),
            };
            match notice {
                Ok(None) => {}
                Ok(Some(notice)) => self.on_notice(id, notice, now),
                Err(error) => return self.on_lost(id, &error, now),
            }
        }
    }

    fn on_notice(&mut self, id: ZygoteId, notice: Notice, now: Instant) {
        match notice {
            Notice::Parked(parked) => self.on_parked(id, *parked, now),
            Notice::Failed {
                reason,
                culprit,
                trace,
            } => self.on_failed(id, reason, culprit, *trace, now),
            Notice::Building { pid } => self.on_building(id, pid),
            Notice::Waiting { pid } => self.on_waiting(id, pid),
            Notice::Forked { id: run, pid } => self.on_forked(id, run, pid),
            Notice::Died { id: run, reason } => self.on_died(id, run, reason, now),
            Notice::Entered { id: run, pid } => self.on_entered(run, pid),
            Notice::Refused { id: run, reason } => self.on_refused(id, run, reason, now),
            Notice::Ended(ended) => self.on_ended(id, *ended, now),
        }
    }

    fn on_child(change: Change) {
        // That a zygote is gone is learned from its channel, and logged as the trouble it may be;
        // this says how it went. Builders that are not wanted any more the daemon ends itself.
        if let Change::Ended { pid, status } = change {
            if libc::WIFSIGNALED(status) {
                tracing::info!(
                    "process {pid} was ended by signal {}",
                    libc::WTERMSIG(status)
                );
            } else {
                tracing::debug!("process {pid} ended with {}", libc::WEXITSTATUS(status));
            }
        }
    }

    fn on_changed(&mut self, directories: BTreeSet<PathBuf>, now: Instant) {
        self.look_at(directories, Duration::ZERO, now);
    }

    /// What was just being saved is looked at once more.
    pub(super) fn look_again(&mut self, directories: BTreeSet<PathBuf>, now: Instant) {
        self.look_at(directories, SAVING_PAUSE, now);
    }

    fn look_at(&mut self, directories: BTreeSet<PathBuf>, delay: Duration, now: Instant) {
        match &mut self.changed {
            Some((_, known)) => known.extend(directories),
            None => {
                let want = Want::new("", now, RECHECK_PAUSE, RECHECK_PATIENCE);
                self.changed = Some((want.after(delay), directories));
            }
        }
    }

    /// Does what is due. Called after each batch of events.
    pub(super) fn tick(&mut self, now: Instant) {
        self.note_quiet(now);
        self.clients.expire(now);
        self.expire_runs(now);
        if self
            .changed
            .as_ref()
            .is_some_and(|(want, _)| want.due(self.quiet_since) <= now)
        {
            let (_, directories) = self.changed.take().expect("checked above");
            self.recheck(&directories, now);
        }
        self.look_at_memory(now);
        self.build_what_is_due(now);
        self.retire_what_is_spare(now);
        self.rest_what_is_idle(now);
        self.end_hung(now);
        self.drop_spent();
        self.update_watches();
        if self.learned.due().is_some_and(|due| due <= now) && self.quiet_since.is_some() {
            self.learned.save();
        }
        if now >= self.next_look {
            self.next_look = now + LOOK_PAUSE;
            self.look_around(now);
        }
        if self.idle_until().is_some_and(|until| until <= now) {
            tracing::info!("idle for {:?}: going", self.settings.idle_timeout());
            self.close(None, now);
        }
    }

    /// When something is due next, at the latest.
    pub(super) fn deadline(&self) -> Instant {
        let learned = self.learned.due().filter(|_| self.quiet_since.is_some());
        let changed = self
            .changed
            .as_ref()
            .map(|(want, _)| want.due(self.quiet_since));
        let closing = self
            .closing
            .as_ref()
            .map(|closing| closing.since + CLOSING_LIMIT);
        [
            self.clients.deadline(),
            self.runs_due(),
            self.builds_due(),
            self.memory_due(),
            self.rest_due(),
            self.idle_until(),
            learned,
            changed,
            closing,
        ]
        .into_iter()
        .flatten()
        .fold(self.next_look, Instant::min)
    }

    fn idle_until(&self) -> Option<Instant> {
        self.quiet_since
            .filter(|_| self.closing.is_none())
            .map(|since| since + self.settings.idle_timeout())
    }

    /// Keeps `quiet_since`.
    fn note_quiet(&mut self, now: Instant) {
        if !self.runs.is_empty() || !self.plains.is_empty() {
            self.quiet_since = None;
        } else if self.quiet_since.is_none() {
            self.quiet_since = Some(now);
        }
    }

    fn look_around(&mut self, now: Instant) {
        if self.quiet_since.is_none() || self.closing.is_some() {
            return;
        }
        if self.door.as_ref().is_some_and(|door| !door.is_reachable()) {
            tracing::warn!("the socket is gone: going");
            self.close(None, now);
        } else if !self.identity.root.is_dir() {
            tracing::info!("`{}` is gone: going", self.identity.root.display());
            self.close(None, now);
        }
    }

    /// Takes nothing new from here on.
    pub(super) fn close(&mut self, asked: Option<Connection>, now: Instant) {
        let closing = self.closing.get_or_insert_with(|| Closing {
            since: now,
            asked: Vec::new(),
        });
        closing.asked.extend(asked);
        if let Some(door) = self.door.take() {
            for waiting in door.close() {
                self.handle(Event::Connected(waiting), now);
            }
        }
        for zygote in self
            .zygotes
            .values_mut()
            .filter(|zygote| zygote.is_starting() || zygote.runs.is_empty())
        {
            zygote.end("the daemon goes");
        }
    }

    /// Nothing is left to do: workers go on under their zygotes, which report to the clients
    /// by themselves.
    pub(super) fn is_done(&self, now: Instant) -> bool {
        let Some(closing) = &self.closing else {
            return false;
        };
        let handing_over = self
            .runs
            .values()
            .any(|run| matches!(run.stage, Stage::Serving { .. }));
        // Of the others the ends of their channels are still to come: who asked for this waits for
        // all that goes. (A builder that cannot be ended yet would go on for ever if it hangs.)
        let leaving = self.zygotes.values().any(|zygote| zygote.runs.is_empty());
        (self.clients.is_empty() && !handing_over && !leaving)
            || now >= closing.since + CLOSING_LIMIT
    }

    /// Saves what is not saved yet, and tells those who asked for the end.
    pub(super) fn finish(&mut self) {
        self.learned.save();
        tracing::info!("pid {} is gone", std::process::id());
        let asked = self.closing.iter_mut().map(|closing| &mut closing.asked);
        for connection in asked.flat_map(|asked| asked.drain(..)) {
            let _ = connection.send(&Reply::Done, &[]);
        }
    }

    /// All that the loop has to listen to.
    pub(super) fn sources(&self) -> impl Iterator<Item = (Source, BorrowedFd<'_>, PollFlags)> {
        let clients = self
            .clients
            .sockets()
            .map(|(id, fd)| (Source::Client(id), fd, PollFlags::POLLIN));
        let zygotes = self.zygotes.iter().map(|(id, zygote)| {
            let mut flags = PollFlags::POLLIN;
            flags.set(PollFlags::POLLOUT, zygote.control.has_output());
            (Source::Zygote(*id), zygote.control.as_fd(), flags)
        });
        let plains = self
            .plains
            .iter()
            .map(|(id, process)| (Source::Plain(*id), process.as_fd(), PollFlags::POLLIN));
        clients.chain(zygotes).chain(plains)
    }

    pub(super) fn root(&mut self, key: RootKey) -> Option<&mut Root> {
        self.roots.iter_mut().find(|root| root.key == key)
    }
}

/// Seconds since the epoch, for people who read the history.
pub(super) fn wall_clock() -> f64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}
