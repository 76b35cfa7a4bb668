//! Where loads of modules begin and end while conftests are executed (`stops.py`): points at which
//! a build can park in the midst of them, and whom a build that fails is to blame.
//!
//! The import event is not enough: code that imports by name (`importlib.import_module`, the import
//! of a package for the sake of a module in it, pytest's loading of conftests) raises none. All of
//! it calls one function of the import system, and the profile function sees that call, before
//! anything is looked for, and its return.

use std::path::PathBuf;
use std::sync::Mutex;

use pyo3::prelude::*;

use crate::codes::watch_code;

struct Loads {
    /// The codes of the functions that load.
    codes: Vec<Py<PyAny>>,
    /// Called with the frame of one, and whether it begins, or ends well.
    boundary: Py<PyAny>,
    /// Tells for what a failing build is to stop: `(what, files)`, or `None`.
    blame: Py<PyAny>,
}

static LOADS: Mutex<Option<Loads>> = Mutex::new(None);

/// Has `boundary(frame, begins, ends)` called by the profile function when a function with one of
/// these codes begins or ends (neither: it raised), and `blame()` when the build fails.
#[pyfunction]
pub(crate) fn watch_loads(codes: Vec<Py<PyAny>>, boundary: Py<PyAny>, blame: Py<PyAny>) {
    for code in &codes {
        watch_code(code.as_ptr() as usize);
    }
    *LOADS.lock().expect("no panic while held") = Some(Loads {
        codes,
        boundary,
        blame,
    });
}

/// Ends that.
pub(crate) fn forget() {
    let loads = LOADS.lock().expect("no panic while held").take();
    drop(loads);
}

/// A function begins (`result` is none) or ends.
pub(crate) fn on_event(
    frame: &Bound<'_, PyAny>,
    result: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let py = frame.py();
    let boundary = {
        let loads = LOADS.lock().expect("no panic while held");
        let Some(loads) = loads.as_ref() else {
            return Ok(());
        };
        let code = frame.getattr("f_code")?;
        if !loads.codes.iter().any(|known| known.is(&code)) {
            return Ok(());
        }
        loads.boundary.clone_ref(py)
    };
    // (What raises ends with nothing.)
    let ends = result.is_some_and(|result| !result.is_none());
    boundary.call1(py, (frame, result.is_none(), ends))?;
    Ok(())
}

/// For what a build that fails now is to stop, and the files that it depends on. Asked once.
pub(crate) fn blame() -> Option<(String, Vec<PathBuf>)> {
    // Not held on: Python code runs.
    let loads = LOADS.lock().expect("no panic while held").take()?;
    Python::attach(|py| loads.blame.call0(py).ok()?.extract(py).ok()?)
}
