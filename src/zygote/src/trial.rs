//! A call in a forked child, of which only a verdict comes back: the process that forks it is left
//! as it was, whatever the call does.

use pyo3::prelude::*;
use pyseidon::process;

use crate::fork::{Side, fork};
use crate::page::Page;
use crate::role::{Role, exit_now, os_error, set_role};

/// Calls `function` in a forked trial. Returns what that returned (a reason, or `None`), or why
/// it came to nothing: it raised, did what is vetoed, or died.
#[pyfunction]
pub(crate) fn attempt(py: Python<'_>, function: Py<PyAny>) -> PyResult<Option<String>> {
    // Not a pipe: the trial looks for descriptors that were left open.
    let page = Page::new().map_err(os_error)?;
    match fork(py).map_err(os_error)? {
        Side::Child => {
            set_role(Role::Trial(page.share()));
            match function.call0(py).and_then(|r| r.extract(py)) {
                Ok(None) => page.enter(),
                Ok(Some(reason)) => {
                    let reason: String = reason;
                    page.refuse(&reason);
                }
                Err(error) => page.refuse(&format!("it raised {error}")),
            }
            exit_now(0);
        }
        Side::Parent(pid) => {
            let status = process::wait_for(pid);
            let died = || format!("a trial ended with wait status {status:?}");
            Ok((!page.entered()).then(|| page.refused().unwrap_or_else(died)))
        }
    }
}
