//! The size of the terminal, as the readline library tells it to programs that a test starts.
//!
//! pytest imports Python's `readline` before it loads conftests. When the library is initialised it
//! puts `LINES` and `COLUMNS` into the environment of C code, where Python does not see them. A
//! checkpoint has no terminal, and each worker an environment of its own: so there it is done again,
//! by the library's own function.

use std::ffi::CString;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::prelude::*;

/// The address of `rl_reset_screen_size`, or zero: the library was not loaded here.
static RESET: AtomicUsize = AtomicUsize::new(0);

/// Before parking: notes whether the library is loaded.
pub(crate) fn find() {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let path = maps
        .lines()
        .filter_map(|line| line.find('/').map(|at| &line[at..]))
        .find(|path| path.contains("/libreadline.so") || path.contains("/readline."));
    let Some(path) = path.and_then(|path| CString::new(path).ok()) else {
        return;
    };
    // SAFETY: strings that end; what is loaded already is only looked up, and stays.
    let address = unsafe {
        let library = libc::dlopen(path.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
        if library.is_null() {
            return;
        }
        libc::dlsym(library, c"rl_reset_screen_size".as_ptr())
    };
    RESET.store(address as usize, Ordering::Relaxed);
}

/// In a worker that has its descriptors and its environment: does what the import would have done.
#[pyfunction]
pub(crate) fn tell_screen_size() {
    let address = RESET.load(Ordering::Relaxed);
    if address != 0 {
        // SAFETY: `void rl_reset_screen_size(void)` (readline's manual, 2.4.9), of a library that
        // is never unloaded; the interpreter is held, so nobody reads the environment meanwhile.
        unsafe {
            let reset: extern "C" fn() = std::mem::transmute(address);
            reset();
        }
    }
}
