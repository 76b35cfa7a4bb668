//! A call in a forked child, of which only a verdict comes back: the process that forks it is left
//! as it was, whatever the call does.

use std::io;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::Signal;
use pyo3::prelude::*;
use pyseidon::process;

use crate::fork::{Side, fork};
use crate::page::Page;
use crate::role::{Role, exit_now, set_role};

/// Calls `function` in a forked trial. Returns what that returned (a reason, or `None`), or why
/// it came to nothing: it raised, did what is vetoed, died, or could not be begun.
#[pyfunction]
pub(crate) fn attempt(py: Python<'_>, function: Py<PyAny>) -> Option<String> {
    tried(py, &function).unwrap_or_else(|error| Some(unmade(&error)))
}

fn tried(py: Python<'_>, function: &Py<PyAny>) -> io::Result<Option<String>> {
    // Not a pipe: the trial looks for descriptors that were left open.
    let page = Page::new()?;
    // The contract of `fork`: Python threads are vetoed while a zygote is built, native ones are
    // looked for here, as they may hold locks; and the child ends below. (OpenBLAS ends its own
    // before a fork, see `barriers.py`.)
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    if !maps.contains("openblas") && std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Ok(Some("a plugin started a thread".to_owned()));
    }
    match fork(py)? {
        Side::Child => {
            set_role(Role::Trial(page.share()));
            match verdict(py, function) {
                None => page.enter(),
                Some(reason) => page.refuse(&reason),
            }
            exit_now(0);
        }
        Side::Parent(pid) => {
            let status = process::wait_for(pid);
            let died = || format!("its trial {}", in_words(status));
            Ok((!page.entered()).then(|| page.refused().unwrap_or_else(died)))
        }
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
