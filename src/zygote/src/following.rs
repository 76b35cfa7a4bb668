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

use crate::profile::TraceFunction;

/// How the execution of a module's code has ended.
#[derive(Debug, Clone, Copy)]
enum How {
    Ended = 0,
    Left = 1,
    Raised = 2,
}

/// A stand-in for `exec(code, namespace)`. Where the address of a namespace is in `open` when its code
/// has come to an end, `ended(namespace, how, tracer)` is asked for what to execute then, another code
/// or `None` for nothing, and for the trace function to set. `how` is 0, 1 where `left` was raised, or
/// 2 where something else was; `tracer` is the trace function, which is not told of that call.
#[pyfunction]
pub(crate) fn executing<'py>(
    py: Python<'py>,
    natural: Py<PyAny>,
    open: Py<PyDict>,
    left: Py<PyType>,
    ended: Py<PyAny>,
) -> PyResult<Bound<'py, PyCFunction>> {
    let builtins = py.import("builtins")?.dict().unbind();
    PyCFunction::new_closure(
        py,
        Some(c"exec"),
        None,
        move |args: &Bound<'_, PyTuple>, kwargs: Option<&Bound<'_, PyDict>>| {
            let py = args.py();
            let exec = builtins.bind(py).get_item("exec")?;
            let (Ok(code), Ok(namespace)) = (args.get_item(0), args.get_item(1)) else {
                return exec.map_or(Ok(py.None()), |exec| Ok(exec.call(args, kwargs)?.unbind()));
            };
            let is_natural = exec.as_ref().is_none_or(|exec| exec.is(&natural));
            let mut result = match exec {
                // Somebody has put another one there.
                Some(exec) if !is_natural => exec.call(args, kwargs).map(Bound::unbind),
                _ => execute(&code, &namespace),
            };
            // What follows may be left in turn.
            while open.bind(py).contains(namespace.as_ptr() as usize)? {
                let how = match &result {
                    Ok(_) => How::Ended,
                    Err(error) if error.is_instance(py, left.bind(py)) => How::Left,
                    Err(_) => How::Raised,
                };
                let code = unseen(py, |tracer| {
                    ended
                        .call1(py, (&namespace, how as u8, tracer))?
                        .extract(py)
                })?;
                let Some(code) = code else { break };
                // With the traceback goes the frame that was left.
                drop(result);
                result = execute(&code, &namespace);
            }
            result
        },
    )
}

/// Makes a call that nobody is told of who traces or profiles; it gives the trace function to set.
fn unseen<'py>(
    py: Python<'py>,
    call: impl FnOnce(&Bound<'py, PyAny>) -> PyResult<(Option<Py<PyAny>>, Bound<'py, PyAny>)>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let sys = py.import("sys")?;
    let (tracer, profiler) = (
        sys.call_method0("gettrace")?,
        sys.call_method0("getprofile")?,
    );
    if !tracer.is_none() {
        sys.call_method1("settrace", (py.None(),))?;
    }
    if !profiler.is_none() {
        sys.call_method1("setprofile", (py.None(),))?;
    }
    let called = call(&tracer);
    let (code, tracer) = match called {
        Ok((code, tracer)) => (Ok(code), tracer),
        Err(error) => (Err(error), tracer),
    };
    if !profiler.is_none() {
        sys.call_method1("setprofile", (profiler,))?;
    }
    if !tracer.is_none() {
        sys.call_method1("settrace", (tracer,))?;
    }
    Ok(code?.map(|code| code.into_bound(py)))
}

/// What the builtin does, without the one call more that would count in how deep calls may go.
fn execute(code: &Bound<'_, PyAny>, namespace: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
    let py = code.py();
    let names = namespace.cast::<PyDict>()?;
    // SAFETY: the interpreter is held; the first gives a borrowed reference, the second a new one or
    // null with an exception set.
    unsafe {
        if !names.contains("__builtins__")? {
            let builtins = Bound::from_borrowed_ptr(py, ffi::PyEval_GetBuiltins());
            names.set_item("__builtins__", builtins)?;
        }
        let at = namespace.as_ptr();
        let result = ffi::PyEval_EvalCode(code.as_ptr(), at, at);
        Bound::from_owned_ptr_or_err(py, result).map(Bound::unbind)
    }
}

unsafe extern "C" {
    // As `PyEval_SetProfile`: see `profile.rs`.
    fn PyEval_SetTrace(function: Option<TraceFunction>, arg: *mut ffi::PyObject);
    fn PyFrame_GetLineNumber(frame: *mut ffi::PyObject) -> c_int;
}

/// `PyTrace_LINE` in CPython's `pystate.h`.
const LINE: c_int = 2;

/// The frame that is to be left, and behind which line.
static FRAME: AtomicUsize = AtomicUsize::new(0);
static BEHIND: AtomicUsize = AtomicUsize::new(0);
static RAISED: Mutex<Option<Py<PyAny>>> = Mutex::new(None);

/// Has `left` raised in this frame at its next statement behind `line`, by a trace function that
/// `sys.gettrace` does not show.
#[pyfunction]
pub(crate) fn leave_frame(frame: &Bound<'_, PyAny>, line: usize, left: Py<PyAny>) {
    FRAME.store(frame.as_ptr() as usize, Ordering::Relaxed);
    BEHIND.store(line, Ordering::Relaxed);
    *RAISED.lock().expect("no panic while held") = Some(left);
    // SAFETY: the interpreter is held; an argument is not needed.
    unsafe { PyEval_SetTrace(Some(on_event), std::ptr::null_mut()) };
}

/// It need not any more.
#[pyfunction]
pub(crate) fn leave_no_frame() {
    if FRAME.swap(0, Ordering::Relaxed) != 0
        && RAISED.lock().is_ok_and(|mut it| it.take().is_some())
    {
        // SAFETY: as above.
        unsafe { PyEval_SetTrace(None, std::ptr::null_mut()) };
    }
}

extern "C" fn on_event(
    _: *mut ffi::PyObject,
    frame: *mut ffi::PyObject,
    what: c_int,
    _: *mut ffi::PyObject,
) -> c_int {
    if what != LINE || frame as usize != FRAME.load(Ordering::Relaxed) {
        return 0;
    }
    // SAFETY: Python calls a trace function with a frame, and with the interpreter held.
    let line = usize::try_from(unsafe { PyFrame_GetLineNumber(frame) }).unwrap_or_default();
    if line <= BEHIND.load(Ordering::Relaxed) {
        return 0;
    }
    let raised = RAISED.lock().ok().and_then(|mut it| it.take());
    leaving();
    // SAFETY: as above.
    unsafe {
        PyEval_SetTrace(None, std::ptr::null_mut());
        is_leaving();
        match raised {
            Some(left) => {
                ffi::PyErr_SetNone(left.as_ptr());
                -1
            }
            None => 0,
        }
    }
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
