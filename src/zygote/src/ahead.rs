//! An import that was made before the fork and is hidden until a run makes it (`ahead.py`).
//!
//! The import's audit event comes before Python looks for the module. If it is in `sys.modules`
//! when the hook returns, that is what the import gives, and no frame, finder or import function
//! of ours is anywhere.

use std::collections::HashSet;
use std::sync::Mutex;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::classes;
use crate::page::Page;

struct Hidden {
    /// The interpreter whose import it was: a test may make others.
    interpreter: usize,
    /// The module whose import brings all of it back.
    name: String,
    /// Modules whose import brings some of it back.
    parts: HashSet<String>,
    /// Called with a name, brings it back and gives `(None, what its import asks for)`, or gives
    /// `(why not, [])`.
    adopt: Py<PyAny>,
}

static HIDDEN: Mutex<Option<Hidden>> = Mutex::new(None);

/// In a zygote: has `adopt` called when the module `name` or one of `parts` is imported, and
/// conceals `classes`, which `adopt` is to reveal.
#[pyfunction]
pub(crate) fn hide(
    py: Python<'_>,
    name: String,
    parts: Vec<String>,
    classes: &Bound<'_, PyList>,
    adopt: Py<PyAny>,
) -> PyResult<()> {
    classes::conceal(py, classes)?;
    *HIDDEN.lock().expect("no panic while held") = Some(Hidden {
        interpreter: interpreter(),
        name,
        parts: parts.into_iter().collect(),
        adopt,
    });
    Ok(())
}

fn interpreter() -> usize {
    // SAFETY: the interpreter is held by every caller.
    unsafe { ffi::PyInterpreterState_Get() as usize }
}

/// A run imports this module. Tells through the page what became of what was hidden.
pub(crate) fn on_import(py: Python<'_>, name: &str, page: &Page) {
    let Ok(mut guard) = HIDDEN.try_lock() else {
        return;
    };
    let Some(hidden) = guard.as_ref() else { return };
    if hidden.interpreter != interpreter() {
        return;
    }
    let is_last = hidden.name == name;
    if !is_last && !hidden.parts.contains(name) {
        return;
    }
    let adopted: PyResult<(Option<String>, Vec<String>)> = hidden
        .adopt
        .call1(py, (name,))
        .and_then(|result| result.extract(py));
    let reason = match adopted {
        Ok((None, asked)) => {
            for name in asked.iter().skip(1) {
                page.import(name.as_bytes());
            }
            String::new()
        }
        Ok((Some(reason), _)) => reason,
        Err(error) => format!("it raised {error}"),
    };
    // Once a part was not brought back, there are two of it.
    if is_last || !reason.is_empty() {
        page.set_ahead(&reason);
        // What is not brought back stays hidden: its end would be an event of its own.
        std::mem::forget(guard.take());
    }
}

/// Nothing is brought back from here on: somebody listens who would hear of each import.
pub(crate) fn forget() {
    if let Ok(mut hidden) = HIDDEN.try_lock() {
        std::mem::forget(hidden.take());
    }
}
