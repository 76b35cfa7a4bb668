//! What the daemon's unit tests build on: values, and zygotes that are threads.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use super::super::spawn::Spawn;
use crate::error::Result;
use crate::protocol::{
    Ahead, Before, Culprit, Ended, ExitPath, Loads, Notice, Order, Parked, Reply, Run,
};
use crate::trace::{FileInput, Role, Trace};
use crate::transport::Connection;

pub(in crate::daemon) fn run() -> Run {
    Run {
        script: b"/env/bin/pytest".to_vec(),
        python: b"/env/bin/python".to_vec(),
        python_options: vec![],
        argv: vec![],
        env: vec![b"HOME=/home/me".to_vec()],
        cwd: b"/".to_vec(),
        fds: vec![],
        umask: 0o22,
        rlimits: vec![],
        affinity: vec![],
        ignored: 0,
        blocked: 0,
        session_leader: false,
    }
}

pub(in crate::daemon) fn parked(pid: i32) -> Parked {
    Parked {
        pid,
        holds: "pytest 8.3.4".into(),
        trace: Trace::default(),
        unsettled: None,
        shallow: None,
        places: Vec::new(),
        opening: None,
        seconds: 0.1,
        modules: 100,
        loads: Loads::default(),
    }
}

pub(in crate::daemon) fn memory_file() -> File {
    crate::daemon::spawn::output_file().unwrap()
}

/// Beyond the process numbers that the kernel gives.
pub(in crate::daemon) const NOBODY: i32 = 1 << 30;

/// The place before the file that Z2s read.
pub(super) const BEFORE_EDITED: &str = "before `edited`";

/// How the zygotes of a test behave; may be changed while they run.
#[derive(Debug, Default, Clone)]
pub(super) struct Manner {
    /// Nothing is said on being started, until [`Fakes::let_go`].
    pub(super) slow: bool,
    pub(super) fails: Option<String>,
    /// What a Z2 tells of where another could be parked.
    pub(super) opening: Option<(String, f64)>,
    /// Why it is not parked behind all conftests.
    pub(super) shallow: Option<String>,
    pub(super) unsettled: bool,
    /// A file that all of them have read.
    pub(super) reads: Option<std::path::PathBuf>,
    /// A P0 can be grown into something deeper.
    pub(super) goes_deeper: bool,
    /// A file that Z2s have read beside.
    pub(super) z2_reads: Option<std::path::PathBuf>,
    /// A Z3 fails, and nobody is to blame.
    pub(super) has_no_z3: bool,
    /// Set by the fakes: that file, in a Z2 that has executed it.
    executes: Option<std::path::PathBuf>,
    /// Up to where a Z2 that is grown all the way fails, and one that is grown up to there, …
    pub(super) stops: Vec<&'static str>,
    /// What that depends on.
    pub(super) stops_read: Option<std::path::PathBuf>,
    /// A P0 refuses arguments that it was not grown with.
    pub(super) refuses_others: bool,
    /// Names of the environment that all of them have read.
    pub(super) reads_env: Vec<String>,
    /// Further names that P0s have read.
    pub(super) p0_reads_env: Vec<String>,
    /// The process that stands for a zygote; none is meant by the number otherwise.
    pub(super) process: Option<i32>,
    /// The end of the channel instead of an answer to `Serve`.
    pub(super) dies: bool,
    /// No answer to `Serve`.
    pub(super) mute: bool,
    /// The worker comes to nothing.
    pub(super) loses_worker: bool,
    /// The end of the channel after the worker entered pytest and before that was said.
    pub(super) dies_between: bool,
    /// The process that stands for the worker; none is meant by the number otherwise.
    pub(super) worker: Option<i32>,
    /// The end of the channel right after the worker entered pytest.
    pub(super) dies_late: bool,
    /// Runs do not end by themselves.
    pub(super) lingers: bool,
    /// What is parked has a standby: this process.
    pub(super) waits: Option<i32>,
}

/// What the threads share with the test.
#[derive(Debug, Default)]
pub(super) struct Fakes {
    pub(super) manner: Mutex<Manner>,
    /// Those who wait to be let go: their channels and what they are.
    waiting: Mutex<Vec<(Arc<Connection>, Parked)>>,
    /// Runs that linger: how to end each.
    lingering: Mutex<BTreeMap<u64, (Arc<Connection>, Connection)>>,
    pub(super) started: Mutex<u32>,
    pub(super) grown: Mutex<u32>,
    /// Z2s that were to be.
    pub(super) tried: Mutex<u32>,
    /// Z3s that were to be, where there are none.
    pub(super) tried_z3: Mutex<u32>,
    /// How often one was told to keep no standby.
    pub(super) rested: Mutex<u32>,
    /// What the last Z0 was told not to hold.
    pub(super) distrusted: Mutex<Vec<String>>,
    pids: Mutex<i32>,
}

impl Fakes {
    pub(super) fn manner(&self, change: impl FnOnce(&mut Manner)) {
        change(&mut self.manner.lock().unwrap());
    }

    /// Parks those who were slow.
    pub(super) fn let_go(&self) {
        for (control, parked) in self.waiting.lock().unwrap().drain(..) {
            control
                .send(&Notice::Parked(Box::new(parked)), &[])
                .unwrap();
        }
    }

    pub(super) fn end(&self, id: u64) {
        let (control, client) = self.lingering.lock().unwrap().remove(&id).unwrap();
        end(&control, &client, id);
    }

    fn start(
        self: &Arc<Self>,
        control: Connection,
        depth: usize,
        grown_for: Option<Run>,
        before: Option<Before>,
    ) {
        let fakes = Arc::clone(self);
        std::thread::spawn(move || fakes.live(control, depth, grown_for, before));
    }

    fn park(
        &self,
        control: &Arc<Connection>,
        manner: &Manner,
        run: &Run,
        culprit: Option<Culprit>,
    ) {
        let pid = manner.process.unwrap_or_else(|| {
            let mut pids = self.pids.lock().unwrap();
            *pids += 1;
            NOBODY + *pids
        });
        let _ = control.send(&Notice::Building { pid }, &[]);
        if let Some(reason) = &manner.fails {
            let notice = Notice::Failed {
                reason: reason.clone(),
                culprit,
                trace: Box::new(trace(manner, run)),
            };
            let _ = control.send(&notice, &[]);
            return;
        }
        let place = |path| (path, BEFORE_EDITED.to_owned());
        let parked = Parked {
            trace: trace(manner, run),
            places: manner.executes.clone().map(place).into_iter().collect(),
            unsettled: manner.unsettled.then(|| "`input`".into()),
            opening: manner.opening.clone(),
            shallow: manner.shallow.clone(),
            ..parked(pid)
        };
        if manner.slow {
            self.waiting
                .lock()
                .unwrap()
                .push((Arc::clone(control), parked));
        } else {
            let _ = control.send(&Notice::Parked(Box::new(parked)), &[]);
            if let Some(pid) = manner.waits {
                let _ = control.send(&Notice::Waiting { pid }, &[]);
            }
        }
    }

    /// Up to where a Z2 that was to stop there has to be grown instead.
    fn stop(manner: &Manner, before: Option<&Before>) -> Option<Culprit> {
        let stops = &manner.stops;
        let stops_at = |before: &Before| stops.iter().position(|stop| *stop == before.what);
        let at = before.and_then(stops_at).map_or(0, |at| at + 1);
        let what = stops.get(at)?.to_string();
        let files = manner.stops_read.iter().cloned().collect();
        Some(Culprit { what, files })
    }

    fn live(
        self: Arc<Self>,
        control: Connection,
        depth: usize,
        grown_for: Option<Run>,
        before: Option<Before>,
    ) {
        // One for reading, one that others may write to.
        let mut reader = Connection::new(control.stream().try_clone().unwrap());
        let control = Arc::new(control);
        if let Some(run) = &grown_for {
            let mut manner = self.manner.lock().unwrap().clone();
            let mut culprit = None;
            manner.reads_env.append(&mut manner.p0_reads_env);
            manner.shallow = before.as_ref().map(|before| before.reason.clone());
            if depth == 1 {
                *self.grown.lock().unwrap() += 1;
            } else if manner.goes_deeper {
                if before.as_ref().is_none_or(|it| it.what != BEFORE_EDITED) {
                    manner.reads = manner.z2_reads.take().or(manner.reads);
                    manner.executes = manner.reads.clone();
                }
                *self.tried.lock().unwrap() += 1;
                culprit = Self::stop(&manner, before.as_ref());
                if culprit.is_some() {
                    manner.reads = manner.stops_read.take();
                    manner.fails = Some("it cannot be kept".into());
                }
            } else {
                manner.fails = Some("nothing goes deeper".into());
            }
            self.park(&control, &manner, run, culprit);
        }
        while let Ok(frame) = reader.receive() {
            let manner = self.manner.lock().unwrap().clone();
            let mut fds = frame.fds.into_iter();
            let mut socket = || Connection::new(UnixStream::from(fds.next().unwrap()));
            match frame_order(&frame.body) {
                Order::Begin { run, distrusted } => {
                    *self.distrusted.lock().unwrap() = distrusted;
                    *self.started.lock().unwrap() += 1;
                    self.park(&control, &manner, &run, None);
                }
                Order::Grow { run, level, .. } if manner.has_no_z3 && level == "Z3" => {
                    *self.tried_z3.lock().unwrap() += 1;
                    let reads = manner.z2_reads.clone();
                    let manner = Manner { reads, ..manner };
                    let notice = Notice::Failed {
                        reason: "a plugin is not quiet".into(),
                        culprit: None,
                        trace: Box::new(trace(&manner, &run)),
                    };
                    let _ = socket().send(&notice, &[]);
                }
                Order::Grow { run, before, .. } => {
                    self.start(socket(), depth + 1, Some(*run), before);
                }
                Order::Rest => *self.rested.lock().unwrap() += 1,
                Order::Serve { .. } if manner.dies => break,
                Order::Serve { .. } if manner.mute => {}
                Order::Serve { id, .. } if manner.loses_worker => {
                    let reason = "it was killed".into();
                    let _ = control.send(&Notice::Died { id, reason }, &[]);
                }
                Order::Serve { id, run } => {
                    let other = grown_for.as_ref().is_some_and(|g| g.argv != run.argv);
                    if manner.refuses_others && other {
                        let reason = "other arguments".into();
                        let _ = control.send(&Notice::Refused { id, reason }, &[]);
                        continue;
                    }
                    let client = socket();
                    let pid = manner.worker.unwrap_or(NOBODY);
                    let _ = control.send(&Notice::Forked { id, pid }, &[]);
                    let _ = client.send(&Reply::Started { pid }, &[]);
                    if manner.dies_between {
                        break;
                    }
                    let _ = control.send(&Notice::Entered { id, pid }, &[]);
                    if manner.dies_late {
                        break;
                    }
                    if manner.lingers {
                        let entry = (Arc::clone(&control), client);
                        self.lingering.lock().unwrap().insert(id, entry);
                    } else {
                        end(&control, &client, id);
                    }
                }
            }
        }
        let _ = control.stream().shutdown(std::net::Shutdown::Both);
    }
}

fn frame_order(body: &[u8]) -> Order {
    crate::protocol::decode(body).unwrap()
}

fn trace(manner: &Manner, run: &Run) -> Trace {
    let files = manner.reads.iter();
    let names = manner.reads_env.iter();
    let mut trace = Trace {
        files: files
            .map(|path| FileInput::take(path.clone(), Role::Content))
            .collect(),
        env_read: names.map(|name| name.clone().into_bytes()).collect(),
        ..Trace::default()
    };
    trace.set_env(&run.env);
    trace
}

fn end(control: &Connection, client: &Connection, id: u64) {
    let _ = client.send(&Reply::Ended { status: 0 }, &[]);
    let ended = Ended {
        id,
        status: 0,
        exit: ExitPath::Short,
        seconds: [0.0; 3],
        imports: vec!["os".into()],
        ahead: Ahead::Nothing,
    };
    let _ = control.send(&Notice::Ended(Box::new(ended)), &[]);
}

impl Spawn for Arc<Fakes> {
    fn z0(&mut self, _run: &Run, control: OwnedFd, _output: &File) -> Result<Option<i32>> {
        self.start(Connection::new(UnixStream::from(control)), 0, None, None);
        Ok(None)
    }
}
