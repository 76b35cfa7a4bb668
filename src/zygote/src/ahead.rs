//! An import that was made before the fork and is hidden until a run makes it (`ahead.py`).
//!
//! The import's audit event comes before Python looks for the module. If it is in `sys.modules`
//! when the hook returns, that is what the import gives, and no frame, finder or import function
//! of ours is anywhere.

use std::sync::Mutex;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyTraceback;

use crate::classes;
use crate::page::Page;

struct Hidden {
    /// The interpreter whose import it was: a test may make others.
    interpreter: usize,
    /// The module whose import brings all of it back.
    name: String,
    /// What its import asks for, in order; the first is itself.
    asked: Vec<String>,
    /// Brings it back and gives `None`, or says why not. Raises what a signal handler raises, and
    /// nothing else.
    adopt: Py<PyAny>,
}

static HIDDEN: Mutex<Option<Hidden>> = Mutex::new(None);

/// In a zygote: has `adopt` called when the module `name` is imported, and conceals `classes`,
/// which `adopt` is to reveal. `asked` is what that import asks for.
#[pyfunction]
pub(crate) fn hide(
    py: Python<'_>,
    name: String,
    asked: Vec<String>,
    classes: Vec<Bound<'_, PyAny>>,
    adopt: Py<PyAny>,
) -> PyResult<()> {
    classes::conceal(py, classes)?;
    *HIDDEN.lock().expect("no panic while held") = Some(Hidden {
        interpreter: interpreter(),
        name,
        asked,
        adopt,
    });
    Ok(())
}

fn interpreter() -> usize {
    // SAFETY: the interpreter is held by every caller.
    unsafe { ffi::PyInterpreterState_Get() as usize }
}

/// A run imports this module. Tells through the page what became of what was hidden.
///
/// What `adopt` raises is raised by the import: it is a signal handler's, which Python calls
/// between two lines of `adopt` as it would have between two lines of the module.
pub(crate) fn on_import(py: Python<'_>, name: &str, page: &Page) -> PyResult<()> {
    let Some(hidden) = take(name) else {
        return Ok(());
    };
    // What is not brought back stays hidden: its end would be an event of its own.
    let hidden = std::mem::ManuallyDrop::new(hidden);
    let adopted = hidden.adopt.call0(py);
    match adopted.map(|result| result.extract::<Option<String>>(py)) {
        Ok(Ok(None)) => {
            // No event tells of these. (The first has been noted.)
            for name in hidden.asked.iter().skip(1) {
                page.import(name.as_bytes());
            }
            page.set_ahead("");
        }
        Ok(Ok(Some(reason))) => page.set_ahead(&reason),
        Ok(Err(_)) => page.set_ahead("bringing it back gave no answer"),
        Err(error) => {
            page.set_ahead("it was interrupted");
            start_at_import(py, &error);
            return Err(error);
        }
    }
    Ok(())
}

/// Takes our own frames out of the traceback, and those above a handler's: it goes on from the
/// import statement, as if the import had been interrupted before it began.
pub(crate) fn start_at_import(py: Python<'_>, error: &PyErr) {
    let mut rest = error.traceback(py);
    let mut at = rest.clone();
    while let Some(entry) = at {
        let next = entry
            .getattr("tb_next")
            .and_then(|next| Ok(next.extract::<Option<Bound<'_, PyTraceback>>>()?))
            .ok()
            .flatten();
        if is_our_own(&entry).unwrap_or(false) {
            rest = next.clone();
        }
        at = next;
    }
    error.set_traceback(py, rest);
}

fn is_our_own(entry: &Bound<'_, PyTraceback>) -> PyResult<bool> {
    let space = entry.getattr("tb_frame")?.getattr("f_globals")?;
    let module: String = space.get_item("__name__")?.extract()?;
    Ok(module.starts_with("pyseidon."))
}

/// What is hidden, if the import of `name` brings it back: once. Nobody holds it while Python
/// runs: a signal handler may import as well.
fn take(name: &str) -> Option<Hidden> {
    let mut hidden = HIDDEN.lock().expect("no panic while held");
    hidden.take_if(|hidden| hidden.interpreter == interpreter() && hidden.name == name)
}

/// Nothing is brought back from here on: somebody listens who would hear of each import. Of the
/// classes that are made only once some stay concealed then; to show them all would show them early.
pub(crate) fn forget() {
    std::mem::forget(HIDDEN.lock().expect("no panic while held").take());
}
