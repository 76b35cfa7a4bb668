//! Somebody wants us to end while a run goes on: the run ends first, then what we have made is
//! cleared away, then we die by that signal.

use std::io;
use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicI32, Ordering};

use crate::process::die_by;

/// The signal that came, or 0.
static CAME: AtomicI32 = AtomicI32::new(0);
/// The run that goes on, or 0.
static RUN: AtomicI32 = AtomicI32::new(0);

extern "C" fn on_signal(signal: i32) {
    CAME.store(signal, Ordering::SeqCst);
    let run = RUN.load(Ordering::SeqCst);
    // A terminal sends SIGINT to the run as well.
    if run > 0 && signal != libc::SIGINT {
        // SAFETY: a system call that a handler may make; the child is not reaped before `RUN` is 0.
        unsafe { libc::kill(run, signal) };
    }
}

/// From now on, these signals do not end this process at once. Runs inherit the default.
pub(in crate::daemon) fn catch() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let handler: extern "C" fn(i32) = on_signal;
        // SAFETY: the handler touches atomics and makes a system call, no more.
        unsafe {
            if libc::signal(signal, handler as libc::sighandler_t) == libc::SIG_IGN {
                // As under `nohup`; the runs shall ignore it too.
                libc::signal(signal, libc::SIG_IGN);
            }
        }
    }
}

/// Waits for a run's end.
pub(in crate::daemon) fn wait(mut run: Child) -> io::Result<ExitStatus> {
    RUN.store(run.id() as i32, Ordering::SeqCst);
    // SAFETY: a zeroed `siginfo_t` is valid to be written to. The child stays unreaped.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let flags = libc::WEXITED | libc::WNOWAIT;
        while libc::waitid(libc::P_PID, run.id(), &mut info, flags) == -1
            && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
        {}
    }
    RUN.store(0, Ordering::SeqCst);
    run.wait()
}

pub(in crate::daemon) fn is_wanted() -> bool {
    CAME.load(Ordering::SeqCst) != 0
}

/// Dies by the signal that came, if one did.
pub(in crate::daemon) fn give_in() {
    let signal = CAME.load(Ordering::SeqCst);
    if signal != 0 {
        die_by(signal);
    }
}
