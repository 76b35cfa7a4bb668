//! The end of a worker: as the interpreter would end, or the short way where nothing is lost.
//!
//! Finalising an interpreter destroys every object, which costs 6 to 300 ms in a forked child
//! (each touched page is copied first) and does nothing that anybody sees, unless some object
//! waits for it: an open file with a buffer, a suspended generator with a `finally`, an object
//! with `__del__`. So they are looked for, among the objects made since the fork; if there is
//! any, the interpreter is finalised as usual.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::exceptions::{PyKeyboardInterrupt, PySystemExit};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::ends::{End, Types, has_foreign_callback, standard_streams, waits};
use crate::fail::end_early;
use crate::{audit, role};

/// Ends the process after its script. `result` is owned: what the script's code gave, or null
/// with an exception set.
pub(crate) fn leave(py: Python<'_>, result: *mut ffi::PyObject) -> ! {
    if role::is_building() || role::is_trial() {
        end_early();
    }
    let running = role::running();
    if let Some(running) = &running {
        running.page.done();
    }
    let note = |path| {
        if let Some(running) = &running {
            running.page.set_exit(path);
        }
    };
    let error = (result.is_null()).then(|| PyErr::take(py)).flatten();
    let interrupted = error
        .as_ref()
        .is_some_and(|e| e.is_instance_of::<PyKeyboardInterrupt>(py));
    let mut code = match error {
        None => 0,
        Some(error) => status_of(py, error),
    };
    audit::set_mode(audit::Mode::Off);
    let is_down = shut_down(py);
    if let Some(running) = &running
        && let Some(lesson) = running.lesson
    {
        lesson.write_down(&running.page);
    }
    if is_down && with_room(|| nothing_waits(py)) && flush(py) {
        note(1);
    } else {
        note(2);
        // The collector looks at everything again, as it does when plain Python ends.
        let _ = py.import("gc").and_then(|gc| gc.call_method0("unfreeze"));
        // SAFETY: the interpreter is held by this, the main thread; it is not used afterwards.
        if unsafe { ffi::Py_FinalizeEx() } < 0 {
            code = 120;
        }
    }
    if interrupted {
        // As Python does for an unhandled KeyboardInterrupt, so that a shell sees the signal.
        // SAFETY: plain calls on this process; C buffers are flushed as `exit` would.
        unsafe {
            libc::fflush(std::ptr::null_mut());
            libc::signal(libc::SIGINT, libc::SIG_DFL);
            libc::kill(libc::getpid(), libc::SIGINT);
        }
        code = 128 + libc::SIGINT;
    }
    // SAFETY: runs the C library's exit handlers and ends the process.
    unsafe { libc::exit(code) }
}

/// The exit status for what ended the script; prints what Python would print of it.
fn status_of(py: Python<'_>, error: PyErr) -> i32 {
    if !error.is_instance_of::<PySystemExit>(py) || std::env::var_os("PYTHONINSPECT").is_some() {
        // With PYTHONINSPECT Python prints a SystemExit and goes on; it is printed here too.
        error.print(py);
        return 1;
    }
    let value = error.value(py);
    let code = value
        .getattr("code")
        .unwrap_or_else(|_| py.None().into_bound(py));
    if code.is_none() {
        return 0;
    }
    if let Ok(number) = code.extract::<i64>() {
        return number as i32;
    }
    // Lets Python print it: the very same SystemExit, without ending here.
    let printed = py
        .import("sys")
        .and_then(|sys| sys.getattr("stderr"))
        .and_then(|stderr| {
            stderr.call_method1("write", (code.str()?,))?;
            stderr.call_method1("write", ("\n",))
        });
    drop(printed);
    1
}

/// What an interpreter does first when it ends: joins threads, runs atexit handlers. False if
/// something is amiss that only the full way deals with.
fn shut_down(py: Python<'_>) -> bool {
    let modules = match py.import("sys").and_then(|sys| sys.getattr("modules")) {
        Ok(modules) => modules,
        Err(_) => return false,
    };
    for (module, function) in [("threading", "_shutdown"), ("atexit", "_run_exitfuncs")] {
        let Ok(module) = modules.get_item(module) else {
            continue;
        };
        match module.call_method0(function) {
            // Python 3.9 gives the last handler's error, which has been told of, and drops it when
            // it ends itself.
            Ok(_) => {}
            Err(_) if function == "_run_exitfuncs" => {}
            Err(error) => error.write_unraisable(py, Some(&module)),
        }
    }
    true
}

/// Flushes the standard streams. False if one cannot be flushed: finalisation says so and sets
/// the status.
fn flush(py: Python<'_>) -> bool {
    let Ok(sys) = py.import("sys") else {
        return false;
    };
    // The last two may be others, to which what is in the place of the first two has written.
    for name in ["stdout", "stderr", "__stdout__", "__stderr__"] {
        let Ok(stream) = sys.getattr(name) else {
            continue;
        };
        if stream.is_none() {
            continue;
        }
        let closed = stream
            .getattr("closed")
            .and_then(|c| c.is_truthy())
            .unwrap_or(false);
        if !closed && stream.call_method0("flush").is_err() {
            return false;
        }
    }
    true
}

/// Set in a zygote that holds an object with something to do at the end: its workers' scans do
/// not see what was there before the fork.
static INHERITED: AtomicBool = AtomicBool::new(false);

/// Looks through what this zygote is about to keep from its children's collectors. `generators`
/// says whether those count: while plugins are loaded, the suspended ones belong to calls on the
/// stack, which will return. `gc` is given, as importing it would show in `sys.modules` before
/// pytest has.
#[pyfunction]
pub(crate) fn survey(py: Python<'_>, gc: &Bound<'_, PyAny>, generators: bool) {
    if !look(py, gc, generators).unwrap_or(false) {
        INHERITED.store(true, Ordering::Relaxed);
    }
}

/// Whether this suspended generator or coroutine has something to do when it ends.
#[pyfunction]
#[pyo3(name = "waits")]
pub(crate) fn generator_waits(generator: &Bound<'_, PyAny>) -> PyResult<bool> {
    waits(generator, true)
}

/// Calls `look` with as much memory as the process may have: a test may have lowered that, and
/// ours would end by a signal where it runs out.
fn with_room<T>(look: impl FnOnce() -> T) -> T {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let lowered: Vec<_> = [Resource::RLIMIT_AS, Resource::RLIMIT_DATA]
        .into_iter()
        .filter_map(|resource| Some((resource, getrlimit(resource).ok()?)))
        .filter(|(_, (soft, hard))| soft < hard)
        .collect();
    for (resource, (_, hard)) in &lowered {
        let _ = setrlimit(*resource, *hard, *hard);
    }
    let found = look();
    for (resource, (soft, hard)) in &lowered {
        let _ = setrlimit(*resource, *soft, *hard);
    }
    found
}

/// True if no object has something to do at the end.
fn nothing_waits(py: Python<'_>) -> bool {
    !INHERITED.load(Ordering::Relaxed)
        && py
            .import("gc")
            .and_then(|gc| Ok(!has_foreign_callbacks(&gc)? && look(py, &gc, true)?))
            .unwrap_or(false)
}

/// Packages whose functions in `gc.callbacks` only keep time.
const TIMEKEEPERS: [&str; 1] = ["hypothesis"];

/// Whether somebody is told of the collection that the end of an interpreter begins with.
fn has_foreign_callbacks(gc: &Bound<'_, PyAny>) -> PyResult<bool> {
    for callback in gc.getattr("callbacks")?.try_iter()? {
        let module = callback?.getattr("__module__").map(|name| name.to_string());
        let name = module.unwrap_or_default();
        let package = name.split('.').next().unwrap_or_default();
        if !TIMEKEEPERS.contains(&package) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn look(py: Python<'_>, gc: &Bound<'_, PyAny>, generators: bool) -> PyResult<bool> {
    let streams = standard_streams(py)?;
    let weak_type = py.import("_weakref")?.getattr("ref")?.as_ptr();
    let objects = gc.call_method0("get_objects")?.cast_into::<PyList>()?;
    let mut types = Types::new(py)?;
    let mut known: HashSet<*mut ffi::PyTypeObject> = HashSet::new();
    let mut latest = std::ptr::null_mut();
    for at in 0..objects.len() {
        // Borrowed: counting a reference would write to each object.
        // SAFETY: the list lives and keeps its length; a live object has a live type.
        let (object, kind) = unsafe {
            let object = ffi::PyList_GetItem(objects.as_ptr(), at as ffi::Py_ssize_t);
            (object, ffi::Py_TYPE(object))
        };
        if kind == latest || known.contains(&kind) {
            latest = kind;
            continue;
        }
        // SAFETY: an item of the list.
        let object = unsafe { Bound::from_borrowed_ptr(py, object) };
        if kind.cast() == weak_type {
            if has_foreign_callback(&object) {
                return Ok(false);
            }
            continue;
        }
        let left = match types.end_of(&object)? {
            End::Nothing => {
                known.insert(kind);
                false
            }
            End::Unknown => true,
            End::Del => !streams.contains(&object.as_ptr()) && waits(&object, generators)?,
        };
        if left {
            return Ok(false);
        }
    }
    Ok(true)
}
