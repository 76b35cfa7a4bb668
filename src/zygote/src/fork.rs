//! The fork: the only place where a process that holds Python is duplicated.

use std::io;

use pyo3::ffi;
use pyo3::prelude::*;

/// Which side of the fork this is.
pub(crate) enum Side {
    Parent(i32),
    Child,
}

/// Forks the interpreter.
///
/// The hooks registered with `os.register_at_fork` run on both sides. `os.fork` itself is not
/// called: it adds a warning about threads (Python 3.12 and later) that a strict warning filter
/// of the user's would turn into an exception in the zygote.
///
/// # Contract
/// The caller holds the interpreter and owns no lock that the child needs. Whatever other thread
/// there is, native ones included, holds none either: it is not there in the child to let go of
/// it. The child must not return into the loop that called this.
///
/// - `launch`: the only other thread waits in `launch` itself, and holds nothing.
/// - `attempt`: looks for other threads, and its child ends there.
/// - `report`, `Standby::fork`, `grow`: a process with another thread is not parked (`barriers.py`
///   looks), and no code but the loop's runs in it from then on. The child of the first ends there,
///   those of the others leave the loop with an order.
/// - OpenBLAS's threads may be there: its own handlers end them before a fork, and they are made anew
///   on both sides when there is work for them.
pub(crate) fn fork(_py: Python<'_>) -> io::Result<Side> {
    // SAFETY: the interpreter is held (`_py`), and each hook function is called exactly as
    // `os.fork` does: before in the parent, then one of the two after it.
    unsafe {
        ffi::PyOS_BeforeFork();
        match libc::fork() {
            0 => {
                ffi::PyOS_AfterFork_Child();
                Ok(Side::Child)
            }
            pid => {
                let error = io::Error::last_os_error();
                ffi::PyOS_AfterFork_Parent();
                if pid < 0 {
                    Err(error)
                } else {
                    Ok(Side::Parent(pid))
                }
            }
        }
    }
}

/// Has the kernel end this process when its parent does, the process `parent`.
pub(crate) fn end_with(parent: i32) {
    // SAFETY: plain system calls on this process.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        if libc::getppid() != parent {
            // The parent is gone: nobody waits.
            libc::_exit(0);
        }
    }
}
