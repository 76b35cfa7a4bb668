//! A deeper zygote, forked from a parked one.

use std::io::{Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use pyo3::prelude::*;
use pyseidon::protocol::{Before, Run};
use pyseidon::transport::{Connection, move_high};

use crate::fork::{Side, fork};
use crate::role::{Order, Role, Zygote, exit_now, set_role};
use crate::steps::announce;
use crate::{audit, inherit};

/// A standard input for what is built in the background, of one line: who reads it has moved on in
/// it. (See `barriers.py`.)
fn input() -> std::io::Result<OwnedFd> {
    let mut file = std::fs::File::from(memfd_create(c"pyseidon-input", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(b"\n")?;
    file.rewind()?;
    Ok(file.into())
}

/// Forks a process that goes on building; gives its order in the child. `watched` are the signals
/// that its parent reads from a descriptor.
pub(crate) fn grow(
    py: Python<'_>,
    run: Box<Run>,
    level: String,
    before: Option<Before>,
    mut fds: Vec<OwnedFd>,
    watched: SigSet,
) -> PyResult<Option<Order>> {
    if fds.len() != 3 || !matches!(fork(py), Ok(Side::Child)) {
        // Closing the new channel tells the daemon.
        return Ok(None);
    }
    let _ = sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&watched), None);
    let cwd = fds.pop().expect("three were given");
    let output = fds.pop().expect("two are left");
    let control = fds.pop().expect("one is left");
    let placed = (|| {
        // SAFETY: a plain system call on this process.
        unsafe { libc::setpgid(0, 0) };
        inherit::take_over_directory(&cwd)?;
        drop(cwd);
        let errors = output.try_clone()?;
        let streams = vec![input()?, output, errors];
        let mut kept = inherit::place_descriptors(streams, &[0, 1, 2], vec![control])?;
        inherit::set_environ(&run.env);
        std::io::Result::Ok(kept.pop().expect("one was given"))
    })();
    let Ok(control) = placed.and_then(|c| move_high(c).map_err(std::io::Error::other)) else {
        exit_now(1);
    };
    let order = Order::grow(&run, level, before);
    let control = Connection::new(UnixStream::from(control));
    announce(&control);
    set_role(Role::Zygote(Zygote {
        control,
        template: run,
        since: Instant::now(),
    }));
    audit::resume();
    Ok(Some(order))
}
