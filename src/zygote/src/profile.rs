//! Reads that raise no audit event, seen as calls of C functions while plugins are loaded.
//!
//! Python calls a profile function before each call of a C function. Comparing the C function's
//! address tells reads of the clock, of random numbers, of the process, of terminals and of paths
//! from all others, without putting anything in their place that a plugin could keep.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Mutex;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::audit::{self, absolute};
use crate::serve;

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
    Fork,
}

struct State {
    kinds: HashMap<usize, Kind>,
    /// Directories: code of the standard library, and of pytest itself.
    stdlib: Vec<String>,
    core: Vec<String>,
    /// Ends of file names whose reads of a kind are made again in every child.
    known: Vec<(String, Kind)>,
    probes: BTreeSet<PathBuf>,
    cwd: bool,
    terminal: bool,
    unseeded: Vec<Py<PyAny>>,
}

static STATE: Mutex<Option<State>> = Mutex::new(None);

/// Says which C functions to look for.
///
/// `functions` maps a kind's name to functions or bound methods of it; `stdlib` and `core` are
/// prefixes of file names; `known` are `(end of a file's name, kind)` of reads that do not count.
#[pyfunction]
pub(crate) fn observe(
    functions: &Bound<'_, PyDict>,
    stdlib: Vec<String>,
    core: Vec<String>,
    known: Vec<(String, String)>,
) -> PyResult<()> {
    let mut kinds = HashMap::new();
    for (name, group) in functions {
        let kind = kind_of(&name.extract::<String>()?)?;
        for function in group.try_iter()? {
            if let Some(address) = address(&function?) {
                kinds.insert(address, kind);
            }
        }
    }
    *STATE.lock().expect("no panic while held") = Some(State {
        kinds,
        stdlib,
        core,
        known: known
            .into_iter()
            .map(|(file, kind)| Ok((file, kind_of(&kind)?)))
            .collect::<PyResult<_>>()?,
        probes: BTreeSet::new(),
        cwd: false,
        terminal: false,
        unseeded: Vec::new(),
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
        "fork" => Kind::Fork,
        other => {
            let text = format!("no kind `{other}`");
            return Err(pyo3::exceptions::PyValueError::new_err(text));
        }
    })
}

/// What was found since [`observe`]: `{"probes", "cwd", "terminal", "unseeded"}`.
#[pyfunction]
pub(crate) fn findings(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let found = PyDict::new(py);
    if let Some(state) = STATE.lock().expect("no panic while held").take() {
        let probes: Vec<_> = state.probes.into_iter().collect();
        found.set_item("probes", probes)?;
        found.set_item("cwd", state.cwd)?;
        found.set_item("terminal", state.terminal)?;
        found.set_item("unseeded", PyList::new(py, state.unseeded)?)?;
    }
    Ok(found)
}

/// The address of the C code behind a built-in function or method.
fn address(function: &Bound<'_, PyAny>) -> Option<usize> {
    // SAFETY: the type is checked before the function's C pointer is asked for.
    unsafe {
        if ffi::PyCFunction_Check(function.as_ptr()) == 0 {
            return None;
        }
        ffi::PyCFunction_GetFunction(function.as_ptr()).map(|f| f as usize)
    }
}

/// To be set by `sys.setprofile`.
#[pyfunction]
pub(crate) fn profile(
    frame: &Bound<'_, PyAny>,
    event: &str,
    arg: &Bound<'_, PyAny>,
) -> PyResult<()> {
    if event != "c_call" {
        return Ok(());
    }
    let Some(at) = address(arg) else {
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
        Kind::Path => match probed(frame) {
            Some(path) => {
                state.probes.insert(absolute(&path));
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
                (Ok(_), Ok(_)) => {}
                _ => impure(arg, "seeds a generator", &by),
            }
        }
        Kind::Clock => impure(arg, "reads the clock", &by),
        Kind::Random => impure(arg, "draws a random number", &by),
        Kind::Process => impure(arg, "asks for the process's identity", &by),
        Kind::Fork => impure(arg, "registers for forks or signals", &by),
    }
    Ok(())
}

/// Ends a build that read what no trace can hold.
fn impure(function: &Bound<'_, PyAny>, what: &str, by: &str) -> ! {
    let name = function
        .getattr("__name__")
        .and_then(|n| n.extract::<String>())
        .unwrap_or_default();
    serve::fail_now(&audit::seen().stage, &format!("`{by}` {what} (`{name}`)"))
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
            let standard = file.starts_with("<frozen ")
                || (self
                    .stdlib
                    .iter()
                    .any(|prefix| file.starts_with(prefix.as_str()))
                    && !file.contains("/site-packages/"));
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
}

/// The path that a function of the standard library is asking for, by the names that these
/// functions give it.
fn probed(frame: &Bound<'_, PyAny>) -> Option<String> {
    let locals = frame.getattr("f_locals").ok()?;
    for name in ["newpath", "path", "s", "filename", "self"] {
        let Ok(value) = locals.get_item(name) else {
            continue;
        };
        if let Ok(text) = value.extract::<String>() {
            return Some(text);
        }
        if let Ok(text) = value
            .call_method0("__fspath__")
            .and_then(|p| p.extract::<String>())
        {
            return Some(text);
        }
    }
    None
}
