//! Signals to process groups, and reaping: the only file that kills or waits.

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

/// What became of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is gone and reaped: the raw wait status.
    Ended {
        pid: i32,
        status: i32,
    },
    /// It was stopped by this signal.
    Stopped {
        pid: i32,
        signal: i32,
    },
    Continued {
        pid: i32,
    },
}

/// The next change among all children of this process, or `None` when there is none to report.
pub fn next_change() -> Option<Change> {
    let mut status = 0;
    loop {
        // SAFETY: waitpid writes the status through a valid pointer and touches nothing else.
        let pid = unsafe {
            libc::waitpid(
                -1,
                &mut status,
                libc::WNOHANG | libc::WUNTRACED | libc::WCONTINUED,
            )
        };
        return match pid {
            0 => None,
            -1 if Errno::last() == Errno::EINTR => continue,
            -1 => None,
            pid if libc::WIFSTOPPED(status) => Some(Change::Stopped {
                pid,
                signal: libc::WSTOPSIG(status),
            }),
            pid if libc::WIFCONTINUED(status) => Some(Change::Continued { pid }),
            pid => Some(Change::Ended { pid, status }),
        };
    }
}

/// Sends a signal to a process group. A group that is gone counts as success: there is nobody
/// left who should have got it.
pub fn signal_group(pgid: i32, signal: i32) {
    // SAFETY: killpg takes plain numbers; real-time signals have no `Signal` value.
    if unsafe { libc::killpg(pgid, signal) } == -1 && Errno::last() == Errno::ESRCH {
        // Between fork and setpgid the group does not exist, the process does.
        // SAFETY: as above.
        unsafe { libc::kill(pgid, signal) };
    }
}

/// Ends a process group that nobody waits for any more: continue it (a stopped process does not
/// see a signal other than KILL), then KILL.
///
/// `leader` must be an unreaped child of the caller or its group leader's number must be known to
/// be in use, so that the number cannot have been given to another group.
pub fn kill_group(leader: i32) {
    let leader = Pid::from_raw(leader);
    let _ = killpg(leader, Signal::SIGKILL);
    let _ = kill(leader, Signal::SIGKILL);
}

/// Asks a process to end.
pub fn terminate(pid: i32) {
    let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
}

/// True when the child has ended; it stays unreaped.
pub fn has_ended(pid: i32) -> bool {
    matches!(
        waitid(
            Id::Pid(Pid::from_raw(pid)),
            WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT,
        ),
        Ok(nix::sys::wait::WaitStatus::Exited(..) | nix::sys::wait::WaitStatus::Signaled(..))
    )
}

/// Makes orphaned descendants children of this process, so that they can be reaped here.
pub fn become_subreaper() {
    // SAFETY: prctl with these arguments changes only this process's own attribute.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
}

/// Lets a signal do to this process what it does by default, though it is blocked or ignored.
/// Comes back if that was not the end: at once, or when a stopped process is continued.
pub fn suffer(signal: i32) {
    // SAFETY: valid pointers to locals; disposition and mask are put back.
    unsafe {
        let mut default: libc::sigaction = std::mem::zeroed();
        let mut before = default;
        let mut set: libc::sigset_t = std::mem::zeroed();
        let mut mask = set;
        default.sa_sigaction = libc::SIG_DFL;
        libc::sigaction(signal, &default, &mut before);
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, signal);
        libc::kill(libc::getpid(), signal);
        libc::sigprocmask(libc::SIG_UNBLOCK, &set, &mut mask);
        libc::sigprocmask(libc::SIG_SETMASK, &mask, std::ptr::null_mut());
        libc::sigaction(signal, &before, std::ptr::null_mut());
    }
}

/// Ends this process by a signal, so that the caller's shell sees what it would have seen of the
/// worker. Falls back to the shell's own number for it where the signal does not end us.
pub fn die_by(signal: i32) -> ! {
    // No second core file: the worker has left the real one.
    // SAFETY: plain prctl, signal, sigprocmask and raise on this process.
    unsafe {
        libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
        libc::signal(signal, libc::SIG_DFL);
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, signal);
        libc::sigprocmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut());
        libc::kill(libc::getpid(), signal);
        libc::_exit(128 + signal)
    }
}
