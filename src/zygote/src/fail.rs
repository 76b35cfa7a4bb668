//! The end of a build that came to nothing, and of a trial.

use pyo3::prelude::*;
use pyseidon::protocol::Notice;

use crate::record;
use crate::role::{Role, exit_now, take_role};
use crate::seen::seen;

/// In a building zygote: it cannot get to where it is to park. Ends the process.
#[pyfunction]
pub(crate) fn fail(reason: &str) -> PyResult<()> {
    let stage = seen().stage.clone();
    fail_now(&stage, reason)
}

/// Ends this process at once, so no Python code runs after it. `stage` names the entry point that
/// is to blame, if it is not empty.
pub(crate) fn fail_now(stage: &str, reason: &str) -> ! {
    match take_role() {
        Some(Role::Zygote(zygote)) => {
            let trace = record::failed(&seen());
            let notice = Notice::Failed {
                culprit: (!stage.is_empty()).then(|| stage.to_owned()),
                reason: reason.to_owned(),
                trace: Box::new(trace),
            };
            let _ = zygote.control.send(&notice, &[]);
        }
        Some(Role::Trial(page)) => page.refuse(reason),
        _ => {}
    }
    exit_now(1)
}
