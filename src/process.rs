//! Signals to processes and their groups, and what tells of their ends.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, getpgid};

use crate::error::{Context, Result};

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

/// Waits for the end of a child; its raw wait status. `None` if this process has no such child.
pub fn wait_for(pid: i32) -> Option<i32> {
    let mut status = 0;
    loop {
        // SAFETY: waitpid writes the status through a valid pointer and touches nothing else.
        match unsafe { libc::waitpid(pid, &mut status, 0) } {
            -1 if Errno::last() == Errno::EINTR => {}
            -1 => return None,
            _ => return Some(status),
        }
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

/// Ends a process group that nobody waits for any more, stopped or not.
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

/// A process that may be anybody's child. Its number may be given to another one day, this not.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    fd: OwnedFd,
}

impl Process {
    /// The process that has this number now.
    pub fn of(pid: i32) -> Result<Self> {
        // SAFETY: pidfd_open takes plain numbers and makes a descriptor, closed on exec.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error()).doing(|| format!("watching process {pid}"));
        }
        // SAFETY: the kernel has just made this descriptor for us.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        Ok(Self { pid, fd })
    }

    /// Ends it and, if it is in that group, the group; stopped or not.
    pub fn kill(&self, group: i32) {
        // As long as it is not reaped its number is its own, and so is that of its group.
        if group > 1
            && self.is_alive()
            && getpgid(Some(Pid::from_raw(self.pid))) == Ok(Pid::from_raw(group))
        {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
        self.signal(libc::SIGKILL);
    }

    /// False once it is reaped.
    pub fn is_alive(&self) -> bool {
        self.signal(0)
    }

    /// True if it is there to get the signal.
    fn signal(&self, signal: i32) -> bool {
        // SAFETY: a descriptor that lives, plain numbers, and no information to go along.
        let sent = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.fd.as_raw_fd(),
                signal,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        sent == 0
    }
}

/// Readable once the process has ended.
impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What a program writes to its standard output until it closes it; it is ended when that takes
/// longer.
pub fn output_within(command: &mut Command, limit: Duration) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + limit;
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let mut output = child.stdout.take().expect("asked for above");
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    let result = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let seconds = limit.as_secs();
            break Err(io::Error::other(format!("no answer within {seconds} s")));
        }
        let mut fds = [PollFd::new(output.as_fd(), PollFlags::POLLIN)];
        let wait = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, wait) {
            Ok(0) | Err(Errno::EINTR) => continue,
            Ok(_) => {}
            Err(error) => break Err(error.into()),
        }
        match output.read(&mut piece) {
            Ok(0) => break Ok(bytes),
            Ok(count) => bytes.extend_from_slice(&piece[..count]),
            Err(error) => break Err(error),
        }
    };
    // It has said all that it will be heard to say.
    let _ = child.kill();
    let _ = child.wait();
    result
}

/// Makes orphaned descendants children of this process, so that they can be reaped here.
pub fn become_subreaper() {
    // SAFETY: prctl with these arguments changes only this process's own attribute.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
}

/// Lets a signal do to this process what it does by default, though it is blocked or ignored.
/// Comes back if that was not the end.
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

/// Stops this process as `signal` does by default, until it is continued; not at all if somebody
/// continues it before it has come to that.
///
/// A stop signal makes the kernel forget a SIGCONT that waits. So SIGCONT is let through meanwhile:
/// what comes before the stop signal is noted, what comes after it takes it back.
pub fn stop_along(signal: i32) {
    static CONTINUED: AtomicBool = AtomicBool::new(false);
    extern "C" fn note(_: libc::c_int) {
        CONTINUED.store(true, Ordering::SeqCst);
    }
    CONTINUED.store(false, Ordering::SeqCst);
    // SAFETY: valid pointers to locals; the handler stores to a static only; dispositions and mask
    // are put back.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let (mut at_continue, mut at_stop) = (action, action);
        let (mut stop, mut go): (libc::sigset_t, libc::sigset_t) = std::mem::zeroed();
        let mut mask = stop;
        libc::sigemptyset(&mut stop);
        libc::sigaddset(&mut stop, signal);
        libc::sigemptyset(&mut go);
        libc::sigaddset(&mut go, libc::SIGCONT);
        libc::sigprocmask(libc::SIG_BLOCK, &stop, &mut mask);
        action.sa_sigaction = libc::SIG_DFL;
        libc::sigaction(signal, &action, &mut at_stop);
        action.sa_sigaction = note as extern "C" fn(libc::c_int) as usize;
        libc::sigaction(libc::SIGCONT, &action, &mut at_continue);
        libc::sigprocmask(libc::SIG_UNBLOCK, &go, std::ptr::null_mut());
        if !CONTINUED.load(Ordering::SeqCst) {
            libc::kill(libc::getpid(), signal);
            if !CONTINUED.load(Ordering::SeqCst) {
                libc::sigprocmask(libc::SIG_UNBLOCK, &stop, std::ptr::null_mut());
            }
        }
        // What is ignored does not stay pending.
        action.sa_sigaction = libc::SIG_IGN;
        libc::sigaction(signal, &action, std::ptr::null_mut());
        libc::sigprocmask(libc::SIG_SETMASK, &mask, std::ptr::null_mut());
        libc::sigaction(signal, &at_stop, std::ptr::null_mut());
        libc::sigaction(libc::SIGCONT, &at_continue, std::ptr::null_mut());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_does_not_end_is_not_waited_for() {
        let shell = |text: &str| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", text]);
            command
        };
        let long = Duration::from_secs(20);
        let said = output_within(&mut shell("echo one; echo two"), long).unwrap();
        assert_eq!(said, b"one\ntwo\n");
        let short = Duration::from_millis(100);
        assert!(output_within(&mut shell("echo one; exec sleep 100"), short).is_err());
    }
}
