//! A standby: a child forked ahead, which waits for its run.
//!
//! ```text
//!  zygote                        standby
//!    │──── fork ───────────────────▶│ closes what is not its own, waits
//!    │──── Order::Serve + fds ─────▶│ becomes the caller's process
//!    │◀─── end of the channel ──────│ has entered pytest, or is gone
//! ```
//!
//! Every worker begins as one. Where none waits (the first run of a checkpoint, several at once)
//! it is forked for the run and gets its order at once: there is one way only.
//!
//! While it waits it runs nothing, so what it holds is what its zygote held when it parked.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use pyo3::prelude::*;
use pyseidon::protocol::{self, Run};
use pyseidon::transport::Connection;

use crate::fork::{Side, end_with, fork};
use crate::inherit;
use crate::page::Page;
use crate::role::{Order, Role, WorkerSide, exit_now, set_role};
use crate::touched::{Lesson, Touched};

/// A standby, as its zygote sees it.
pub(crate) struct Standby {
    pub(crate) pid: i32,
    /// At its end the child has entered pytest or is gone.
    pub(crate) channel: Connection,
    pub(crate) page: Page,
}

/// Where [`Standby::fork`] returns.
pub(crate) enum Forked {
    Here(Standby),
    /// In the child, once its order has come and it is the caller's process.
    Child(Order),
}

impl Standby {
    /// Forks a child that waits. In the child nothing that the caller owns may be dropped: its
    /// descriptors are closed, and their numbers may be the user's by then.
    ///
    /// `ahead`: nobody waits for it yet, so it may take its time to get ready.
    pub(crate) fn fork(py: Python<'_>, touched: &mut Touched, ahead: bool) -> io::Result<Forked> {
        let lesson = touched.lesson();
        let page = Page::new()?;
        let (ours, theirs) = Connection::pair().map_err(io::Error::other)?;
        let zygote = std::process::id() as i32;
        match fork(py)? {
            Side::Parent(pid) => {
                let _ = ours.set_nonblocking(true);
                Ok(Forked::Here(Self {
                    pid,
                    channel: ours,
                    page,
                }))
            }
            Side::Child => {
                let side = page.share();
                std::mem::forget((ours, page));
                let handlers = Handlers::set_aside();
                end_with(zygote);
                // Clients, and whoever waits for the end of a pipe, must not wait for this process.
                inherit::close_all_but(&[0, 1, 2, theirs.stream().as_raw_fd()]);
                if ahead {
                    touched.copy_ahead(|| has_news(&theirs));
                }
                let (run, fds, alive) = wait(theirs);
                handlers.put_back();
                Ok(Forked::Child(become_worker(run, fds, alive, side, lesson)))
            }
        }
    }

    /// Hands it its run. `fds` are those of [`protocol::Order::Serve`]. False if it is gone, or
    /// they cannot be sent.
    pub(crate) fn hand_over(&mut self, order: &protocol::Order, fds: &[OwnedFd]) -> bool {
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        self.channel.post(order, &fds).is_ok()
    }
}

/// Something can be read, be it the end. (A worker says nothing on its channel.)
pub(crate) fn has_news(channel: &Connection) -> bool {
    let mut fds = [PollFd::new(channel.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).unwrap_or(0) > 0
}

/// What Python has set for signals. In a process that waits a handler would only note the signal,
/// for Python code to hear of it: that would be the user's run, minutes later. So a standby ends by
/// what ends any process.
struct Handlers(Vec<(i32, libc::sigaction)>);

impl Handlers {
    fn set_aside() -> Self {
        let mut aside = Vec::new();
        for signal in 1..=libc::SIGRTMAX() {
            // SAFETY: `sigaction` is plain data; the kernel fills one and reads the other.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                if libc::sigaction(signal, std::ptr::null(), &mut action) == 0
                    && ![libc::SIG_DFL, libc::SIG_IGN].contains(&action.sa_sigaction)
                {
                    libc::signal(signal, libc::SIG_DFL);
                    aside.push((signal, action));
                }
            }
        }
        Self(aside)
    }

    fn put_back(self) {
        for (signal, action) in self.0 {
            // SAFETY: the kernel has given it.
            unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) };
        }
    }
}

/// In the child: waits for the order. Gives the run, its descriptors, and the channel, whose end
/// tells the zygote that the worker has entered pytest or is gone.
fn wait(mut channel: Connection) -> (Box<Run>, Vec<OwnedFd>, OwnedFd) {
    let Ok(frame) = channel.receive() else {
        exit_now(0);
    };
    let Ok(protocol::Order::Serve { run, .. }) = frame.decode() else {
        exit_now(1);
    };
    (run, frame.fds, OwnedFd::from(channel.into_stream()))
}

/// In the child: takes over what the kernel keeps of the caller.
fn become_worker(
    run: Box<Run>,
    fds: Vec<OwnedFd>,
    alive: OwnedFd,
    page: std::mem::ManuallyDrop<Page>,
    lesson: Option<Lesson>,
) -> Order {
    match take_over(&run, fds, alive) {
        Ok((client, alive)) => set_role(Role::Worker(WorkerSide {
            client: Connection::new(UnixStream::from(client)),
            alive,
            page,
            lesson,
        })),
        Err(error) => {
            page.refuse(&format!("becoming the caller's process: {error}"));
            exit_now(1);
        }
    }
    Order::new("run", &run)
}

/// Gives the connection to the client, and `alive`.
fn take_over(run: &Run, mut fds: Vec<OwnedFd>, alive: OwnedFd) -> io::Result<(OwnedFd, OwnedFd)> {
    let own = fds.split_off(2);
    let cwd = fds.pop().expect("the zygote has counted them");
    let client = fds.pop().expect("the zygote has counted them");
    inherit::lead_group(run);
    inherit::take_over_directory(&cwd)?;
    drop(cwd);
    let mut kept = inherit::place_descriptors(own, &run.fds, vec![client, alive])?;
    inherit::take_over(run);
    inherit::set_environ(&run.env);
    inherit::block_signals(run.blocked);
    let alive = kept.pop().expect("two were given");
    let client = kept.pop().expect("two were given");
    Ok((client, alive))
}
