//! What this process is: a zygote on its way or parked, a worker before pytest, one in it.
//!
//! ```text
//!   begin / grow        park              fork             enter
//!  ─────────────▶ Zygote ────▶ (the loop) ────▶ WorkerSide ─────▶ Running
//!                   │ fail                        │ refuse
//!                   ▼                             ▼
//!                 exit                          exit
//! ```

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::time::Instant;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyseidon::protocol::{self, Before, Notice, Reply, Run};
use pyseidon::transport::{Connection, move_high};

use crate::audit;
use crate::page::Page;
use crate::record;

/// What a child of the loop is to become; what [`begin`] and `serve::park` give to Python.
#[pyclass(get_all, frozen, module = "pyseidon._zygote")]
pub(crate) struct Order {
    /// `begin`, `grow` or `run`.
    kind: &'static str,
    script: Vec<u8>,
    argv: Vec<Vec<u8>>,
    env: Vec<Vec<u8>>,
    cwd: Vec<u8>,
    python: Vec<u8>,
    python_options: Vec<Vec<u8>>,
    /// Signals that the caller ignores, bit `n - 1` for signal `n`.
    ignored: u64,
    /// Of `grow`: the entry point before which to park, and why.
    before: Option<String>,
    because: Option<String>,
}

impl Order {
    pub(crate) fn new(kind: &'static str, run: &Run, before: Option<Before>) -> Self {
        let (before, because) = before.map(|b| (b.plugin, b.reason)).unzip();
        Self {
            kind,
            script: run.script.clone(),
            argv: run.argv.clone(),
            env: run.env.clone(),
            cwd: run.cwd.clone(),
            python: run.python.clone(),
            python_options: run.python_options.clone(),
            ignored: run.ignored,
            before,
            because,
        }
    }
}

/// What this process is.
pub(crate) enum Role {
    Zygote(Zygote),
    /// A forked trial of something that may come to nothing; its parent reads why in the page.
    Trial(std::mem::ManuallyDrop<Page>),
    Worker(WorkerSide),
    /// A worker in pytest: its end is told through the page.
    Running(std::mem::ManuallyDrop<Page>),
}

/// A zygote that builds or has parked.
pub(crate) struct Zygote {
    pub(crate) control: Connection,
    pub(crate) template: Box<Run>,
    pub(crate) since: Instant,
}

/// A worker before it enters pytest.
pub(crate) struct WorkerSide {
    pub(crate) client: Connection,
    /// Closed when the worker has entered pytest or is gone: how the zygote learns of it.
    pub(crate) alive: OwnedFd,
    pub(crate) page: std::mem::ManuallyDrop<Page>,
}

static ROLE: Mutex<Option<Role>> = Mutex::new(None);

pub(crate) fn set_role(role: Role) {
    // What was there belongs to the process before the fork, or its descriptors are closed.
    std::mem::forget(ROLE.lock().expect("no panic while held").replace(role));
}

pub(crate) fn take_role() -> Option<Role> {
    ROLE.lock().expect("no panic while held").take()
}

pub(crate) fn os_error(error: impl std::fmt::Display) -> PyErr {
    PyRuntimeError::new_err(error.to_string())
}

/// Takes the control channel over and waits for the first order.
///
/// Raises RuntimeError if the daemon is gone or says something else.
#[pyfunction]
pub(crate) fn begin(control: RawFd) -> PyResult<Order> {
    // SAFETY: the daemon has opened this descriptor for us and nobody else here uses it.
    let control = unsafe { OwnedFd::from_raw_fd(control) };
    let control = move_high(control).map_err(os_error)?;
    let mut control = Connection::new(UnixStream::from(control));
    let frame = control.receive().map_err(os_error)?;
    let protocol::Order::Begin { run } = frame.decode().map_err(os_error)? else {
        return Err(os_error("the first order is not `Begin`"));
    };
    let order = Order::new("begin", &run, None);
    announce(&control);
    set_role(Role::Zygote(Zygote {
        control,
        template: run,
        since: Instant::now(),
    }));
    Ok(order)
}

/// Tells the daemon whom to end if this never parks.
pub(crate) fn announce(control: &Connection) {
    let pid = std::process::id() as i32;
    let _ = control.send(&Notice::Building { pid }, &[]);
}

/// In a worker: this checkpoint does not stand for the run. Nothing was run; ends the process.
#[pyfunction]
pub(crate) fn refuse(reason: &str) -> PyResult<()> {
    match take_role() {
        Some(Role::Worker(worker)) => {
            worker.page.refuse(reason);
            exit_now(0)
        }
        _ => Err(os_error("not a worker before pytest")),
    }
}

/// In a worker: it is the caller's process now; what follows is pytest's own work.
#[pyfunction]
pub(crate) fn inherited() {
    if let Some(Role::Worker(worker)) = ROLE.lock().expect("no panic while held").as_ref() {
        worker.page.inherited();
    }
}

/// In a worker: enters pytest. From here on the run is the user's.
#[pyfunction]
pub(crate) fn enter() -> PyResult<()> {
    let Some(Role::Worker(worker)) = take_role() else {
        return Err(os_error("not a worker before pytest"));
    };
    let page = worker.page.share();
    page.enter();
    let started = Reply::Started {
        pid: std::process::id() as i32,
    };
    if worker.client.send(&started, &[]).is_err() {
        // Nobody is there to run for.
        exit_now(0);
    }
    drop((worker.client, worker.alive));
    audit::record_run(page.share());
    set_role(Role::Running(page));
    Ok(())
}

/// In a building zygote: it cannot get to where it is to park. Ends the process.
#[pyfunction]
pub(crate) fn fail(reason: &str) -> PyResult<()> {
    let stage = audit::seen().stage;
    fail_now(&stage, reason)
}

pub(crate) fn fail_now(stage: &str, reason: &str) -> ! {
    audit::set_mode(audit::Mode::Off);
    match take_role() {
        Some(Role::Zygote(zygote)) => {
            let trace = record::failed(&audit::seen());
            let notice = Notice::Failed {
                culprit: (!stage.is_empty()).then(|| stage.to_owned()),
                reason: reason.to_owned(),
                trace: Box::new(trace),
            };
            let _ = zygote.control.send(&notice, &[]);
        }
        Some(Role::Trial(page)) => page.refuse(reason),
        _ => {}
    }
    exit_now(1)
}

/// The page of a running worker; `None` in any other process.
pub(crate) fn running_page() -> Option<std::mem::ManuallyDrop<Page>> {
    match ROLE.lock().expect("no panic while held").as_ref() {
        Some(Role::Running(page)) => Some(page.share()),
        _ => None,
    }
}

/// True in a process that has not parked yet.
pub(crate) fn is_building() -> bool {
    matches!(
        ROLE.lock().expect("no panic while held").as_ref(),
        Some(Role::Zygote(_))
    )
}

/// Leaves without the interpreter's finalisation: nothing of the user's has run here that
/// anybody waits for.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(code) }
}
