//! An import that was made before the fork and is hidden until a run makes it (`ahead.py`).
//!
//! The import's audit event comes before Python looks for the module. If it is in `sys.modules`
//! when the hook returns, that is what the import gives, and no frame, finder or import function
//! of ours is anywhere.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

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
    /// Those of its modules that others import too, as they belong to Python itself: the import of
    /// one brings back that one and what it loads.
    parts: HashSet<String>,
    /// Called with a name, brings it back and gives `(None, what its import asks for)`, or gives
    /// `(why not, [])`. Raises what a signal handler raises, and nothing else.
    adopt: Py<PyAny>,
}

static HIDDEN: Mutex<Option<Hidden>> = Mutex::new(None);
/// Set by [`forget`], which may be called while `adopt` runs and nothing is in `HIDDEN`.
static FORGOTTEN: AtomicBool = AtomicBool::new(false);

/// In a zygote: has `adopt` called when the module `name` or one of `parts` is imported, and
/// conceals `classes`, which `adopt` is to reveal.
#[pyfunction]
pub(crate) fn hide(
    py: Python<'_>,
    name: String,
    parts: Vec<String>,
    classes: Vec<Bound<'_, PyAny>>,
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
///
/// What `adopt` raises is raised by the import: it is a signal handler's, which Python calls
/// between two lines of `adopt` as it would have between two lines of the module.
pub(crate) fn on_import(py: Python<'_>, name: &str, page: &Page) -> PyResult<()> {
    let Some(hidden) = take(name) else {
        return Ok(());
    };
    let is_last = hidden.name == name;
    let (reason, raised) = match hidden.adopt.call1(py, (name,)) {
        Ok(result) => (verdict(result.bind(py), page), Ok(())),
        Err(error) => {
            start_at_import(py, &error);
            ("it was interrupted".to_owned(), Err(error))
        }
    };
    // Once a part was not brought back, there are two of it.
    if is_last || !reason.is_empty() {
        page.set_ahead(&reason);
        // What is not brought back stays hidden: its end would be an event of its own.
        std::mem::forget(hidden);
    } else {
        put_back(hidden);
    }
    raised
}

/// Takes our own frames out of the traceback, and those above a handler's: it goes on from the
/// import statement, as if the import had been interrupted before it began.
fn start_at_import(py: Python<'_>, error: &PyErr) {
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

/// Why nothing was brought back, or an empty text. If it was, notes what its import asks for: no
/// event tells that.
fn verdict(result: &Bound<'_, PyAny>, page: &Page) -> String {
    match result.extract::<(Option<String>, Vec<String>)>() {
        Ok((None, asked)) => {
            // The first is the import itself, which has been noted.
            for name in asked.iter().skip(1) {
                page.import(name.as_bytes());
            }
            String::new()
        }
        Ok((Some(reason), _)) => reason,
        Err(error) => format!("bringing it back gave something else: {error}"),
    }
}

/// What is hidden, if the import of `name` brings any of it back. Nobody holds it while Python
/// runs: a signal handler may import as well.
fn take(name: &str) -> Option<Hidden> {
    let mut hidden = HIDDEN.lock().expect("no panic while held");
    hidden.take_if(|hidden| {
        hidden.interpreter == interpreter() && (hidden.name == name || hidden.parts.contains(name))
    })
}

fn put_back(hidden: Hidden) {
    if FORGOTTEN.load(Ordering::Relaxed) {
        std::mem::forget(hidden);
    } else {
        *HIDDEN.lock().expect("no panic while held") = Some(hidden);
    }
}

/// Nothing is brought back from here on: somebody listens who would hear of each import.
pub(crate) fn forget() {
    FORGOTTEN.store(true, Ordering::Relaxed);
    std::mem::forget(HIDDEN.lock().expect("no panic while held").take());
}
