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
use crate::timings;

/// What is said of a zygote that parks, as in [`Parked`].
pub(crate) struct Told {
    pub(crate) holds: String,
    pub(crate) shallow: Option<String>,
    pub(crate) places: Vec<(PathBuf, String)>,
}

/// Reports that this process has parked. `facts` gives what `observe.py` saw. False if nobody is
/// told.
pub(crate) fn report(
    py: Python<'_>,
    zygote: &Zygote,
    facts: &Bound<'_, PyAny>,
    told: Told,
) -> io::Result<bool> {
    let pid = std::process::id() as i32;
    match fork(py)? {
        Side::Child => {
            let sent = match facts.call0().and_then(|facts| facts.extract()) {
                Ok(facts) => send(py, zygote, facts, pid, told),
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
fn send(py: Python<'_>, zygote: &Zygote, facts: Facts, pid: i32, told: Told) -> bool {
    let hidden = facts.hidden.clone();
    let mut places = told.places;
    places.extend(facts.conftests.iter().cloned());
    let opening = facts.opening.clone();
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
        holds: told.holds,
        trace,
        unsettled: unsettled.map(|path| path.display().to_string()),
        shallow: told.shallow,
        places,
        opening,
        seconds: zygote.since.elapsed().as_secs_f64(),
        modules: timings::count(py) + u32::try_from(hidden.len()).unwrap_or_default(),
        loads: timings::take(py, zygote.since, &hidden),
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
