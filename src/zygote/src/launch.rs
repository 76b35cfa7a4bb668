//! Gives the process a main thread on which no frame of ours lies, and runs the script there.
//!
//! Plain Python runs a script in the first frame of its main thread. Our bootstrap is a script
//! too, so code that it runs would have its frames beneath: visible in stack dumps, and one or
//! more off every recursion limit. Python makes the thread that forks the main thread of the
//! child; so a fresh thread, without any Python frame, forks, and its child runs the script.
//!
//! One thing Python (3.12 and 3.13) forgets to hand over then: its own pointer to the main thread's
//! state, which finalisation goes back to. [`hand_over_main_state`] does that.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict, PyTuple};

use crate::fork::{Side, fork};
use crate::leave;

/// Never returns: the calling process ends, its child goes on.
///
/// In the child, on its main thread, `enter()` is called; it gives `(code, globals)`, which is
/// then executed with no frame beneath it. Raises OSError if there is no thread to be had.
#[pyfunction]
pub(crate) fn launch(py: Python<'_>, enter: Py<PyAny>) -> PyResult<()> {
    // SAFETY: the interpreter is held.
    let former = unsafe { ffi::PyThreadState_Get() } as usize;
    std::thread::Builder::new()
        .stack_size(stack_size())
        .spawn(move || main_thread(enter, former))?;
    py.detach(|| {
        loop {
            // Ended by the other thread.
            std::thread::sleep(Duration::from_secs(3600));
        }
    })
}

/// What the kernel would let a main thread's stack grow to. Unlimited stands for 1 GiB: address
/// space, of which only touched pages cost memory.
fn stack_size() -> usize {
    let (soft, _) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_STACK)
        .unwrap_or((8 << 20, 0));
    (soft as usize).clamp(1 << 20, 1 << 30)
}

/// Replaces `former`, the state of the thread that was the main one and is gone in this child,
/// wherever the runtime still points to it.
///
/// Since Python 3.12 the first thread's state lies inside the runtime's own static memory
/// (`_PyRuntime`), in front of it a few pointers to it: `main_tstate`, and the interpreter lock's
/// last holder. Older versions keep no such pointer.
fn hand_over_main_state(former: usize) {
    /// The runtime of 3.13 has 290 kB in front of the first thread's state.
    const LARGEST: usize = 4 << 20;
    // SAFETY: looks a name up; the interpreter is held for the state.
    let (runtime, current) = unsafe {
        (
            libc::dlsym(libc::RTLD_DEFAULT, c"_PyRuntime".as_ptr()) as usize,
            ffi::PyThreadState_Get() as usize,
        )
    };
    if runtime == 0 || former <= runtime || former - runtime > LARGEST {
        return;
    }
    let words = (former - runtime) / size_of::<usize>();
    // SAFETY: all of it is one static object, aligned for pointers; no other thread lives in this
    // child that could read or write it.
    let words = unsafe { std::slice::from_raw_parts_mut(runtime as *mut usize, words) };
    for word in words.iter_mut().filter(|word| **word == former) {
        *word = current;
    }
}

fn main_thread(enter: Py<PyAny>, former: usize) {
    Python::attach(|py| {
        match fork(py) {
            Ok(Side::Child) => hand_over_main_state(former),
            // SAFETY: this process has nothing left to do; the child is an orphan of the daemon.
            Ok(Side::Parent(_)) => unsafe { libc::_exit(0) },
            Err(error) => {
                eprintln!("forking: {error}");
                // SAFETY: as above.
                unsafe { libc::_exit(1) }
            }
        }
        match enter
            .call0(py)
            .and_then(|pair| pair.extract::<(Py<PyAny>, Py<PyAny>)>(py))
        {
            Ok((code, globals)) => {
                drop(enter);
                // SAFETY: both are valid objects, the interpreter is held, and the result is
                // owned by `leave`.
                unsafe {
                    let result =
                        ffi::PyEval_EvalCode(code.as_ptr(), globals.as_ptr(), globals.as_ptr());
                    leave::leave(py, result)
                }
            }
            Err(error) => {
                error.print(py);
                // SAFETY: the daemon reads the traceback from the output file and our end from
                // the control channel.
                unsafe { libc::_exit(1) }
            }
        }
    });
}

/// A replacement for `builtins.__import__`: does what `original` does, and calls `callback()`
/// after the first import of one of `packages`, or below it, that code in `namespace` asks for.
/// A C function, so that it is not seen in any stack.
#[pyfunction]
pub(crate) fn on_import<'py>(
    py: Python<'py>,
    original: Py<PyAny>,
    packages: Vec<String>,
    namespace: Py<PyDict>,
    callback: Py<PyAny>,
) -> PyResult<Bound<'py, PyCFunction>> {
    let done = AtomicBool::new(false);
    PyCFunction::new_closure(
        py,
        Some(c"__import__"),
        None,
        move |args: &Bound<'_, PyTuple>,
              kwargs: Option<&Bound<'_, PyDict>>|
              -> PyResult<Py<PyAny>> {
            let py = args.py();
            let module = original.call(py, args, kwargs)?;
            let asked_here = args
                .get_item(1)
                .is_ok_and(|globals| globals.as_ptr() == namespace.as_ptr());
            let wanted = args
                .get_item(0)
                .ok()
                .and_then(|name| name.extract::<String>().ok())
                .is_some_and(|name| {
                    let package = name.split('.').next().unwrap_or_default();
                    packages.iter().any(|wanted| wanted == package)
                });
            if asked_here && wanted && !done.swap(true, Ordering::Relaxed) {
                callback.call0(py)?;
            }
            Ok(module)
        },
    )
}
