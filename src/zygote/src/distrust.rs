//! Modules that no checkpoint may hold, because the user does not trust what a run gets of them.

use std::sync::Mutex;

use pyo3::prelude::*;

use crate::fail::fail_now;
use crate::seen::seen;
use crate::timings;

/// Names; that of a package stands for all that is in it.
static DISTRUSTED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Holds for this process and all that are forked from it.
pub(crate) fn set(names: Vec<String>) {
    *DISTRUSTED.lock().expect("no panic while held") = names;
}

/// A build is about to load this module: it ends here if it must not hold it.
pub(crate) fn on_load(name: &str) {
    let reason = reason_against(name);
    if let Some(reason) = reason {
        let stage = seen().stage.clone();
        fail_now(&stage, &reason);
    }
}

/// A build is about to park: it ends here if it holds what it must not, however that came in.
pub(crate) fn on_park(py: Python<'_>) {
    if DISTRUSTED.lock().expect("no panic while held").is_empty() {
        return;
    }
    for name in timings::names(py) {
        on_load(&name);
    }
}

fn reason_against(name: &str) -> Option<String> {
    let distrusted = DISTRUSTED.lock().expect("no panic while held");
    let is_it = |it: &&String| {
        let rest = name.strip_prefix(it.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let found = distrusted.iter().find(is_it)?;
    Some(if found == name {
        format!("`{name}` is distrusted")
    } else {
        format!("`{name}` is distrusted with `{found}`")
    })
}
