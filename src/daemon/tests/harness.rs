//! A daemon without a process of its own, and callers: what its tests drive.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::poll::PollTimeout;

use super::super::Server;
use super::super::dispatcher::{Dispatcher, Event, Identity, Parts};
use super::super::door::Door;
use super::super::learned::Learned;
use super::super::pressure::Gauge;
use super::super::settings::Settings;
use super::super::watcher::{Wanted, Watch};
use super::fakes::{Fakes, run};
use crate::protocol::{Hello, Reply, Request, Run};
use crate::transport::{Connection, Filled, Frame};

/// No step of these tests takes more than a few milliseconds of work.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Default)]
pub(super) struct Watched(pub(super) Arc<Mutex<BTreeSet<PathBuf>>>);

impl Watch for Watched {
    fn watch(&mut self, wanted: Wanted) {
        *self.0.lock().unwrap() = wanted.directories;
    }
}

pub(super) struct Bench {
    pub(super) server: Server,
    pub(super) fakes: Arc<Fakes>,
    pub(super) watched: Watched,
    pub(super) installed: Arc<Mutex<String>>,
    /// How far the daemon's clock is ahead.
    pub(super) ahead: Duration,
    pub(super) done: bool,
}

pub(super) trait ReceiveNow {
    /// A frame or the end, if either is there.
    fn receive_now(&mut self) -> Option<crate::error::Result<Frame>>;
}

impl ReceiveNow for Connection {
    fn receive_now(&mut self) -> Option<crate::error::Result<Frame>> {
        loop {
            match self.next_frame() {
                Ok(Some(frame)) => return Some(Ok(frame)),
                Ok(None) => match self.fill() {
                    Ok(Filled::Some) => {}
                    Ok(Filled::WouldBlock) => return None,
                    Ok(Filled::Eof) => return Some(Err(crate::error::Error::Closed)),
                    Err(error) => return Some(Err(error)),
                },
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// The caller's side of a run.
pub(super) struct Caller(pub(super) Connection);

impl Bench {
    pub(super) fn new() -> Self {
        Self::with_door(None)
    }

    pub(super) fn with_door(door: Option<Door>) -> Self {
        Self::with(door, Gauge::blind())
    }

    pub(super) fn with(door: Option<Door>, gauge: Gauge) -> Self {
        let fakes = Arc::new(Fakes::default());
        let watched = Watched::default();
        let installed = Arc::new(Mutex::new("build".to_owned()));
        let asked = Arc::clone(&installed);
        let parts = Parts {
            identity: Identity {
                key: "key".into(),
                root: "/".into(),
                script: "/env/bin/pytest".into(),
                python: "/env/bin/python".into(),
                build: "build".into(),
                socket: "/nowhere.sock".into(),
                log: None,
            },
            door,
            spawner: Box::new(Arc::clone(&fakes)),
            watcher: Box::new(watched.clone()),
            installed: Box::new(move || asked.lock().unwrap().clone()),
            settings: Settings::read(Path::new("/nowhere")),
            learned: Learned::load(None, Path::new("/")),
            gauge,
        };
        Self {
            server: Server {
                dispatcher: Dispatcher::new(parts, Instant::now()),
                signals: None,
                changes: None,
                deaf_until: None,
            },
            fakes,
            watched,
            installed,
            ahead: Duration::ZERO,
            done: false,
        }
    }

    pub(super) fn until(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> bool) {
        let limit = Instant::now() + PATIENCE;
        while !condition(self) {
            assert!(Instant::now() < limit, "never: {what}");
            self.turn_soon();
        }
    }

    /// A turn that does not wait long for the threads.
    pub(super) fn turn_soon(&mut self) {
        std::thread::sleep(Duration::from_millis(1));
        let now = Instant::now() + self.ahead;
        for event in self.server.wait(PollTimeout::ZERO) {
            self.server.dispatcher.handle(event, now);
        }
        self.server.dispatcher.tick(now);
        if self.server.dispatcher.is_done(now) {
            self.server.dispatcher.finish();
            self.done = true;
        }
    }

    pub(super) fn event(&mut self, event: Event) {
        let now = Instant::now() + self.ahead;
        self.server.dispatcher.handle(event, now);
    }

    pub(super) fn connect(&mut self) -> Connection {
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.event(Event::Connected(ours));
        let mut theirs = Connection::new(theirs);
        theirs.receive().unwrap().decode::<Hello>().unwrap();
        theirs
    }

    pub(super) fn send_with(&mut self, run: Run, fds: &[OwnedFd]) -> Caller {
        let connection = self.connect();
        let mut all = vec![OwnedFd::from(std::fs::File::open("/").unwrap())];
        all.extend(fds.iter().map(|fd| fd.try_clone().unwrap()));
        let all: Vec<_> = all.iter().map(AsFd::as_fd).collect();
        connection.send(&Request::Run(Box::new(run)), &all).unwrap();
        connection.set_nonblocking(true).unwrap();
        Caller(connection)
    }

    pub(super) fn send(&mut self, run: Run) -> Caller {
        self.send_with(run, &[])
    }

    /// Has a run begin that is expected to be warm.
    pub(super) fn begin(&mut self, run: Run) -> Caller {
        let mut caller = self.send(run);
        let reply = self.reply(&mut caller);
        assert!(matches!(reply, Some(Reply::Started { .. })), "{reply:?}");
        caller
    }

    /// A first run is over and its Z0 is being built, until the fakes are let go.
    pub(super) fn build_slowly(&mut self) {
        self.fakes.manner(|m| m.slow = true);
        self.run_through(run());
        self.until("a start", |b| *b.fakes.started.lock().unwrap() == 1);
    }

    pub(super) fn reply(&mut self, caller: &mut Caller) -> Option<Reply> {
        let mut reply = None;
        self.until("a reply", |_| match caller.0.receive_now() {
            Some(Ok(frame)) => {
                reply = Some(frame.decode().unwrap());
                true
            }
            Some(Err(_)) => true,
            None => false,
        });
        reply
    }

    /// Runs to the end. True if it was warm.
    pub(super) fn run_through(&mut self, run: Run) -> bool {
        let mut caller = self.send(run);
        let warm = match self.reply(&mut caller) {
            Some(Reply::Started { .. }) => {
                assert_eq!(self.reply(&mut caller), Some(Reply::Ended { status: 0 }));
                true
            }
            Some(Reply::Plain { reason: None }) => false,
            other => panic!("{other:?}"),
        };
        self.end_plains();
        self.until("the run's end", |b| b.server.dispatcher.runs.is_empty());
        warm
    }

    /// The process that would run plain pytest is this one: it does not end by itself.
    pub(super) fn end_plains(&mut self) {
        let plains: Vec<u64> = self.server.dispatcher.plains.keys().copied().collect();
        for id in plains {
            self.event(Event::PlainEnded(id));
        }
    }

    /// `Z0` or `P0`, as the last run had it.
    pub(super) fn last_checkpoint(&self) -> Option<String> {
        self.server
            .dispatcher
            .history
            .records()
            .last()
            .unwrap()
            .checkpoint
            .clone()
    }

    pub(super) fn ready(&self, level: &str) -> usize {
        let zygotes = self.server.dispatcher.zygotes.values();
        zygotes
            .filter(|z| z.is_ready() && z.name() == level)
            .count()
    }

    pub(super) fn warm_up(&mut self) {
        assert!(!self.run_through(run()));
        self.until("a P0", |b| b.ready("P0") == 1);
    }
}
