//! Reads that raise no audit event, seen as calls of C functions while plugins are loaded.
//!
//! Python calls a profile function before each call of a C function. Comparing the C function's
//! address tells reads of the clock, of random numbers, of the process, of terminals and of paths
//! from all others, without putting anything in their place that a plugin could keep.

use std::collections::{BTreeSet, HashMap};
use std::ffi::c_int;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::codes::{is_watched_code, may_be_watched_function, watch_code, watch_function};
use crate::distrust;
use crate::fail::fail_now;
use crate::loads;
use crate::seen::{absolute, looked_for, note_relative, seen};
use crate::timings;

unsafe extern "C" {
    // In every CPython since 3.9, and in the limited interface since 3.10.
    fn PyFrame_GetCode(frame: *mut ffi::PyObject) -> *mut ffi::PyObject;
    // In every CPython, with this signature: it is what profilers in C are set by. Not in the
    // limited interface, where `sys.setprofile` is the way, which makes four objects an event.
    fn PyEval_SetProfile(function: Option<TraceFunction>, arg: *mut ffi::PyObject);
}

/// `Py_tracefunc`: called with the argument, the frame, what happens, and what that concerns.
pub(crate) type TraceFunction =
    extern "C" fn(*mut ffi::PyObject, *mut ffi::PyObject, c_int, *mut ffi::PyObject) -> c_int;

/// Of `PyTrace_CALL` and so on in CPython's `pystate.h`.
const CALL: c_int = 0;
const RETURN: c_int = 3;
const C_CALL: c_int = 4;

/// What a C function's result depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Clock,
    Random,
    /// Seeds a generator: from the system's entropy if nothing is given.
    Seed,
    Process,
    Terminal,
    Cwd,
    Path,
    /// An entry of a directory is asked for more than its name and kind.
    Entry,
    Fork,
    /// Gives or takes a generator's state.
    State,
    /// Acts on what is not in this process's memory, or tells that a checkpoint is built.
    Outside,
}

struct State {
    kinds: HashMap<usize, Kind>,
    /// Of modules that are not loaded yet: the kinds of their functions, by module and name.
    late: HashMap<String, Vec<(String, Kind)>>,
    /// Those of which an import has begun.
    coming: BTreeSet<String>,
    /// The code of `importlib.util.find_spec`, which looks for a module without importing it.
    find_spec: Py<PyAny>,
    /// Directories: code of the standard library, and of pytest itself.
    stdlib: Vec<String>,
    core: Vec<String>,
    /// Ends of file names whose reads of a kind are made again in every child.
    known: Vec<(String, Kind)>,
    /// Paths of which only it was asked whether, and what, is there.
    probes: BTreeSet<PathBuf>,
    /// Paths of which more was asked.
    inspected: BTreeSet<PathBuf>,
    cwd: bool,
    terminal: bool,
    unseeded: Vec<Py<PyAny>>,
    /// Tells the state of numpy's global generator, and what it told first.
    numpy: Py<PyAny>,
    made: Option<Py<PyAny>>,
}

/// numpy's global generator is about to be made.
static NUMPY_COMES: AtomicBool = AtomicBool::new(false);

/// A module with functions to look for is about to be made.
static LATE_COMES: AtomicBool = AtomicBool::new(false);

/// This module is imported.
pub(crate) fn on_import(name: &str) {
    if let Ok(mut guard) = STATE.try_lock()
        && let Some(state) = guard.as_mut().filter(|state| state.late.contains_key(name))
    {
        state.coming.insert(name.to_owned());
        LATE_COMES.store(true, Ordering::Relaxed);
    }
    if STATE.try_lock().is_ok_and(|state| state.is_some()) && is_switched() {
        let stage = seen().stage.clone();
        fail_now(&stage, "`sys.dont_write_bytecode` was set for an import");
    }
    if name == "numpy.random.mtrand" || name == "numpy.random" {
        NUMPY_COMES.store(true, Ordering::Relaxed);
    }
}

static STATE: Mutex<Option<State>> = Mutex::new(None);

/// Whether somebody has set whether byte code is written. What is imported then may be written by
/// plain Python or not, whatever is said at the end. (`observe.py` sets a number of its own.)
fn is_switched() -> bool {
    const OURS: i64 = 2;
    // SAFETY: an audit hook holds the interpreter; the result is borrowed, or null.
    Python::attach(|py| unsafe {
        let value = ffi::PySys_GetObject(c"dont_write_bytecode".as_ptr());
        Bound::from_borrowed_ptr_or_opt(py, value)
            .is_none_or(|value| value.extract::<i64>().ok() != Some(OURS))
    })
}

/// Says which C functions to look for.
///
/// `functions` maps a kind's name to functions or bound methods of it; `late` are `(module, name,
/// kind)` of those in modules that may be loaded later; `find_spec` is the code of
/// `importlib.util.find_spec`; `stdlib` and `core` are prefixes of file names; `known` are `(end of
/// a file's name, kind)` of reads that do not count; `numpy` tells the state of its generator.
#[pyfunction]
pub(crate) fn observe(
    functions: &Bound<'_, PyDict>,
    late: Vec<(String, String, String)>,
    find_spec: Py<PyAny>,
    stdlib: Vec<String>,
    core: Vec<String>,
    known: Vec<(String, String)>,
    numpy: Py<PyAny>,
) -> PyResult<()> {
    let mut kinds = HashMap::new();
    for (name, group) in functions {
        let kind = kind_of(&name.extract::<String>()?)?;
        for function in group.try_iter()? {
            if let Some(address) = watch(&function?) {
                kinds.insert(address, kind);
            }
        }
    }
    let mut later: HashMap<String, Vec<(String, Kind)>> = HashMap::new();
    for (module, name, kind) in late {
        let names = later.entry(module).or_default();
        names.push((name, kind_of(&kind)?));
    }
    LATE_COMES.store(true, Ordering::Relaxed);
    watch_code(find_spec.as_ptr() as usize);
    *STATE.lock().expect("no panic while held") = Some(State {
        kinds,
        late: later,
        coming: BTreeSet::new(),
        find_spec,
        stdlib,
        core,
        known: known
            .into_iter()
            .map(|(file, kind)| Ok((file, kind_of(&kind)?)))
            .collect::<PyResult<_>>()?,
        probes: BTreeSet::new(),
        inspected: BTreeSet::new(),
        cwd: false,
        terminal: false,
        unseeded: Vec::new(),
        numpy,
        made: None,
    });
    Ok(())
}

fn kind_of(name: &str) -> PyResult<Kind> {
    Ok(match name {
        "clock" => Kind::Clock,
        "random" => Kind::Random,
        "seed" => Kind::Seed,
        "process" => Kind::Process,
        "terminal" => Kind::Terminal,
        "cwd" => Kind::Cwd,
        "path" => Kind::Path,
        "entry" => Kind::Entry,
        "fork" => Kind::Fork,
        "state" => Kind::State,
        "outside" => Kind::Outside,
        other => {
            let text = format!("no kind `{other}`");
            return Err(pyo3::exceptions::PyValueError::new_err(text));
        }
    })
}

/// What was found since [`observe`]: `{"probes", "inspected", "cwd", "terminal", "unseeded",
/// "numpy"}`.
#[pyfunction]
pub(crate) fn findings(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let found = PyDict::new(py);
    loads::forget();
    if let Some(state) = STATE.lock().expect("no panic while held").take() {
        let probes: Vec<_> = state.probes.into_iter().collect();
        found.set_item("probes", probes)?;
        let inspected: Vec<_> = state.inspected.into_iter().collect();
        found.set_item("inspected", inspected)?;
        found.set_item("cwd", state.cwd)?;
        found.set_item("terminal", state.terminal)?;
        found.set_item("unseeded", PyList::new(py, state.unseeded)?)?;
        found.set_item("numpy", state.made)?;
    }
    Ok(found)
}

/// What [`findings`] would tell as `"numpy"`.
#[pyfunction]
pub(crate) fn numpy_made(py: Python<'_>) -> Option<Py<PyAny>> {
    let state = STATE.lock().expect("no panic while held");
    state.as_ref()?.made.as_ref().map(|made| made.clone_ref(py))
}

/// The address of the C code behind a built-in function or method.
///
/// # Safety
/// It is an object, or null; the interpreter is held.
unsafe fn address(function: *mut ffi::PyObject) -> Option<usize> {
    // SAFETY: the type is checked before the function's C pointer is asked for.
    unsafe {
        if function.is_null() || ffi::PyCFunction_Check(function) == 0 {
            return None;
        }
        ffi::PyCFunction_GetFunction(function).map(|f| f as usize)
    }
}

/// That of `function`, which is looked at from here on.
fn watch(function: &Bound<'_, PyAny>) -> Option<usize> {
    // SAFETY: it lives as long as the reference.
    let at = unsafe { address(function.as_ptr()) }?;
    watch_function(at);
    Some(at)
}

/// Begins to look at all calls, or ends it.
#[pyfunction]
pub(crate) fn watch_calls(on: bool) {
    let function: Option<TraceFunction> = if on { Some(on_event) } else { None };
    // SAFETY: the interpreter is held; an argument is not needed.
    unsafe { PyEval_SetProfile(function, std::ptr::null_mut()) };
}

/// Called by Python at each event. `arg` is null where a function raises.
extern "C" fn on_event(
    _: *mut ffi::PyObject,
    frame: *mut ffi::PyObject,
    what: c_int,
    arg: *mut ffi::PyObject,
) -> c_int {
    timings::on_event();
    let is_coming = NUMPY_COMES.load(Ordering::Relaxed) || LATE_COMES.load(Ordering::Relaxed);
    // SAFETY: what Python calls a profile function with are a frame and, of a call of a C
    // function, that function; both live during the call.
    let concerns = unsafe {
        match what {
            CALL | RETURN => is_watched_code(code_of(frame)),
            C_CALL => address(arg).is_some_and(may_be_watched_function),
            _ => false,
        }
    };
    if !concerns && !is_coming {
        return 0;
    }
    // SAFETY: the interpreter is held, and the pointers are as above.
    let done = unsafe {
        let py = Python::assume_attached();
        let frame = Bound::from_borrowed_ptr(py, frame);
        let arg = Bound::from_borrowed_ptr_or_opt(py, arg);
        look_at(&frame, what, arg, concerns)
    };
    match done {
        Ok(()) => 0,
        Err(error) => {
            // SAFETY: as above.
            error.restore(unsafe { Python::assume_attached() });
            -1
        }
    }
}

/// # Safety
/// `frame` is a frame; the interpreter is held.
unsafe fn code_of(frame: *mut ffi::PyObject) -> usize {
    // SAFETY: gives a new reference. The frame holds another.
    unsafe {
        let code = PyFrame_GetCode(frame);
        ffi::Py_DECREF(code);
        code as usize
    }
}

fn look_at(
    frame: &Bound<'_, PyAny>,
    what: c_int,
    arg: Option<Bound<'_, PyAny>>,
    concerns: bool,
) -> PyResult<()> {
    if NUMPY_COMES.load(Ordering::Relaxed) {
        note_numpy(frame.py())?;
    }
    if LATE_COMES.load(Ordering::Relaxed) {
        note_late(frame.py())?;
    }
    let arg = arg.unwrap_or_else(|| frame.py().None().into_bound(frame.py()));
    match what {
        CALL if concerns => {
            on_call(frame)?;
            loads::on_event(frame, None)
        }
        RETURN if concerns => {
            timings::on_return(frame, &arg);
            loads::on_event(frame, Some(&arg))
        }
        C_CALL => on_c_call(frame, &arg),
        _ => Ok(()),
    }
}

fn on_c_call(frame: &Bound<'_, PyAny>, arg: &Bound<'_, PyAny>) -> PyResult<()> {
    // SAFETY: it lives as long as the reference.
    let Some(at) = (unsafe { address(arg.as_ptr()) }) else {
        return Ok(());
    };
    let Ok(mut guard) = STATE.try_lock() else {
        return Ok(());
    };
    let Some(state) = guard.as_mut() else {
        return Ok(());
    };
    let Some(kind) = state.kinds.get(&at).copied() else {
        return Ok(());
    };
    let Some(by) = state.asker(frame, kind) else {
        return Ok(());
    };
    match kind {
        Kind::Cwd => state.cwd = true,
        Kind::Terminal => state.terminal = true,
        Kind::Path => match state.probed(frame) {
            Some((path, true)) if path == "/proc/self" => {}
            Some((path, true)) => {
                note_relative(&path);
                state.probes.insert(absolute(&path));
            }
            Some((path, false)) => {
                note_relative(&path);
                state.inspected.insert(absolute(&path));
            }
            None => impure(arg, "looks at a path", &by),
        },
        Kind::Seed => {
            // `random.Random.seed(self, a=None)` of the standard library is the caller.
            let locals = frame.getattr("f_locals")?;
            match (locals.get_item("self"), locals.get_item("a")) {
                (Ok(generator), Ok(seed)) if seed.is_none() => {
                    state.unseeded.push(generator.unbind());
                }
                // Python seeds its own generator anew in a child, so this would be lost.
                (Ok(generator), Ok(_)) if is_the_global_generator(&generator) => {
                    impure(arg, "seeds the global generator", &by)
                }
                (Ok(_), Ok(_)) => {}
                _ => impure(arg, "seeds a generator", &by),
            }
        }
        Kind::Entry => {
            let place = arg.getattr("__self__")?.getattr("path")?;
            match place.extract::<PathBuf>() {
                Ok(path) => {
                    note_relative(&path);
                    state.inspected.insert(absolute(&path));
                }
                Err(_) => impure(arg, "looks at a path", &by),
            }
        }
        Kind::State => {
            // `getstate` and `setstate` of `random.Random` are the callers.
            let generator = frame.getattr("f_locals")?.get_item("self");
            let is_unseeded = |g: &Bound<'_, PyAny>| {
                is_the_global_generator(g) || state.unseeded.iter().any(|u| u.is(g))
            };
            if !generator.is_ok_and(|g| !is_unseeded(&g)) {
                impure(
                    arg,
                    "keeps the state of a generator that is seeded anew",
                    &by,
                )
            }
        }
        // Announced by an audit event, where that is allowed.
        Kind::Outside if file_of(frame)?.ends_with("/subprocess.py") => {}
        Kind::Outside => impure(arg, "does what a fork cannot carry over", &by),
        Kind::Clock => impure(arg, "reads the clock", &by),
        Kind::Random => impure(arg, "draws a random number", &by),
        Kind::Process => impure(arg, "asks for the process's identity", &by),
        Kind::Fork => impure(arg, "registers for forks or signals", &by),
    }
    Ok(())
}

/// Notes the state of numpy's generator as soon as there is one: before any code of the user's.
fn note_numpy(py: Python<'_>) -> PyResult<()> {
    let numpy = match STATE.try_lock() {
        Ok(guard) => guard.as_ref().map(|state| state.numpy.clone_ref(py)),
        Err(_) => None,
    };
    let Some(numpy) = numpy else { return Ok(()) };
    let state = numpy.call0(py)?;
    if !state.is_none(py) {
        NUMPY_COMES.store(false, Ordering::Relaxed);
        if let Some(found) = STATE.lock().expect("no panic while held").as_mut() {
            found.made = Some(state);
        }
    }
    Ok(())
}

fn file_of(frame: &Bound<'_, PyAny>) -> PyResult<String> {
    frame.getattr("f_code")?.getattr("co_filename")?.extract()
}

/// Looks for functions of modules that have been loaded since.
fn note_late(py: Python<'_>) -> PyResult<()> {
    let modules = py.import("sys")?.getattr("modules")?;
    let Ok(mut guard) = STATE.try_lock() else {
        return Ok(());
    };
    let Some(state) = guard.as_mut() else {
        return Ok(());
    };
    let kinds = &mut state.kinds;
    state.late.retain(|module, names| {
        let Ok(module) = modules.get_item(module) else {
            return true;
        };
        for (name, kind) in names.iter() {
            if let Some(at) = module.getattr(name.as_str()).ok().and_then(|f| watch(&f)) {
                kinds.insert(at, *kind);
            }
        }
        false
    });
    let late = &state.late;
    state.coming.retain(|module| late.contains_key(module));
    LATE_COMES.store(!state.coming.is_empty(), Ordering::Relaxed);
    Ok(())
}

/// Notes what is looked for as if it was to be imported, and what is loaded.
fn on_call(frame: &Bound<'_, PyAny>) -> PyResult<()> {
    // SAFETY: what Python calls a profile function with is a frame; a new reference to its code
    // is given.
    let code = unsafe { Bound::from_owned_ptr(frame.py(), PyFrame_GetCode(frame.as_ptr())) };
    if let Some(name) = timings::on_call(frame, code.as_ptr() as usize) {
        // Of `importlib.import_module` no event tells.
        distrust::on_load(&name);
        looked_for(name);
    }
    let is_search = STATE.try_lock().is_ok_and(|guard| {
        let search = guard.as_ref().map(|state| state.find_spec.as_ptr());
        search == Some(code.as_ptr())
    });
    if is_search {
        let name = frame.getattr("f_locals")?.get_item("name")?;
        looked_for(name.extract()?);
    }
    Ok(())
}

/// Ends a build that read what no trace can hold.
fn impure(function: &Bound<'_, PyAny>, what: &str, by: &str) -> ! {
    let name = function
        .getattr("__name__")
        .and_then(|n| n.extract::<String>())
        .unwrap_or_default();
    let stage = seen().stage.clone();
    fail_now(&stage, &format!("`{by}` {what} (`{name}`)"))
}

/// Whether `Path.stat` of `pathlib`, running in `frame` of this file, is asked by one of its own
/// methods that only tell of what kind something is: `Path.is_dir`.
fn is_asked_for_kind(frame: &Bound<'_, PyAny>, file: &str) -> PyResult<bool> {
    let code = frame.getattr("f_back")?.getattr("f_code")?;
    let name: String = code.getattr("co_name")?.extract()?;
    let is_own = code.getattr("co_filename")?.extract::<String>()? == file;
    Ok(is_own && (name.starts_with("is_") || name == "exists"))
}

fn is_the_global_generator(generator: &Bound<'_, PyAny>) -> bool {
    generator
        .py()
        .import("random")
        .and_then(|random| random.getattr("_inst"))
        .is_ok_and(|global| global.as_ptr() == generator.as_ptr())
}

impl State {
    /// The file of the code on whose behalf the call is made, if it is neither the import system,
    /// nor the body of a standard module, nor pytest itself (whose reads are made again or
    /// compared when a worker is let go).
    fn asker(&self, frame: &Bound<'_, PyAny>, kind: Kind) -> Option<String> {
        let mut frame = frame.clone();
        loop {
            let code = frame.getattr("f_code").ok()?;
            let file: String = code.getattr("co_filename").ok()?.extract().ok()?;
            if file.starts_with("<frozen importlib") {
                return None;
            }
            if self
                .core
                .iter()
                .any(|prefix| file.starts_with(prefix.as_str()))
            {
                return None;
            }
            let standard = self.is_standard(&file);
            if !standard {
                let known =
                    |(end, of): &(String, Kind)| *of == kind && file.ends_with(end.as_str());
                return (!self.known.iter().any(known)).then_some(file);
            }
            if kind == Kind::Path && file.contains("/importlib/metadata") {
                // The search for distributions: recorded as such.
                return None;
            }
            let name: String = code.getattr("co_name").ok()?.extract().ok()?;
            if name == "<module>" {
                return None;
            }
            let back = frame.getattr("f_back").ok()?;
            if back.is_none() {
                return None;
            }
            frame = back;
        }
    }

    /// The path that a function of the standard library is asking for, by the names that such
    /// functions give it, and whether only for what is there. `None` if anything else is asking.
    fn probed(&self, frame: &Bound<'_, PyAny>) -> Option<(String, bool)> {
        let code = frame.getattr("f_code").ok()?;
        let file: String = code.getattr("co_filename").ok()?.extract().ok()?;
        if !self.is_standard(&file) {
            return None;
        }
        let asking: String = code.getattr("co_name").ok()?.extract().ok()?;
        // `os.path.getmtime` and the like, and `Path.stat`, give more than a kind.
        let only_kind = match asking.as_str() {
            "stat" | "lstat" => is_asked_for_kind(frame, &file).unwrap_or(false),
            asking => !asking.starts_with("get"),
        };
        let locals = frame.getattr("f_locals").ok()?;
        let resolves = asking.contains("realpath");
        for name in ["newpath", "path", "s", "filename", "self"] {
            let Ok(value) = locals.get_item(name) else {
                continue;
            };
            let text = value
                .extract::<String>()
                .or_else(|_| value.call_method0("__fspath__")?.extract::<String>());
            if let Ok(text) = text {
                // It is there for every process, and leads to another place for each.
                let is_own = text == "/proc/self";
                return (!is_own || !resolves).then_some((text, only_kind));
            }
        }
        None
    }

    fn is_standard(&self, file: &str) -> bool {
        file.starts_with("<frozen ")
            || (self
                .stdlib
                .iter()
                .any(|prefix| file.starts_with(prefix.as_str()))
                && !file.contains("/site-packages/"))
    }
}
