//! A call in a forked child, of which only a verdict comes back: the process that forks it is left
//! as it was, whatever the call does.

use std::io;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::Signal;
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict, PyTuple};
use pyseidon::process;

use crate::fail::fail_now;
use crate::fork::{Side, end_with, fork};
use crate::page::Page;
use crate::role::{Role, exit_now, set_role, take_role};

/// Calls `function` in a forked trial. Returns what that returned (a reason, or `None`), or why
/// it came to nothing: it raised, did what is vetoed, died, or could not be begun.
#[pyfunction]
pub(crate) fn attempt(py: Python<'_>, function: Py<PyAny>) -> Option<String> {
    tried(py, &function).unwrap_or_else(|error| Some(unmade(&error)))
}

/// Begins a trial that goes on beside this process, as this process does: ended by [`end_trial`]
/// where all went well, or by `fail`. Gives a function in the parent that waits for its verdict, a
/// reason or `None`; and `None` in the trial.
#[pyfunction]
pub(crate) fn attempt_beside(py: Python<'_>) -> PyResult<Option<Bound<'_, PyCFunction>>> {
    let begun = begin(py);
    if let Ok(Begun::Trial) = begun {
        return match print_elsewhere() {
            Ok(()) => Ok(None),
            Err(error) => {
                fail_now("", &unmade(&error));
            }
        };
    }
    let begun = std::sync::Mutex::new(Some(begun));
    let verdict = move |_: &Bound<'_, PyTuple>, _: Option<&Bound<'_, PyDict>>| {
        let begun = begun.lock().expect("no panic while held").take();
        PyResult::Ok(match begun {
            Some(Ok(Begun::Beside(pid, page))) => page.verdict(pid),
            Some(Ok(Begun::Not(reason))) => Some(reason),
            Some(Err(error)) => Some(unmade(&error)),
            Some(Ok(Begun::Trial)) | None => Some("it was asked for already".to_owned()),
        })
    };
    PyCFunction::new_closure(py, Some(c"verdict"), None, verdict).map(Some)
}

/// In a trial: all went well. Ends the process.
#[pyfunction]
pub(crate) fn end_trial() {
    if let Some(Role::Trial(page)) = take_role() {
        page.enter();
    }
    exit_now(0);
}

enum Begun {
    /// This is the trial.
    Trial,
    Beside(i32, Page),
    Not(String),
}

fn begin(py: Python<'_>) -> io::Result<Begun> {
    // Not a pipe: the trial looks for descriptors that were left open.
    let page = Page::new()?;
    // The contract of `fork`: Python threads are vetoed while a zygote is built, native ones are
    // looked for here, as they may hold locks; and the child ends by itself. (OpenBLAS ends its own
    // before a fork, see `barriers.py`.)
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    if !maps.contains("openblas") && std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Ok(Begun::Not("a thread was started".to_owned()));
    }
    let parent = std::process::id() as i32;
    match fork(py)? {
        Side::Child => {
            end_with(parent);
            // (Never unmapped.)
            set_role(Role::Trial(std::mem::ManuallyDrop::new(page)));
            Ok(Begun::Trial)
        }
        Side::Parent(pid) => Ok(Begun::Beside(pid, page)),
    }
}

impl Page {
    /// Waits for the trial's end.
    fn verdict(&self, pid: i32) -> Option<String> {
        let status = process::wait_for(pid);
        let died = || format!("its trial {}", in_words(status));
        (!self.entered()).then(|| self.refused().unwrap_or_else(died))
    }
}

fn tried(py: Python<'_>, function: &Py<PyAny>) -> io::Result<Option<String>> {
    match begin(py)? {
        Begun::Trial => {
            let Some(Role::Trial(page)) = take_role() else {
                exit_now(1);
            };
            set_role(Role::Trial(page.share()));
            match verdict(py, function) {
                None => page.enter(),
                Some(reason) => page.refuse(&reason),
            }
            exit_now(0);
        }
        Begun::Beside(pid, page) => Ok(page.verdict(pid)),
        Begun::Not(reason) => Ok(Some(reason)),
    }
}

fn unmade(error: &io::Error) -> String {
    format!("no trial could be made: {error}")
}

/// In the child.
fn verdict(py: Python<'_>, function: &Py<PyAny>) -> Option<String> {
    if let Err(error) = print_elsewhere() {
        return Some(unmade(&error));
    }
    function
        .call0(py)
        .and_then(|result| result.extract(py))
        .unwrap_or_else(|error| Some(format!("it raised {error}")))
}

/// Gives this process standard streams of its own. The zygote's are a file whose size tells
/// whether a plugin has printed: what a trial prints counts for the trial alone.
fn print_elsewhere() -> io::Result<()> {
    let file = memfd_create("trial", MFdFlags::MFD_CLOEXEC)?;
    nix::unistd::dup2_stdout(&file)?;
    nix::unistd::dup2_stderr(&file)?;
    Ok(())
}

/// How a process ended that was to end by itself.
fn in_words(status: Option<i32>) -> String {
    match status {
        None => "was reaped by somebody else".to_owned(),
        Some(status) if libc::WIFSIGNALED(status) => {
            let signal = libc::WTERMSIG(status);
            match Signal::try_from(signal) {
                Ok(name) => format!("was killed by {name}"),
                Err(_) => format!("was killed by signal {signal}"),
            }
        }
        Some(status) => format!("ended with exit code {}", libc::WEXITSTATUS(status)),
    }
}
