//! The loop of a parked process: forks on orders, relays signals, reaps, reports.
//!
//! ```text
//!             Begin / Grow                 script reaches where it parks
//!   (start) ───────────────▶ building ───────────────────────────────────▶ parked ──┐ Serve: a standby's turn
//!                               │ script ends, fails, does what is vetoed    │  ▲     │ Grow: fork a zygote
//!                               ▼                                            │  └─────┘
//!                         Failed, exit                    control closed ────▼
//!                                                                  leaving: exit when no worker is left
//! ```
//!
//! Once parked, a zygote runs nothing but this loop: no Python code, so nothing that a library
//! does not survive after a fork.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use pyo3::prelude::*;
use pyseidon::process::{self, Change};
use pyseidon::protocol::{self, Ended, ExitPath, Notice, Relay, Reply, Run};
use pyseidon::transport::{Connection, Filled};

use crate::audit;
use crate::distrust;
use crate::grow::grow;
use crate::page::{self, Page};
use crate::readline;
use crate::report::{Told, report};
use crate::role::{Order, Role, Zygote, exit_now, os_error, take_role};
use crate::seen::seen;
use crate::standby::{Forked, Standby, has_news};
use crate::timings;
use crate::touched::Touched;

/// Between a worker's order and its being the caller's process only our own code runs: a few
/// milliseconds on an idle machine. What takes a thousand times as long is stuck.
const WATCHDOG: Duration = Duration::from_secs(5);

/// Parks: reports what was built and serves orders. Returns in children only.
///
/// `facts` gives what `observe.py` saw, `holds` says in words what this process holds, `shallow` why
/// it does not hold more, `places` are those of [`Parked`]. Raises RuntimeError in a process that is
/// no building zygote.
#[pyfunction]
pub(crate) fn park(
    py: Python<'_>,
    facts: Bound<'_, PyAny>,
    holds: String,
    shallow: Option<String>,
    places: Vec<(PathBuf, String)>,
) -> PyResult<Order> {
    audit::set_mode(audit::Mode::Off);
    distrust::on_park(py);
    let Some(Role::Zygote(zygote)) = take_role() else {
        return Err(os_error("not a building zygote"));
    };
    // In a child its descriptor is closed, or somebody else's.
    let mut zygote = std::mem::ManuallyDrop::new(zygote);
    readline::find();
    let told = Told {
        holds,
        shallow,
        places,
    };
    match report(py, &zygote, &facts, told) {
        Ok(true) => {}
        Ok(false) => exit_now(1),
        Err(error) => {
            eprintln!("forking: {error}");
            exit_now(1);
        }
    }
    seen().forget();
    timings::forget();
    give_back();
    // Not to keep the user's directory from being removed or unmounted.
    let _ = nix::unistd::chdir("/");
    match serve(py, &mut zygote) {
        Ok(order) => Ok(order),
        Err(error) => {
            // Raised here it would run through pytest's frames.
            error.print(py);
            exit_now(1)
        }
    }
}

/// What was freed on the way here would be in memory for as long as this process waits.
fn give_back() {
    // SAFETY: the C library's own function, which takes its locks as any other does.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0)
    };
}

/// A worker, as its zygote sees it.
struct Worker {
    id: u64,
    client: Option<Connection>,
    /// How many signals of the client's have been passed on.
    relayed: u64,
    /// Until the worker has entered pytest.
    alive: Option<Connection>,
    page: Page,
    since: u64,
    deadline: Instant,
    /// It was ended because it did not enter pytest in time.
    stuck: bool,
}

struct Loop<'a> {
    control: &'a mut Connection,
    workers: HashMap<i32, Worker>,
    /// Who serves the next run.
    standby: Option<Standby>,
    /// There is to be one: not again, after one was ended, before there is a run for it. What
    /// ended that one might end the next as well, for ever.
    wants_standby: bool,
    touched: Touched,
    leaving: bool,
}

fn children() -> SigSet {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    mask
}

fn serve(py: Python<'_>, zygote: &mut Zygote) -> PyResult<Order> {
    let mask = children();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), None).map_err(os_error)?;
    let children = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(os_error)?;
    let mut state = Loop {
        control: &mut zygote.control,
        workers: HashMap::new(),
        standby: None,
        wants_standby: true,
        touched: Touched::new(),
        leaving: false,
    };
    loop {
        let order = match state.take_orders(py)? {
            None => state.keep_standby(py),
            order => order,
        };
        if let Some(order) = order {
            // The loop's descriptors were closed, or replaced by the caller's.
            std::mem::forget((state, children));
            return Ok(order);
        }
        if state.leaving && state.workers.is_empty() {
            exit_now(0);
        }
        state.wait(&children).map_err(os_error)?;
        while let Ok(Some(_)) = children.read_signal() {}
        while let Some(change) = process::next_change() {
            state.on_change(change);
        }
        state.on_workers();
    }
}

impl Loop<'_> {
    /// Sleeps until something is to be done; reads what has come on the control channel.
    fn wait(&mut self, children: &SignalFd) -> nix::Result<()> {
        let mut fds: Vec<PollFd<'_>> = vec![PollFd::new(children.as_fd(), PollFlags::POLLIN)];
        if !self.leaving {
            fds.push(PollFd::new(self.control.as_fd(), PollFlags::POLLIN));
        }
        let mut timeout = PollTimeout::NONE;
        for worker in self.workers.values() {
            for connection in worker.client.iter().chain(&worker.alive) {
                let mut flags = PollFlags::POLLIN;
                flags.set(PollFlags::POLLOUT, connection.has_output());
                fds.push(PollFd::new(connection.as_fd(), flags));
            }
            if worker.alive.is_some() {
                let left = worker.deadline.saturating_duration_since(Instant::now());
                let left = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
                timeout = timeout.min(left);
                if i32::from(timeout) < 0 {
                    timeout = left;
                }
            }
        }
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::Error::EINTR) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Carries out orders. Gives an order in the child that is to go on with it.
    fn take_orders(&mut self, py: Python<'_>) -> PyResult<Option<Order>> {
        if self.leaving {
            return Ok(None);
        }
        if has_news(self.control)
            && !matches!(self.control.fill(), Ok(Filled::Some | Filled::WouldBlock))
        {
            self.leave();
        }
        loop {
            let (order, fds) = match self.next_order() {
                Ok(Some(order)) => order,
                Ok(None) => return Ok(None),
                Err(_) => {
                    // Of what follows nobody knows where a message begins.
                    self.leave();
                    return Ok(None);
                }
            };
            let child = match order {
                protocol::Order::Begin { .. } => None,
                protocol::Order::Serve { id, run } => self.serve(py, id, run, fds),
                protocol::Order::Grow { run, level, before } => {
                    // Runs will be served from there. If they are not, the first brings one back.
                    self.end_standby();
                    self.wants_standby = false;
                    grow(py, run, level, before, fds, children())?
                }
                protocol::Order::Rest => {
                    self.end_standby();
                    self.wants_standby = false;
                    None
                }
            };
            if child.is_some() {
                return Ok(child);
            }
        }
    }

    /// The next order that has come, with its descriptors.
    fn next_order(&mut self) -> pyseidon::error::Result<Option<(protocol::Order, Vec<OwnedFd>)>> {
        let Some(frame) = self.control.next_frame()? else {
            return Ok(None);
        };
        Ok(Some((frame.decode()?, frame.fds)))
    }

    /// Hands a run to the standby, or to one that is forked for it. Gives the order in that child.
    fn serve(
        &mut self,
        py: Python<'_>,
        id: u64,
        run: Box<Run>,
        fds: Vec<OwnedFd>,
    ) -> Option<Order> {
        let since = page::now();
        if fds.len() != run.fds.len() + 2 {
            self.died(id, "the descriptors do not fit the run");
            return None;
        }
        let order = protocol::Order::Serve { id, run };
        self.wants_standby = true;
        // One that was ended while it waited is replaced.
        let waiting = self.standby.take();
        let waiting = waiting.and_then(|mut it| it.hand_over(&order, &fds).then_some(it));
        let standby = match waiting {
            Some(standby) => standby,
            None => match Standby::fork(py, &mut self.touched, false) {
                Ok(Forked::Here(mut standby)) => {
                    if !standby.hand_over(&order, &fds) {
                        // Dropping it ends it.
                        self.died(id, "its worker cannot be given the run");
                        return None;
                    }
                    standby
                }
                Ok(Forked::Child(order)) => {
                    std::mem::forget(fds);
                    return Some(order);
                }
                Err(error) => {
                    self.died(id, &format!("forking: {error}"));
                    return None;
                }
            },
        };
        let client = fds.into_iter().next().expect("counted above");
        let client = Connection::new(UnixStream::from(client));
        let _ = client.set_nonblocking(true);
        let Standby { pid, channel, page } = standby;
        self.workers.insert(
            pid,
            Worker {
                id,
                client: Some(client),
                relayed: 0,
                alive: Some(channel),
                page,
                since,
                deadline: Instant::now() + WATCHDOG,
                stuck: false,
            },
        );
        let _ = self.control.send(&Notice::Forked { id, pid }, &[]);
        None
    }

    /// Forks a standby for the next run when nobody waits for this process. Gives the order in
    /// that child.
    fn keep_standby(&mut self, py: Python<'_>) -> Option<Order> {
        let nobody_waits = self.workers.values().all(|worker| worker.alive.is_none());
        if self.leaving || !self.wants_standby || !nobody_waits {
            return None;
        }
        self.wants_standby = false;
        match Standby::fork(py, &mut self.touched, true) {
            Ok(Forked::Here(standby)) => {
                let pid = standby.pid;
                let _ = self.control.send(&Notice::Waiting { pid }, &[]);
                self.standby = Some(standby);
            }
            Ok(Forked::Child(order)) => return Some(order),
            // The next run says so if it is still so then.
            Err(_) => {}
        }
        None
    }

    fn is_standby(&self, pid: i32) -> bool {
        self.standby.as_ref().is_some_and(|it| it.pid == pid)
    }

    /// Takes nothing new from here on.
    fn leave(&mut self) {
        self.leaving = true;
        self.end_standby();
    }

    /// Whoever waits for the end of this process waits for the whole of it.
    fn end_standby(&mut self) {
        if let Some(standby) = self.standby.take() {
            process::kill_group(standby.pid);
            process::wait_for(standby.pid);
        }
    }

    fn died(&self, id: u64, reason: &str) {
        let reason = reason.to_owned();
        let _ = self.control.send(&Notice::Died { id, reason }, &[]);
    }

    fn on_change(&mut self, change: Change) {
        match change {
            Change::Ended { pid, .. } if self.is_standby(pid) => self.standby = None,
            Change::Stopped { pid, .. } if self.is_standby(pid) => {
                // Its run would wait.
                process::kill_group(pid);
                self.standby = None;
            }
            Change::Stopped { pid, signal } => {
                if let Some(worker) = self.workers.get(&pid)
                    && let Some(client) = &worker.client
                {
                    let relayed = worker.relayed;
                    let _ = client.send(&Reply::Stopped { signal, relayed }, &[]);
                }
            }
            Change::Continued { .. } => {}
            Change::Ended { pid, status } => {
                // A deeper zygote is not in the table: the daemon sees its channel close.
                if let Some(mut worker) = self.workers.remove(&pid) {
                    self.enter(&mut worker, pid);
                    self.end(worker, status);
                }
            }
        }
    }

    /// Tells the daemon, once, that a worker has entered pytest.
    fn enter(&self, worker: &mut Worker, pid: i32) {
        if worker.page.entered() && worker.alive.take().is_some() {
            let id = worker.id;
            let _ = self.control.send(&Notice::Entered { id, pid }, &[]);
        }
    }

    fn end(&mut self, worker: Worker, status: i32) {
        let id = worker.id;
        if !worker.page.entered() {
            match worker.page.refused() {
                Some(reason) => {
                    let _ = self.control.send(&Notice::Refused { id, reason }, &[]);
                }
                None if let Some(reason) = worker.page.refused_for_now() => self.died(id, &reason),
                None if worker.stuck => self.died(id, "its worker showed no life"),
                None => {
                    let reason =
                        format!("its worker ended before it entered pytest (wait status {status})");
                    self.died(id, &reason);
                }
            }
            return;
        }
        if let Some(client) = &worker.client {
            let _ = client.send(&Reply::Ended { status }, &[]);
        }
        let end = page::now();
        self.touched.learn(&worker.page);
        let inherited = worker.page.inherited_at();
        let done = match worker.page.done_at() {
            0 => end,
            done => done,
        };
        let seconds = |from: u64, to: u64| to.saturating_sub(from) as f64 / 1e9;
        let notice = Notice::Ended(Box::new(Ended {
            id,
            status,
            exit: match worker.page.exit() {
                1 => ExitPath::Short,
                2 => ExitPath::Full,
                _ => ExitPath::Abrupt,
            },
            seconds: [
                seconds(worker.since, inherited),
                seconds(inherited, done),
                seconds(done, end),
            ],
            imports: worker.page.imports(),
            ahead: worker.page.ahead(),
        }));
        let _ = self.control.send(&notice, &[]);
    }

    /// What clients say, and who has entered or is stuck.
    fn on_workers(&mut self) {
        let now = Instant::now();
        let mut workers = std::mem::take(&mut self.workers);
        for (pid, worker) in &mut workers {
            if let Some(alive) = worker.alive.as_mut() {
                let _ = alive.flush();
            }
            if worker.alive.as_ref().is_some_and(has_news) {
                self.enter(worker, *pid);
            }
            if worker.alive.is_some() && now >= worker.deadline {
                worker.deadline = now + WATCHDOG;
                // What follows is pytest's own reading of the arguments, be they thousands.
                if worker.page.inherited_at() == 0 {
                    worker.stuck = true;
                    process::kill_group(*pid);
                }
            }
            let Some(client) = worker.client.as_mut() else {
                continue;
            };
            match relay(client, *pid, &mut worker.relayed) {
                Ok(true) => {}
                Ok(false) | Err(_) => {
                    // The client was killed, or its terminal is gone with it.
                    worker.client = None;
                    process::kill_group(*pid);
                }
            }
        }
        self.workers = workers;
    }
}

/// Passes on what the client says, and counts it; false when it is gone.
fn relay(client: &mut Connection, pid: i32, relayed: &mut u64) -> pyseidon::error::Result<bool> {
    loop {
        match client.fill()? {
            Filled::WouldBlock => return Ok(true),
            Filled::Eof => return Ok(false),
            Filled::Some => {}
        }
        while let Some(frame) = client.next_frame()? {
            let Relay::Signal(signal) = frame.decode()?;
            process::signal_group(pid, signal);
            *relayed += 1;
        }
    }
}
