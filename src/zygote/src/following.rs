//! A module's execution that is left between two statements and goes on in other code: that of the
//! same file, edited since (`open_modules.py`).
//!
//! Loaders execute a module by the builtin `exec`. Its stand-in is a C function, so it has no frame
//! and is seen in no traceback: the frame that goes on lies where the one lay that was left.

use std::ffi::c_int;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict, PyTuple, PyType};

use crate::profile::{CALL, RETURN, code_of, set_profile};

/// A stand-in for `exec(code, namespace)`. Of the namespaces whose addresses are in `left`,
/// `follow(namespace, has_left)` is asked when `code` has come to its end, or has raised `Left`, for
/// what to execute then: another code, or `None` for nothing. (Not `has_left`: it has raised
/// something else.)
#[pyfunction]
pub(crate) fn executing<'py>(
    py: Python<'py>,
    natural: Py<PyAny>,
    left: Py<PyDict>,
    raised: Py<PyType>,
    follow: Py<PyAny>,
) -> PyResult<Bound<'py, PyCFunction>> {
    PyCFunction::new_closure(
        py,
        Some(c"exec"),
        None,
        move |args: &Bound<'_, PyTuple>, kwargs: Option<&Bound<'_, PyDict>>| {
            let py = args.py();
            let mut result = natural.call(py, args, kwargs);
            let Ok(namespace) = args.get_item(1) else {
                return result;
            };
            let left = left.bind(py);
            // What follows may be left in turn.
            while !left.is_empty() && left.contains(namespace.as_ptr() as usize)? {
                let has_left = match &result {
                    Ok(_) => true,
                    Err(error) => error.is_instance(py, raised.bind(py)),
                };
                let code = follow.call1(py, (&namespace, has_left))?;
                if !has_left {
                    break;
                }
                // With the traceback goes the frame that was left.
                drop(result);
                if code.is_none(py) {
                    return Ok(py.None());
                }
                result = natural.call1(py, (code, &namespace));
            }
            result
        },
    )
}

/// A trace function is about to raise, for which Python takes it away: an event of the frame that is
/// left.
static LEAVING: AtomicBool = AtomicBool::new(false);

/// In a build: a trace function of ours is about to raise.
#[pyfunction]
pub(crate) fn leaving() {
    LEAVING.store(true, Ordering::Relaxed);
}

/// Whether it has just done so. True once.
pub(crate) fn is_leaving() -> bool {
    LEAVING.swap(false, Ordering::Relaxed)
}

static FOLLOWED: AtomicUsize = AtomicUsize::new(0);
static ON_LOAD: Mutex<Option<Py<PyAny>>> = Mutex::new(None);

/// In a worker: has `on_load(begins)` called whenever a function with this code begins or ends.
#[pyfunction]
pub(crate) fn follow_loads(code: &Bound<'_, PyAny>, on_load: Py<PyAny>) {
    FOLLOWED.store(code.as_ptr() as usize, Ordering::Relaxed);
    *ON_LOAD.lock().expect("no panic while held") = Some(on_load);
    set_profile(Some(on_event));
}

/// Ends that.
#[pyfunction]
pub(crate) fn follow_no_more() {
    set_profile(None);
    let on_load = ON_LOAD.lock().expect("no panic while held").take();
    drop(on_load);
}

/// See `profile::on_event`.
extern "C" fn on_event(
    _: *mut ffi::PyObject,
    frame: *mut ffi::PyObject,
    what: c_int,
    _: *mut ffi::PyObject,
) -> c_int {
    // SAFETY: Python calls a profile function with a frame, and with the interpreter held.
    let is_followed = matches!(what, CALL | RETURN)
        && unsafe { code_of(frame) } == FOLLOWED.load(Ordering::Relaxed);
    if !is_followed {
        return 0;
    }
    // SAFETY: as above.
    let py = unsafe { Python::assume_attached() };
    let on_load = {
        let on_load = ON_LOAD.lock().expect("no panic while held");
        on_load.as_ref().map(|on_load| on_load.clone_ref(py))
    };
    match on_load.map(|on_load| on_load.call1(py, (what == CALL,))) {
        Some(Err(error)) => {
            error.restore(py);
            -1
        }
        _ => 0,
    }
}
