//! What an object may do when it is destroyed, as far as can be said without asking it.

use std::collections::{HashMap, HashSet};

use pyo3::exceptions::PyResourceWarning;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict, PyType};

/// What an object of a type may do when it is destroyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Nothing,
    /// It has `__del__`.
    Del,
    /// Its type is written in C, in a module that is not known: it may close a database, say.
    Unknown,
}

/// C modules outside the standard library whose objects only free memory.
const HARMLESS: [&str; 29] = [
    "PIL",
    "aiohttp",
    "cffi",
    "charset_normalizer",
    "coverage",
    "cryptography",
    "frozenlist",
    "kiwisolver",
    "markupsafe",
    "matplotlib",
    "msgpack",
    "multidict",
    "numpy",
    "orjson",
    "pandas",
    "propcache",
    "pybind11_builtins",
    "pydantic_core",
    "pyseidon",
    "regex",
    "rpds",
    "scipy",
    "sklearn",
    "sqlalchemy",
    "uarray",
    "ujson",
    "wrapt",
    "yaml",
    "yarl",
];
/// C modules of the standard library whose objects do more.
const HARMFUL: [&str; 5] = ["_dbm", "_gdbm", "_sqlite3", "dbm", "sqlite3"];

/// Verdicts on types, by their address.
pub(crate) struct Types {
    verdicts: HashMap<*mut ffi::PyTypeObject, End>,
    standard: HashSet<String>,
    /// How an instance of a class made by a `class` statement is destroyed.
    plain: *mut std::ffi::c_void,
}

impl Types {
    pub(crate) fn new(py: Python<'_>) -> PyResult<Self> {
        let sys = py.import("sys")?;
        let mut standard: HashSet<String> = sys
            .getattr("builtin_module_names")?
            .extract::<Vec<String>>()?
            .into_iter()
            .collect();
        match sys.getattr("stdlib_module_names") {
            Ok(names) => standard.extend(names.extract::<HashSet<String>>()?),
            // Python 3.9 does not tell.
            Err(_) => standard.extend(beside_os(py)?),
        }
        for name in HARMFUL {
            standard.remove(name);
        }
        standard.extend(HARMLESS.map(str::to_owned));
        // A class that Python code has made, and that is always there: one of our own would show.
        let class = py.import("_frozen_importlib")?.getattr("ModuleSpec")?;
        // SAFETY: such a class is a heap type.
        let plain = unsafe { ffi::PyType_GetSlot(class.as_ptr().cast(), ffi::Py_tp_dealloc) };
        Ok(Self {
            verdicts: HashMap::new(),
            standard,
            plain,
        })
    }

    pub(crate) fn end_of(&mut self, object: &Bound<'_, PyAny>) -> PyResult<End> {
        let kind = object.get_type();
        if let Some(verdict) = self.verdicts.get(&kind.as_type_ptr()) {
            return Ok(*verdict);
        }
        let verdict = if kind.hasattr("__del__")? {
            End::Del
        } else if self.is_known(&kind)? {
            End::Nothing
        } else {
            End::Unknown
        };
        self.verdicts.insert(kind.as_type_ptr(), verdict);
        Ok(verdict)
    }

    /// True if every class that an instance is made of is written in Python, or known.
    fn is_known(&self, kind: &Bound<'_, PyType>) -> PyResult<bool> {
        for class in kind.mro() {
            let class = class.cast_into::<PyType>()?;
            if self.is_python(&class) {
                continue;
            }
            let module = class.module()?.to_string();
            let package = module.split('.').next().unwrap_or_default();
            // Functions, their defaults and the like of all that Cython has compiled. (Its
            // generators have `__del__`.)
            let is_cython = package.starts_with("_cython_")
                || package == "_cyutility"
                || class.name()?.to_string().starts_with("__pyx_");
            if !is_cython && !self.standard.contains(package) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn is_python(&self, class: &Bound<'_, PyType>) -> bool {
        let at = class.as_type_ptr();
        // SAFETY: a live type; the slot of a type that is not on the heap is not asked for, which
        // Python 3.9 would not answer.
        unsafe {
            ffi::PyType_GetFlags(at) & ffi::Py_TPFLAGS_HEAPTYPE != 0
                && ffi::PyType_GetSlot(at, ffi::Py_tp_dealloc) == self.plain
        }
    }
}

/// Loaded modules that lie in the standard library's directory.
fn beside_os(py: Python<'_>) -> PyResult<Vec<String>> {
    let os: String = py.import("os")?.getattr("__file__")?.extract()?;
    let home = os.strip_suffix("os.py").unwrap_or(&os);
    let modules = py
        .import("sys")?
        .getattr("modules")?
        .cast_into::<PyDict>()?;
    let mut found = Vec::new();
    for (name, module) in modules {
        let file = module
            .getattr("__file__")
            .and_then(|f| f.extract::<String>());
        if file.is_ok_and(|f| f.starts_with(home) && !f.contains("/site-packages/")) {
            found.push(name.extract()?);
        }
    }
    Ok(found)
}

/// The standard streams and what they are made of: they are flushed anyway.
pub(crate) fn standard_streams(py: Python<'_>) -> PyResult<Vec<*mut ffi::PyObject>> {
    let sys = py.import("sys")?;
    let mut found = Vec::new();
    for name in [
        "stdin",
        "stdout",
        "stderr",
        "__stdin__",
        "__stdout__",
        "__stderr__",
    ] {
        let Ok(mut stream) = sys.getattr(name) else {
            continue;
        };
        // What stands for its own buffer (pytest's stand-in for stdin does) comes up again.
        while !found.contains(&stream.as_ptr()) {
            found.push(stream.as_ptr());
            stream = match stream.getattr("buffer").or_else(|_| stream.getattr("raw")) {
                Ok(below) => below,
                Err(_) => break,
            };
        }
    }
    Ok(found)
}

/// True unless an object with `__del__` is known to have nothing left to do.
pub(crate) fn waits(object: &Bound<'_, PyAny>, generators: bool) -> PyResult<bool> {
    for (name, is_generator) in [("gi_frame", true), ("cr_frame", false), ("ag_frame", false)] {
        let Ok(frame) = object.getattr(name) else {
            continue;
        };
        if frame.is_none() || !generators {
            return Ok(false);
        }
        if !is_generator {
            // One that was never awaited is told of.
            return Ok(true);
        }
        // One that never began has no `finally` to run.
        let begun: i64 = frame.getattr("f_lasti")?.extract()?;
        // What it waits for may have something to do, which ends with it.
        return Ok(begun >= 0
            && (!object.getattr("gi_yieldfrom")?.is_none()
                || handles_exceptions(&frame.getattr("f_code")?)?));
    }
    let kind = object.get_type();
    if kind.module()? == "socket" && kind.name()? == "socket" {
        // Closing it is the kernel's work too; what is left is the warning.
        return Ok(!ignores_resource_warnings(object.py())?);
    }
    let module = kind.module()?.to_string();
    if kind.name()? == "ResourceTracker" && module.ends_with(".resource_tracker") {
        // That of `multiprocessing`, and joblib's: it ends a process, if it has started one.
        return Ok(!object.getattr("_fd")?.is_none());
    }
    // (pytest's streams for what it captures are files of Python's that it closes.)
    if module != "_io" && module != "_pytest.capture" {
        return Ok(true);
    }
    if matches!(kind.name()?.to_string().as_str(), "StringIO" | "BytesIO") {
        // Nothing outside the process.
        return Ok(false);
    }
    Ok(!object.getattr("closed")?.is_truthy()?)
}

/// True if the first filter for all of `ResourceWarning` ignores it, as it does by default.
fn ignores_resource_warnings(py: Python<'_>) -> PyResult<bool> {
    let category = py.get_type::<PyResourceWarning>();
    for filter in py.import("warnings")?.getattr("filters")?.try_iter()? {
        let (action, message, of, module, _line): (
            String,
            Bound<'_, PyAny>,
            _,
            Bound<'_, PyAny>,
            i64,
        ) = filter?.extract()?;
        let of: Bound<'_, PyType> = of;
        if category.is_subclass(&of)? {
            return Ok(action == "ignore" && message.is_none() && module.is_none());
        }
    }
    Ok(false)
}

/// True if a weak reference calls something other than the bookkeeping of weak containers.
pub(crate) fn has_foreign_callback(reference: &Bound<'_, PyAny>) -> bool {
    let Ok(callback) = reference.getattr("__callback__") else {
        return false;
    };
    // A C function keeps books (the caches of abstract base classes), it does not report.
    if callback.is_none() || callback.is_instance_of::<PyCFunction>() {
        return false;
    }
    let module = callback
        .getattr("__module__")
        .and_then(|m| m.extract::<String>())
        .unwrap_or_default();
    !matches!(
        module.as_str(),
        // (Of a load that is under way: its lock.)
        "weakref" | "_weakrefset" | "abc" | "functools" | "logging" | "importlib._bootstrap"
    )
}

/// Whether this code has a `try` or a `with`, whose end may do something.
fn handles_exceptions(code: &Bound<'_, PyAny>) -> PyResult<bool> {
    /// Of Python 3.9 and 3.10: `SETUP_FINALLY`, `SETUP_WITH`, `SETUP_ASYNC_WITH`.
    const SETUP: [u8; 3] = [122, 143, 154];
    /// `CALL_INTRINSIC_1` of 3.12 and 3.13 with what makes a `StopIteration` that leaves a
    /// generator another error: all of a generator is covered by it, and it does nothing else.
    const STOP_ITERATION: [(u8, [u8; 2]); 2] = [(12, [173, 3]), (13, [55, 3])];
    let instructions: Vec<u8> = code.getattr("co_code")?.extract()?;
    let minor = code.py().version_info().minor;
    if minor < 11 {
        return Ok(instructions.iter().step_by(2).any(|op| SETUP.contains(op)));
    }
    let table: Vec<u8> = code.getattr("co_exceptiontable")?.extract()?;
    let known = STOP_ITERATION.iter().find(|(of, _)| *of == minor);
    let is_known = |target: usize| {
        known.is_some_and(|(_, known)| instructions.get(2 * target..2 * target + 2) == Some(known))
    };
    Ok(!targets(&table).into_iter().all(is_known))
}

/// Where the entries of an exception table lead to, in units of two bytes. (Its form is told in
/// `Objects/exception_handling_notes.txt` of CPython: four numbers an entry, of six bits a byte.)
fn targets(table: &[u8]) -> Vec<usize> {
    let mut numbers = Vec::new();
    let mut number = 0usize;
    for byte in table {
        number = number << 6 | usize::from(byte & 0x3f);
        if byte & 0x40 == 0 {
            numbers.push(std::mem::take(&mut number));
        }
    }
    numbers
        .chunks(4)
        .filter_map(|entry| entry.get(2).copied())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_tells_where_its_entries_lead() {
        // Of `try: yield 1 finally: print()` on Python 3.12, and a target beyond six bits.
        let entry = |start: u8, target: u8| [0x80 | start, 1, target, 3];
        assert_eq!(targets(&[entry(2, 34), entry(4, 19)].concat()), [34, 19]);
        assert_eq!(targets(&[0x82, 1, 0x41, 2, 3]), [66]);
        assert!(targets(&[]).is_empty());
    }
}
