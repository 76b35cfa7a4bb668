//! The steps that Python code takes from one role to the next. (`park` is in `serve.rs`, `fail` in
//! `fail.rs`.)

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use pyo3::prelude::*;
use pyseidon::protocol::{self, Notice, Reply};
use pyseidon::transport::{Connection, move_high};

use crate::audit;
use crate::distrust;
use crate::role::{
    Order, Role, Running, Zygote, exit_now, os_error, set_role, take_role, waiting_page,
};

/// Takes the control channel over and waits for the first order.
///
/// Raises RuntimeError if the daemon is gone or says something else.
#[pyfunction]
pub(crate) fn begin(control: RawFd) -> PyResult<Order> {
    // SAFETY: the daemon has opened this descriptor for us and nobody else here uses it.
    let control = unsafe { OwnedFd::from_raw_fd(control) };
    let control = move_high(control).map_err(os_error)?;
    let mut control = Connection::new(UnixStream::from(control));
    let frame = control.receive().map_err(os_error)?;
    let protocol::Order::Begin { run, distrusted } = frame.decode().map_err(os_error)? else {
        return Err(os_error("the first order is not `Begin`"));
    };
    distrust::set(distrusted);
    let order = Order::new("begin", &run);
    announce(&control);
    set_role(Role::Zygote(Zygote {
        control,
        template: run,
        since: Instant::now(),
    }));
    Ok(order)
}

/// Tells the daemon whom to end if this never parks.
pub(crate) fn announce(control: &Connection) {
    let pid = std::process::id() as i32;
    let _ = control.send(&Notice::Building { pid }, &[]);
}

/// In a worker: this checkpoint does not stand for the run, or, if it is `for_now`, another one has to
/// serve it as files are now. Nothing was run; ends the process.
#[pyfunction]
#[pyo3(signature = (reason, for_now=false))]
pub(crate) fn refuse(reason: &str, for_now: bool) -> PyResult<()> {
    match take_role() {
        Some(Role::Worker(worker)) => {
            match for_now {
                true => worker.page.refuse_for_now(reason),
                false => worker.page.refuse(reason),
            }
            exit_now(0)
        }
        _ => Err(os_error("not a worker before pytest")),
    }
}

/// In a worker: it is the caller's process now; what follows is pytest's own work.
#[pyfunction]
pub(crate) fn inherited() {
    if let Some(page) = waiting_page() {
        page.inherited();
    }
}

/// In a worker: enters pytest. From here on the run is the user's.
#[pyfunction]
pub(crate) fn enter() -> PyResult<()> {
    let Some(Role::Worker(worker)) = take_role() else {
        return Err(os_error("not a worker before pytest"));
    };
    let page = worker.page.share();
    page.enter();
    let started = Reply::Started {
        pid: std::process::id() as i32,
    };
    if worker.client.send(&started, &[]).is_err() {
        // Nobody is there to run for.
        exit_now(0);
    }
    drop((worker.client, worker.alive));
    audit::record_run(page.share());
    set_role(Role::Running(Running {
        pid: std::process::id(),
        page,
        lesson: worker.lesson,
    }));
    Ok(())
}
