//! The daemon: owns the checkpoints of one project and interpreter, checks them, chooses.
//!
//! ```text
//!   listener, clients, zygotes, pidfds, signals, watcher
//!                      │ poll
//!                      ▼
//!       Event ──▶ dispatcher ──▶ Order to a zygote, Reply to a client, a new Z0
//!                 ▲       │
//!                 └─ tick ┘ what is due: builds, growth, timeouts, the end
//! ```
//!
//! - this file: becoming a daemon, and the loop
//! - [`dispatcher`]: owns every table; its parts are [`runs`] and [`answers`], [`roots`],
//!   [`builds`], [`outcomes`], [`stops`], [`edits`] and [`retiring`]
//! - [`clients`]: connections without a request · [`parcel`]: a run on its way
//! - [`door`]: lock, socket, note
//! - [`supervisor`]: one zygote · [`root`]: generations of them · [`spawn`]: starting a Z0
//! - [`choose`]: which checkpoint for a run · [`shape`], [`level`]: what decides it
//! - [`pressure`]: whether memory is short · [`relief`]: what goes then
//! - [`watcher`]: hints that something changed · [`settings`] · [`learned`]: what persists
//! - [`history`], [`status`], [`log`], [`commands`], [`cli`]: what people see
//! - [`explain`]: why the checkpoints are as they are, and what they save
//! - [`distrust`]: modules that no checkpoint may hold
//! - [`verify`], [`last`]: is it the tool? · [`outlook`]: what they ask a daemon
//! - `elsewhere`: stands in for this file on other systems than Linux
//!
//! It never forks Python and holds no descriptor of a client once its run has begun.

mod answers;
mod builds;
mod choose;
mod cli;
mod clients;
pub mod commands;
mod dispatcher;
mod distrust;
mod door;
mod edits;
mod explain;
mod history;
mod last;
mod learned;
mod level;
mod log;
mod outcomes;
mod outlook;
mod parcel;
mod pressure;
mod relief;
mod retiring;
mod root;
mod roots;
mod runs;
mod settings;
mod shape;
mod spawn;
mod status;
mod stops;
mod supervisor;
#[cfg(test)]
mod tests;
mod verify;
mod watcher;

pub use cli::main;

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::error::{Context, Result};
use crate::process;
use crate::project::{Place, build_id, package_dir, product_files};
use crate::protocol::Readiness;
use crate::transport::Connection;
use dispatcher::{Dispatcher, Event, Identity, Parts, Source};
use door::{Door, Note, Opening};
use learned::Learned;
use pressure::Gauge;
use settings::Settings;
use watcher::{Blind, Changes, Watch, Watcher};

/// What the process that starts a daemon says on its command line.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to say that it listens, or why not.
    pub ready_fd: Option<RawFd>,
    pub root: PathBuf,
    pub script: PathBuf,
    pub python: PathBuf,
    pub python_options: Vec<OsString>,
    pub key: String,
}

/// Is the daemon until it has nothing to do any more. Returns the exit status.
pub fn run(options: &Options) -> i32 {
    let ready = detach(options.ready_fd);
    let (word, server) = match Server::prepare(options) {
        Ok(Some(server)) => (Readiness::Ready, Some(server)),
        Ok(None) => (Readiness::AlreadyRunning, None),
        Err(error) => {
            tracing::error!("{error}");
            (Readiness::Failed(error.to_string()), None)
        }
    };
    let failed = matches!(word, Readiness::Failed(_));
    if let Some(ready) = ready {
        let _ = ready.send(&word, &[]);
    }
    if let Some(server) = server {
        server.serve();
    }
    if failed {
        crate::error::exit::FAILED
    } else {
        0
    }
}

/// Leaves the caller's session, directory and descriptors. Gives the readiness channel.
fn detach(ready_fd: Option<RawFd>) -> Option<Connection> {
    let ready_fd = ready_fd.filter(|fd| *fd > 2);
    let open: Vec<RawFd> = fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd > 2 && Some(*fd) != ready_fd)
        .collect();
    for fd in open {
        // SAFETY: nothing in this process uses descriptors beyond the standard ones yet. The one
        // the list was read through is among them and closed already: that call does nothing.
        unsafe { libc::close(fd) };
    }
    // Nothing may ever be read from or written to whatever started the daemon.
    if let Ok(null) = OpenOptions::new().read(true).write(true).open("/dev/null") {
        for fd in 0..=2 {
            // SAFETY: dup2 onto the standard descriptors, which nobody here owns.
            unsafe { libc::dup2(null.as_raw_fd(), fd) };
        }
    }
    // Fails for the leader of a session, which is just as well.
    let _ = nix::unistd::setsid();
    let _ = nix::unistd::chdir("/");
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    for signal in 1..=libc::SIGRTMAX() {
        let action = match signal {
            libc::SIGPIPE => libc::SIG_IGN,
            _ => libc::SIG_DFL,
        };
        // Refused for KILL, STOP and those of the C library.
        // SAFETY: no handler of ours is replaced, and default or ignore run no code.
        unsafe { libc::signal(signal, action) };
    }
    let _ = SigSet::empty().thread_set_mask();
    process::become_subreaper();
    let fd = ready_fd?;
    // SAFETY: the caller opened it for us, and its number was given for this purpose only.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    // Not to be inherited by zygotes.
    let flags = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC);
    nix::fcntl::fcntl(&owned, flags).ok()?;
    Some(Connection::new(UnixStream::from(owned)))
}

/// The loop and what it listens to.
struct Server {
    dispatcher: Dispatcher,
    /// None in tests, where signals are for the test program.
    signals: Option<SignalFd>,
    changes: Option<Changes>,
    /// Accepting fails while no descriptors are left: it is tried again then.
    deaf_until: Option<Instant>,
}

/// After a failed `accept`: long enough not to spin, short enough not to be noticed.
const DEAF_TIME: Duration = Duration::from_millis(100);

impl Server {
    /// `None`: another daemon is there.
    fn prepare(options: &Options) -> Result<Option<Self>> {
        let env = |name: &str| std::env::var_os(name);
        let place = Place::of(&options.key, &env)?;
        // Before any thread exists: all threads inherit the mask.
        let mut mask = SigSet::empty();
        for signal in [
            Signal::SIGCHLD,
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGHUP,
        ] {
            mask.add(signal);
        }
        mask.thread_block().doing(|| "blocking signals".into())?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .doing(|| "making a descriptor for signals".into())?;
        let note = Note {
            key: options.key.clone(),
            root: options.root.clone(),
            script: options.script.clone(),
            python: options.python.clone(),
            pid: std::process::id() as i32,
            log: place.log.clone(),
        };
        let Opening::Open(door) = Door::open(&place.socket, &place.lock, &note)? else {
            return Ok(None);
        };
        log::start(place.log.as_deref());
        let open_files = spawn::raise_limits();
        let package = package_dir(&options.script, &options.python, &options.python_options)?;
        let program = std::env::current_exe().doing(|| "finding this program".into())?;
        let binaries = program.parent().unwrap_or(Path::new("/"));
        let files = product_files(binaries, &package);
        tracing::info!(
            "pid {} for `{}` with `{}`",
            std::process::id(),
            options.root.display(),
            options.python.display()
        );
        let (watcher, changes): (Box<dyn Watch>, _) = match Watcher::start() {
            Ok((watcher, changes)) => (Box::new(watcher), Some(changes)),
            Err(error) => {
                tracing::warn!("changes are noticed only when a run starts: {error}");
                (Box::new(Blind), None)
            }
        };
        let identity = Identity {
            key: options.key.clone(),
            root: options.root.clone(),
            script: options.script.clone(),
            python: options.python.clone(),
            build: build_id(&files),
            socket: place.socket,
            log: place.log,
        };
        let parts = Parts {
            settings: Settings::read(&options.root),
            learned: Learned::load(place.learned, &options.root),
            identity,
            door: Some(door),
            spawner: Box::new(spawn::Python {
                boot: package.join("boot.py"),
                open_files,
            }),
            watcher,
            installed: Box::new(move || build_id(&files)),
            gauge: Gauge::of_this_process(),
        };
        Ok(Some(Self {
            dispatcher: Dispatcher::new(parts, Instant::now()),
            signals: Some(signals),
            changes,
            deaf_until: None,
        }))
    }

    fn serve(mut self) {
        while !self.turn(Instant::now) {}
        self.dispatcher.finish();
    }

    /// Waits for something to happen or to be due, and sees to it. True at the end.
    fn turn(&mut self, clock: impl Fn() -> Instant) -> bool {
        let now = clock();
        let patience = self.deadline(now).saturating_duration_since(now);
        for event in self.wait(timeout(patience)) {
            self.dispatcher.handle(event, clock());
        }
        let now = clock();
        self.dispatcher.tick(now);
        self.dispatcher.is_done(now)
    }

    fn deadline(&mut self, now: Instant) -> Instant {
        self.deaf_until = self.deaf_until.filter(|until| *until > now);
        let deadline = self.dispatcher.deadline();
        self.deaf_until
            .map_or(deadline, |until| deadline.min(until))
    }

    fn wait(&mut self, patience: PollTimeout) -> Vec<Event> {
        let mut fds = Vec::new();
        let mut whose = Vec::new();
        let mut listen = |fd, source, flags| {
            fds.push(PollFd::new(fd, flags));
            whose.push(source);
        };
        if let Some(signals) = &self.signals {
            listen(signals.as_fd(), Listened::Signals, PollFlags::POLLIN);
        }
        if let Some(changes) = &self.changes {
            listen(changes.as_fd(), Listened::Changes, PollFlags::POLLIN);
        }
        if let Some(door) = self
            .dispatcher
            .door
            .as_ref()
            .filter(|_| self.deaf_until.is_none())
        {
            listen(door.as_fd(), Listened::Door, PollFlags::POLLIN);
        }
        for (source, fd, flags) in self.dispatcher.sources() {
            listen(fd, Listened::Source(source), flags);
        }
        match poll(&mut fds, patience) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => {
                tracing::error!("waiting for events: {error}");
                // The next time may fail as well.
                std::thread::sleep(DEAF_TIME);
                return vec![Event::Quit(0)];
            }
        }
        let ready: Vec<Listened> = fds
            .iter()
            .zip(whose)
            .filter(|(fd, _)| fd.any().unwrap_or(false))
            .map(|(_, source)| source)
            .collect();
        ready
            .into_iter()
            .flat_map(|source| self.events_of(source))
            .collect()
    }

    fn events_of(&mut self, source: Listened) -> Vec<Event> {
        match source {
            Listened::Signals => self.read_signals(),
            Listened::Changes => {
                let changed = self.changes.as_ref().map(Changes::take).unwrap_or_default();
                vec![Event::Changed(changed)]
            }
            Listened::Door => self.accept(),
            Listened::Source(source) => vec![match source {
                Source::Client(id) => Event::Spoke(id),
                Source::Zygote(id) => Event::Noticed(id),
                Source::Plain(run) => Event::PlainEnded(run),
            }],
        }
    }

    fn read_signals(&self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(Ok(Some(info))) = self.signals.as_ref().map(SignalFd::read_signal) {
            if info.ssi_signo == Signal::SIGCHLD as u32 {
                // One signal may stand for several children.
                events.extend(std::iter::from_fn(process::next_change).map(Event::Child));
            } else {
                events.push(Event::Quit(info.ssi_signo as i32));
            }
        }
        events
    }

    fn accept(&mut self) -> Vec<Event> {
        let Some(door) = &self.dispatcher.door else {
            return Vec::new();
        };
        let mut events = Vec::new();
        loop {
            match door.accept() {
                Ok(Some(stream)) => events.push(Event::Connected(stream)),
                Ok(None) => return events,
                Err(error) => {
                    tracing::warn!("accepting a connection: {error}");
                    self.deaf_until = Some(Instant::now() + DEAF_TIME);
                    return events;
                }
            }
        }
    }
}

/// Whatever the loop polls.
#[derive(Debug, Clone, Copy)]
enum Listened {
    Signals,
    Changes,
    Door,
    Source(Source),
}

/// Rounded up, because a poll of 0 ms would spin through the last millisecond.
fn timeout(left: Duration) -> PollTimeout {
    let ms = left.as_micros().div_ceil(1000);
    PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX)
}
