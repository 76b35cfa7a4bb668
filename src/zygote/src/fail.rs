//! The end of a build that came to nothing, and of a trial.

use std::path::PathBuf;

use pyo3::prelude::*;
use pyseidon::protocol::{Culprit, ENDED_EARLY, Notice};

use crate::loads;
use crate::record;
use crate::role::{Role, exit_now, take_role};
use crate::seen::seen;

/// In a building zygote: it cannot get to where it is to park. Ends the process. `before` and
/// `files` are those of [`Culprit`], if somebody is to blame who is not being loaded now.
#[pyfunction]
#[pyo3(signature = (reason, before=None, files=Vec::new()))]
pub(crate) fn fail(reason: &str, before: Option<String>, files: Vec<PathBuf>) -> PyResult<()> {
    let stage = seen().stage.clone();
    let plugin = (!stage.is_empty()).then_some((stage, Vec::new()));
    end(before.map(|what| (what, files)).or(plugin), reason)
}

/// Ends this process at once, so none of the user's code runs after it. `stage` names the entry
/// point that is to blame, if it is not empty.
pub(crate) fn fail_now(stage: &str, reason: &str) -> ! {
    let plugin = (!stage.is_empty()).then(|| (stage.to_owned(), Vec::new()));
    end(plugin.or_else(loads::blame), reason)
}

/// In a building zygote: what is to be executed cannot be compiled, so pytest would end here. Ends the
/// process.
#[pyfunction]
pub(crate) fn broken() {
    end_early()
}

/// The script of a building zygote came to its end: as it should, so nobody is to blame.
pub(crate) fn end_early() -> ! {
    end(None, ENDED_EARLY)
}

fn end(culprit: Option<(String, Vec<PathBuf>)>, reason: &str) -> ! {
    match take_role() {
        Some(Role::Zygote(zygote)) => {
            let trace = record::failed(&seen());
            let notice = Notice::Failed {
                culprit: culprit.map(|(what, files)| Culprit { what, files }),
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
