//! The two functions of the import system that all imports go through, whoever asks: one that looks
//! for a module that is not there, and, below it, one that loads what was found.
//!
//! Stand-ins for them are C functions, so they have no frame and are seen in no traceback.

use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict, PyTuple};

use crate::ahead::start_at_import;

/// A stand-in for `importlib._bootstrap._find_and_load(name, import_)`: calls `adopt(name)` first
/// for the names in `stashed`, which is to put the module into `sys.modules`, where `natural` finds
/// it.
#[pyfunction]
pub(crate) fn finding<'py>(
    py: Python<'py>,
    natural: Py<PyAny>,
    stashed: Py<PyDict>,
    adopt: Py<PyAny>,
) -> PyResult<Bound<'py, PyCFunction>> {
    PyCFunction::new_closure(
        py,
        Some(c"_find_and_load"),
        None,
        move |args: &Bound<'_, PyTuple>, kwargs: Option<&Bound<'_, PyDict>>| {
            let py = args.py();
            if let Ok(name) = args.get_item(0)
                && stashed.bind(py).contains(&name)?
            {
                adopt.call1(py, (name,)).inspect_err(|error| {
                    start_at_import(py, error);
                })?;
            }
            natural.call(py, args, kwargs)
        },
    )
}

/// A stand-in for `importlib._bootstrap._load_unlocked(spec)`: calls `before(spec)`, and, when the
/// module is loaded or has failed, `after(loaded)`.
#[pyfunction]
pub(crate) fn loading<'py>(
    py: Python<'py>,
    natural: Py<PyAny>,
    before: Py<PyAny>,
    after: Py<PyAny>,
) -> PyResult<Bound<'py, PyCFunction>> {
    PyCFunction::new_closure(
        py,
        Some(c"_load_unlocked"),
        None,
        move |args: &Bound<'_, PyTuple>, kwargs: Option<&Bound<'_, PyDict>>| {
            let py = args.py();
            before.call1(py, args.clone())?;
            let result = natural.call(py, args, kwargs);
            after.call1(py, (result.is_ok(),))?;
            result
        },
    )
}
