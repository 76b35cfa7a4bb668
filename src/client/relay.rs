//! The conversation of one run, and signals meanwhile.
//!
//! While it lasts, every signal that can be caught is blocked and read from a descriptor: before
//! the run has started it does what it always does to a process, afterwards it is the worker's.
//! Dispositions stay as they are.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{Shutdown, shutdown};

use super::inherit::Inherited;
use crate::error::{Context, Error, Result};
use crate::process;
use crate::protocol::{Relay, Reply, Request, Run};
use crate::reach::receive_within;
use crate::transport::{Connection, Filled};

/// How long the answer to a run may take. A daemon may make a run wait for a checkpoint that is
/// being built, and the largest closures measured import in 15 s on a busy machine.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a retiring daemon may take to let go of its socket: it only unlinks and closes.
const RETIRE_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) enum Outcome {
    /// Nothing was run.
    Plain(Option<String>),
    /// The wait status.
    Ended(i32),
    /// It had started, and nobody said how it ended.
    Lost,
}

/// Sends the run and stays with it to its end. `None`: the daemon retired, start another.
///
/// An error means that nothing was run.
pub(super) fn converse(
    connection: Connection,
    run: Run,
    inherited: &Inherited,
) -> Result<Option<Outcome>> {
    let mut session = Session {
        connection,
        signals: Signals::block(inherited.ignored())?,
        held: Vec::new(),
        relayed: 0,
        continued: 0,
    };
    let request = Request::Run(Box::new(run));
    let begun = match session.connection.send(&request, &inherited.descriptors()) {
        // A daemon that hangs up early has said why before.
        Ok(()) | Err(Error::Closed) => session.wait_for_start(),
        Err(error) => Err(error),
    };
    let outcome = match begun {
        Ok(Begun::Started) => session.stay(),
        Ok(Begun::Retired) => return Ok(None),
        Ok(Begun::Refused(reason)) => session.withdraw(reason),
        Err(error) => session.withdraw(Some(error.to_string())),
    };
    if let Outcome::Plain(_) = outcome {
        session.let_signals_act();
    }
    Ok(Some(outcome))
}

enum Begun {
    Started,
    Retired,
    /// Not to be run warm; with what there is to say about it.
    Refused(Option<String>),
}

struct Session {
    connection: Connection,
    signals: Signals,
    /// Signals that came too early to be the worker's and do not end this process.
    held: Vec<i32>,
    /// How many signals have been passed on, and how many had when the last SIGCONT was.
    relayed: u64,
    continued: u64,
}

impl Session {
    fn wait_for_start(&mut self) -> Result<Begun> {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        loop {
            match self.next_reply()? {
                None => {}
                Some(Reply::Started { .. }) => return Ok(Begun::Started),
                Some(Reply::Plain { reason }) => return Ok(Begun::Refused(reason)),
                Some(Reply::Retire) => {
                    let rest = &mut self.connection;
                    while receive_within(rest, RETIRE_TIMEOUT, "retire")?.is_some() {}
                    return Ok(Begun::Retired);
                }
                Some(_) => return Err(Error::Malformed),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let seconds = ANSWER_TIMEOUT.as_secs();
                return Err(Error::Other(format!(
                    "the daemon did not answer within {seconds} s"
                )));
            }
            if self.wait(Some(left))? {
                // Signals wait: one that follows `Started` is the worker's.
                if self.connection.fill()? == Filled::Eof {
                    return Err(Error::Other("the daemon went away".into()));
                }
                continue;
            }
            while let Some(signal) = self.signals.next() {
                if ends_process(signal) && !self.signals.were_blocked(signal) {
                    // Our end of the connection closes with us, and with it the run.
                    process::suffer(signal);
                }
                self.held.push(signal);
            }
        }
    }

    /// Relays until the run ends. Whatever goes wrong with the conversation now, the run is lost:
    /// it may have done half of its work.
    fn stay(&mut self) -> Outcome {
        for signal in std::mem::take(&mut self.held) {
            self.relay(signal);
        }
        loop {
            loop {
                match self.next_reply() {
                    Ok(Some(Reply::Ended { status })) => return Outcome::Ended(status),
                    Ok(Some(Reply::Stopped { signal, relayed })) => {
                        self.stop_along(signal, relayed);
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => return Outcome::Lost,
                }
            }
            let Ok(replied) = self.wait(None) else {
                return Outcome::Lost;
            };
            while let Some(signal) = self.signals.next() {
                self.relay(signal);
            }
            if replied && !matches!(self.connection.fill(), Ok(Filled::Some)) {
                return Outcome::Lost;
            }
        }
    }

    fn next_reply(&mut self) -> Result<Option<Reply>> {
        match self.connection.next_frame()? {
            Some(frame) => frame.decode().map(Some),
            None => Ok(None),
        }
    }

    fn relay(&mut self, signal: i32) {
        let signal = match signal {
            // They stop the worker's group for reasons of its own terminal, not of ours.
            libc::SIGTTIN | libc::SIGTTOU => libc::SIGTSTP,
            other => other,
        };
        self.relayed += 1;
        if signal == libc::SIGCONT {
            self.continued = self.relayed;
        }
        // If the other side is gone, reading says so.
        let _ = self.connection.send(&Relay::Signal(signal), &[]);
    }

    /// The worker has been stopped: so are we, until somebody continues us, and then it is too.
    ///
    /// In an orphaned process group the kernel does not stop us, and plain pytest would not have
    /// stopped either: then the worker goes on at once.
    fn stop_along(&mut self, signal: i32, relayed: u64) {
        if self.continued > relayed {
            // A SIGCONT is on its way to it. Who continued us will not do so again.
            return;
        }
        process::stop_along(signal);
        self.relay(libc::SIGCONT);
    }

    /// Takes the run back, so that it can be run plainly.
    ///
    /// `shutdown` and a worker's sending of `Started` exclude each other in the kernel: either it
    /// is among what can be read now, or the worker's write fails and it enters nothing.
    fn withdraw(&mut self, reason: Option<String>) -> Outcome {
        let _ = shutdown(self.connection.as_fd().as_raw_fd(), Shutdown::Both);
        let mut started = false;
        loop {
            loop {
                match self.next_reply() {
                    Ok(Some(Reply::Started { .. })) => started = true,
                    Ok(Some(Reply::Ended { status })) if started => return Outcome::Ended(status),
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    // What follows a broken frame cannot be understood: nobody can rule out that
                    // the run has started, but who writes such frames is no worker of ours.
                    Err(_) => break,
                }
            }
            if !matches!(self.connection.fill(), Ok(Filled::Some)) {
                break;
            }
        }
        if started {
            Outcome::Lost
        } else {
            Outcome::Plain(reason)
        }
    }

    /// What was held back has its usual effect after all: somebody wanted us to stop.
    fn let_signals_act(&mut self) {
        for signal in self.held.drain(..) {
            if self.signals.were_blocked(signal) {
                // It stays pending, also when plain pytest takes over.
                // SAFETY: a plain call.
                unsafe { libc::raise(signal) };
            } else {
                process::suffer(signal);
            }
        }
    }

    /// Until there is a reply (`true`) or a signal, or the time is over.
    fn wait(&self, limit: Option<Duration>) -> Result<bool> {
        let mut fds = [
            PollFd::new(self.connection.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.signals.fd.as_fd(), PollFlags::POLLIN),
        ];
        let timeout = limit.map_or(PollTimeout::NONE, |limit| {
            PollTimeout::try_from(limit.as_millis() as i32 + 1).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error).doing(|| "waiting for the run".into()),
        }
        Ok(fds[0].any().unwrap_or(true))
    }
}

/// Of the signals that are blocked here: what they do by default to a process that can be
/// continued without.
fn ends_process(signal: i32) -> bool {
    !matches!(
        signal,
        libc::SIGTSTP
            | libc::SIGTTIN
            | libc::SIGTTOU
            | libc::SIGCONT
            | libc::SIGWINCH
            | libc::SIGURG
    )
}

/// Every signal that somebody may send to this process, read from a descriptor.
struct Signals {
    fd: OwnedFd,
    /// The mask to put back.
    before: libc::sigset_t,
}

impl Signals {
    /// Leaves out what this process ignores, what concerns only its own children, and what the
    /// kernel sends for its own mistakes.
    fn block(ignored: u64) -> Result<Self> {
        // SAFETY: signal sets are plain data, and every call gets valid pointers to locals.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            let mut before = set;
            libc::sigfillset(&mut set);
            for signal in [
                libc::SIGCHLD,
                libc::SIGSEGV,
                libc::SIGBUS,
                libc::SIGFPE,
                libc::SIGILL,
                libc::SIGTRAP,
                libc::SIGSYS,
            ] {
                libc::sigdelset(&mut set, signal);
            }
            for signal in (1..=libc::SIGRTMAX()).filter(|n| ignored & (1 << (n - 1)) != 0) {
                libc::sigdelset(&mut set, signal);
            }
            libc::sigprocmask(libc::SIG_BLOCK, &set, &mut before);
            match libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
                -1 => {
                    let error = std::io::Error::last_os_error();
                    libc::sigprocmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
                    Err(error).doing(|| "asking for signals".into())
                }
                fd => Ok(Self {
                    fd: OwnedFd::from_raw_fd(fd),
                    before,
                }),
            }
        }
    }

    /// By the caller: then they wait until pytest is there to have them pending.
    fn were_blocked(&self, signal: i32) -> bool {
        // SAFETY: a set that the kernel has filled.
        unsafe { libc::sigismember(&self.before, signal) == 1 }
    }

    fn next(&self) -> Option<i32> {
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the kernel fills at most one whole record, which is plain data.
        unsafe {
            let mut record: libc::signalfd_siginfo = std::mem::zeroed();
            let count = libc::read(self.fd.as_raw_fd(), (&raw mut record).cast(), size);
            (count == size as isize).then_some(record.ssi_signo as i32)
        }
    }
}

impl Drop for Signals {
    /// What is still pending now takes effect, as it would have without us.
    fn drop(&mut self) {
        // SAFETY: puts back a mask that the kernel gave us.
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, &self.before, std::ptr::null_mut()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> (Session, Connection) {
        let (ours, theirs) = Connection::pair().unwrap();
        let session = Session {
            connection: ours,
            signals: Signals::block(0).unwrap(),
            held: Vec::new(),
            relayed: 0,
            continued: 0,
        };
        (session, theirs)
    }

    #[test]
    fn a_run_ends_as_it_is_said_to_end() {
        let (mut session, daemon) = session();
        daemon.send(&Reply::Started { pid: 1 }, &[]).unwrap();
        daemon.send(&Reply::Ended { status: 512 }, &[]).unwrap();
        assert!(matches!(session.wait_for_start(), Ok(Begun::Started)));
        assert!(matches!(session.stay(), Outcome::Ended(512)));
    }

    #[test]
    fn silence_after_the_start_is_a_lost_run() {
        let (mut session, daemon) = session();
        daemon.send(&Reply::Started { pid: 1 }, &[]).unwrap();
        drop(daemon);
        assert!(matches!(session.wait_for_start(), Ok(Begun::Started)));
        assert!(matches!(session.stay(), Outcome::Lost));
    }

    #[test]
    fn nonsense_is_an_error_before_the_start_and_a_lost_run_after_it() {
        let nonsense = Relay::Signal(1 << 20);
        let (mut session, daemon) = session();
        daemon.send(&(200u8, nonsense), &[]).unwrap();
        assert!(session.wait_for_start().is_err());
        daemon.send(&(200u8, nonsense), &[]).unwrap();
        assert!(matches!(session.stay(), Outcome::Lost));
    }

    #[test]
    fn a_retiring_daemon_is_waited_for() {
        let (mut session, daemon) = session();
        daemon.send(&Reply::Retire, &[]).unwrap();
        let going = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            drop(daemon);
        });
        assert!(matches!(session.wait_for_start(), Ok(Begun::Retired)));
        assert!(going.is_finished() || going.join().is_ok());
    }

    #[test]
    fn a_run_that_is_taken_back_cannot_start_any_more() {
        let (mut session, worker) = session();
        assert!(matches!(session.withdraw(None), Outcome::Plain(None)));
        let started = worker.send(&Reply::Started { pid: 1 }, &[]);
        assert!(matches!(started, Err(Error::Closed)));
    }

    #[test]
    fn a_start_that_came_before_the_withdrawal_counts() {
        let (mut session, worker) = session();
        worker.send(&Reply::Started { pid: 1 }, &[]).unwrap();
        let outcome = session.withdraw(Some("late".into()));
        assert!(matches!(outcome, Outcome::Lost));
    }

    #[test]
    fn a_worker_that_is_being_continued_stops_nobody() {
        let (mut session, zygote) = session();
        session.relay(libc::SIGTSTP);
        session.relay(libc::SIGCONT);
        session.relay(libc::SIGTSTP);
        session.relay(libc::SIGCONT);
        // Seen late, when the second pair had been sent but not passed on. Were it obeyed, this
        // test would stop for good.
        for relayed in [1, 3] {
            let signal = libc::SIGTSTP;
            zygote
                .send(&Reply::Stopped { signal, relayed }, &[])
                .unwrap();
        }
        zygote.send(&Reply::Ended { status: 0 }, &[]).unwrap();
        assert!(matches!(session.stay(), Outcome::Ended(0)));
    }

    #[test]
    fn the_mask_is_put_back() {
        let mask = || nix::sys::signal::SigSet::thread_get_mask().unwrap();
        let before = mask();
        let signals = Signals::block(0).unwrap();
        assert_ne!(mask(), before);
        drop(signals);
        assert_eq!(mask(), before);
    }
}
