//! What this process is: a zygote on its way or parked, a forked trial, a standby (which has no
//! role until its run comes), a worker before pytest, one in it.
//!
//! ```text
//!   begin / grow        park              fork            Serve             enter
//!  ─────────────▶ Zygote ────▶ (the loop) ────▶ (standby) ─────▶ WorkerSide ─────▶ Running
//!                 │   │ attempt                                    │ refuse
//!            fail │   ▼                                            ▼
//!                 │ Trial ──▶ exit, its                          exit
//!                 ▼           reason told
//!               exit
//! ```

use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::time::Instant;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyseidon::protocol::{Before, Run};
use pyseidon::transport::Connection;

use crate::page::Page;
use crate::touched::Lesson;

/// What a child of the loop is to become; what `steps::begin` and `serve::park` give to Python.
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
    /// Of `grow`: the level of the deeper one; where to park, if not all the way, and why.
    level: Option<String>,
    before: Option<String>,
    because: Option<String>,
}

impl Order {
    pub(crate) fn new(kind: &'static str, run: &Run) -> Self {
        Self::growing(kind, run, None, None)
    }

    /// To become a deeper checkpoint of this level.
    pub(crate) fn grow(run: &Run, level: String, before: Option<Before>) -> Self {
        Self::growing("grow", run, Some(level), before)
    }

    fn growing(
        kind: &'static str,
        run: &Run,
        level: Option<String>,
        before: Option<Before>,
    ) -> Self {
        let (before, because) = before.map(|b| (b.what, b.reason)).unzip();
        Self {
            kind,
            script: run.script.clone(),
            argv: run.argv.clone(),
            env: run.env.clone(),
            cwd: run.cwd.clone(),
            python: run.python.clone(),
            python_options: run.python_options.clone(),
            ignored: run.ignored,
            level,
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
    Running(Running),
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
    pub(crate) lesson: Option<Lesson>,
}

/// A worker in pytest.
pub(crate) struct Running {
    /// Not that of what a test has forked, which may come to the script's end as well.
    pub(crate) pid: u32,
    /// Through which its end is told.
    pub(crate) page: std::mem::ManuallyDrop<Page>,
    pub(crate) lesson: Option<Lesson>,
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

/// The page of a worker before pytest; `None` in any other process.
pub(crate) fn waiting_page() -> Option<std::mem::ManuallyDrop<Page>> {
    match ROLE.lock().expect("no panic while held").as_ref() {
        Some(Role::Worker(worker)) => Some(worker.page.share()),
        _ => None,
    }
}

/// A running worker's page, and whether it is to teach; `None` in any other process.
pub(crate) fn running() -> Option<Running> {
    match ROLE.lock().expect("no panic while held").as_ref() {
        Some(Role::Running(running)) if running.pid == std::process::id() => Some(Running {
            pid: running.pid,
            page: running.page.share(),
            lesson: running.lesson,
        }),
        _ => None,
    }
}

/// True in a process that has not parked yet.
#[pyfunction]
pub(crate) fn is_building() -> bool {
    matches!(
        ROLE.lock().expect("no panic while held").as_ref(),
        Some(Role::Zygote(_))
    )
}

/// True in a trial.
pub(crate) fn is_trial() -> bool {
    matches!(
        ROLE.lock().expect("no panic while held").as_ref(),
        Some(Role::Trial(_))
    )
}

/// Leaves without the interpreter's finalisation: nothing of the user's has run here that
/// anybody waits for.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(code) }
}
