//! What a zygote tells the daemon of itself when it parks, put together in a forked child.
//!
//! Each page that a zygote writes to is its own from then on, and no child's: the lists of files
//! and names that are made here took two to five MiB in each zygote, and as much time in each
//! child that freed them. In a child they go with it.

use std::io;
use std::path::PathBuf;

use pyo3::prelude::*;
use pyseidon::process;
use pyseidon::protocol::{Notice, Parked};

use crate::fork::{Side, fork};
use crate::record::{self, Facts};
use crate::role::{Zygote, exit_now};
use crate::seen::seen;

/// Reports that this process has parked. `facts` gives what `observe.py` saw, `places` are those of
/// [`Parked`]. False if nobody is
/// told.
pub(crate) fn report(
    py: Python<'_>,
    zygote: &Zygote,
    facts: &Bound<'_, PyAny>,
    holds: String,
    shallow: Option<String>,
    places: Vec<(PathBuf, String)>,
) -> io::Result<bool> {
    let pid = std::process::id() as i32;
    match fork(py)? {
        Side::Child => {
            let sent = match facts.call0().and_then(|facts| facts.extract()) {
                Ok(facts) => send(zygote, facts, pid, holds, shallow, places),
                Err(error) => {
                    // The daemon shows it with the reason that there is no checkpoint.
                    error.print(py);
                    false
                }
            };
            exit_now(if sent { 0 } else { 1 });
        }
        Side::Parent(child) => Ok(process::wait_for(child) == Some(0)),
    }
}

/// In the child. `pid` is the zygote.
fn send(
    zygote: &Zygote,
    facts: Facts,
    pid: i32,
    holds: String,
    shallow: Option<String>,
    places: Vec<(PathBuf, String)>,
) -> bool {
    let (mut trace, unsettled) = record::trace(&seen(), facts, random_key());
    trace.set_env(&zygote.template.env);
    if trace.cwd.is_some() {
        trace.cwd = Some(zygote.template.cwd.clone());
    }
    if trace.argv.is_some() {
        trace.argv = Some(zygote.template.argv.clone());
    }
    let notice = Notice::Parked(Box::new(Parked {
        pid,
        holds,
        trace,
        unsettled: unsettled.map(|path| path.display().to_string()),
        shallow,
        places,
        seconds: zygote.since.elapsed().as_secs_f64(),
    }));
    zygote.control.send(&notice, &[]).is_ok()
}

fn random_key() -> [u8; 32] {
    let mut key = [0u8; 32];
    // SAFETY: fills a buffer of the given length. Without entropy the key is zero, which only
    // weakens the hiding of values.
    unsafe { libc::getrandom(key.as_mut_ptr().cast(), key.len(), 0) };
    key
}
