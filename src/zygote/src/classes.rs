//! Classes that no `__subclasses__()` shows: our own, and those of modules that were imported
//! ahead.
//!
//! A class is listed by its base for as long as it lives, in whatever table its module is kept.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, OnceLock};

use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::panic::PanicException;
use pyo3::prelude::*;
use pyo3::types::PyWeakrefReference;

// Both locks are held only where no Python code runs and nobody lets go of the interpreter, so
// whoever holds the interpreter finds them free.

/// Addresses of concealed classes. Each is kept alive, so that no other class gets its address.
static CONCEALED: Mutex<Option<HashSet<usize>>> = Mutex::new(None);

/// Of bases of classes that were revealed: the order in which theirs were made as plain Python
/// would have made them. Later ones follow. (A base lives as long as its revealed class, which is
/// kept alive.)
static ORDER: Mutex<Option<HashMap<usize, Places>>> = Mutex::new(None);

/// Places of classes, by the address of the weak reference through which the base lists them. The
/// references are kept alive, which the classes must not be: a new class may get the address of
/// one that is gone, but not its reference.
type Places = HashMap<usize, (usize, Py<PyAny>)>;

/// Conceals our own classes for good.
#[pyfunction]
pub(crate) fn conceal_own<'py>(
    py: Python<'py>,
    mut classes: Vec<Bound<'py, PyAny>>,
) -> PyResult<()> {
    // Made when an error is first looked at.
    classes.push(py.get_type::<PanicException>().into_any());
    conceal(py, classes)
}

/// Has these classes shown by no `__subclasses__()` until they are revealed, and keeps them alive.
///
/// Raises TypeError if this Python's `type.__subclasses__` is not the method that we know.
pub(crate) fn conceal(py: Python<'_>, classes: Vec<Bound<'_, PyAny>>) -> PyResult<()> {
    stand_in(py)?;
    let mut set = CONCEALED.lock().expect("no panic while held");
    set.get_or_insert_default()
        .extend(classes.into_iter().map(|class| class.into_ptr() as usize));
    Ok(())
}

/// The modules of these classes are imported now.
#[pyfunction]
pub(crate) fn reveal(py: Python<'_>, classes: Vec<Bound<'_, PyAny>>) -> PyResult<()> {
    let mut bases: HashSet<usize> = HashSet::new();
    for class in &classes {
        for base in class.getattr("__bases__")?.try_iter()? {
            bases.insert(base?.as_ptr() as usize);
        }
    }
    let revealed: HashSet<usize> = classes.iter().map(|c| c.as_ptr() as usize).collect();
    for base in bases {
        // SAFETY: a class of which another one is a child, so it lives.
        let all = unsafe { natural_children(base as *mut ffi::PyObject) };
        // They were made before those of the run so far, and come after them.
        let late: Vec<usize> = all
            .iter()
            .copied()
            .filter(|c| revealed.contains(c))
            .collect();
        let mut order = arranged(base, all);
        order.retain(|class| !revealed.contains(class));
        order.extend(late);
        let order = places_of(py, order)?;
        let former = {
            let mut orders = ORDER.lock().expect("no panic while held");
            orders.get_or_insert_default().insert(base, order)
        };
        // (Not under the lock.)
        drop(former);
    }
    if let Some(set) = CONCEALED.lock().expect("no panic while held").as_mut() {
        set.retain(|class| !revealed.contains(class));
    }
    Ok(())
}

fn places_of(py: Python<'_>, order: Vec<usize>) -> PyResult<Places> {
    let mut places = Places::new();
    for (place, class) in order.into_iter().enumerate() {
        // SAFETY: its base has just listed it, and no Python code has run since.
        let class = unsafe { Bound::from_borrowed_ptr(py, class as *mut ffi::PyObject) };
        let reference = PyWeakrefReference::new(&class)?.into_any();
        places.insert(reference.as_ptr() as usize, (place, reference.unbind()));
    }
    Ok(places)
}

/// The head of CPython's `PyMethodDescrObject`, the same in 3.9 to 3.13 (`descrobject.h`).
#[repr(C)]
struct MethodDescriptor {
    head: ffi::PyObject,
    kind: *mut ffi::PyTypeObject,
    name: *mut ffi::PyObject,
    qualified_name: *mut ffi::PyObject,
    method: *mut ffi::PyMethodDef,
}

static NATURAL: OnceLock<ffi::PyCFunction> = OnceLock::new();

/// Puts a function of ours beneath `type.__subclasses__`. The method itself stays the same object.
fn stand_in(py: Python<'_>) -> PyResult<()> {
    if NATURAL.get().is_some() {
        return Ok(());
    }
    let kind = py.get_type::<pyo3::types::PyType>();
    let method = kind.getattr("__dict__")?.get_item("__subclasses__")?;
    if method.get_type().name()? != "method_descriptor" {
        return Err(PyTypeError::new_err("`type.__subclasses__` is no method"));
    }
    // SAFETY: the object is a method descriptor, so it has this layout; the table of methods of
    // `type` is static data that CPython does not protect from writing, and Python holds the lock
    // under which it is read.
    unsafe {
        let descriptor = method.as_ptr().cast::<MethodDescriptor>();
        let definition = (*descriptor).method;
        if (*definition).ml_flags != ffi::METH_NOARGS {
            return Err(PyTypeError::new_err(
                "`type.__subclasses__` takes arguments",
            ));
        }
        let natural = (*definition).ml_meth.PyCFunction;
        let _ = NATURAL.set(natural);
        (*definition).ml_meth = ffi::PyMethodDefPointer {
            PyCFunction: subclasses,
        };
    }
    Ok(())
}

/// `type.__subclasses__`, less what is concealed, in the order in which plain Python has it.
unsafe extern "C" fn subclasses(
    of: *mut ffi::PyObject,
    nothing: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: called as the natural function is, with its arguments.
    unsafe {
        let natural = NATURAL.get().expect("set before this is");
        let found = natural(of, nothing);
        if found.is_null() {
            return found;
        }
        let before = listed(found);
        let after = arranged(of as usize, before.clone());
        if before == after {
            return found;
        }
        let shown = ffi::PyList_New(after.len() as ffi::Py_ssize_t);
        if shown.is_null() {
            ffi::Py_DECREF(found);
            return shown;
        }
        for (at, class) in after.into_iter().enumerate() {
            let class = class as *mut ffi::PyObject;
            ffi::Py_INCREF(class);
            ffi::PyList_SetItem(shown, at as ffi::Py_ssize_t, class);
        }
        ffi::Py_DECREF(found);
        shown
    }
}

/// What `__subclasses__()` of a base is to show, of all that it naturally shows.
fn arranged(base: usize, mut classes: Vec<usize>) -> Vec<usize> {
    if let Ok(set) = CONCEALED.try_lock()
        && let Some(set) = set.as_ref()
    {
        classes.retain(|class| !set.contains(class));
    }
    if let Ok(orders) = ORDER.try_lock()
        && let Some(order) = orders.as_ref().and_then(|orders| orders.get(&base))
    {
        classes.sort_by_cached_key(|class| {
            // SAFETY: a class that its base has just listed, with the interpreter held.
            let reference = unsafe { reference_to(*class as *mut ffi::PyObject) };
            order
                .get(&reference)
                .map_or(usize::MAX, |(place, _)| *place)
        });
    }
    classes
}

/// The address of the weak reference through which the base of `class` lists it. Nothing is made
/// here that could set the collector going: Python gives the one that there is.
///
/// # Safety
/// `class` is a class that its base lists, and the interpreter is held.
unsafe fn reference_to(class: *mut ffi::PyObject) -> usize {
    // SAFETY: gives a new reference, which the base has as well, or null with an exception set.
    unsafe {
        let reference = ffi::PyWeakref_NewRef(class, std::ptr::null_mut());
        if reference.is_null() {
            ffi::PyErr_Clear();
        } else {
            ffi::Py_DECREF(reference);
        }
        reference as usize
    }
}

/// # Safety
/// `base` is a class, and the interpreter is held.
unsafe fn natural_children(base: *mut ffi::PyObject) -> Vec<usize> {
    let Some(natural) = NATURAL.get() else {
        return Vec::new();
    };
    // SAFETY: called as Python calls it; gives a new reference, or null with an exception set.
    unsafe {
        let found = natural(base, std::ptr::null_mut());
        if found.is_null() {
            ffi::PyErr_Clear();
            return Vec::new();
        }
        let classes = listed(found);
        ffi::Py_DECREF(found);
        classes
    }
}

/// # Safety
/// `list` is a list, and the interpreter is held.
unsafe fn listed(list: *mut ffi::PyObject) -> Vec<usize> {
    // SAFETY: as promised by the caller; items are borrowed.
    unsafe {
        (0..ffi::PyList_Size(list))
            .map(|at| ffi::PyList_GetItem(list, at) as usize)
            .collect()
    }
}
