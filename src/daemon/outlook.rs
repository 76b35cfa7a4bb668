//! What our own commands read out of a daemon's document: a certain run, and whether something is
//! being prepared for the next one like it.

use std::path::Path;

use super::builds::NOT_YET;
use super::history::Record;
use super::status::Document;

/// What the next run may find.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outlook {
    /// Nothing warm, now or later; why a start failed, if one did.
    Nothing(Option<String>),
    /// What there is now.
    Settled,
    /// More than there is now.
    Preparing,
}

impl Document {
    /// The latest run with these arguments that has begun at `since` (seconds since the epoch) or
    /// later.
    pub(super) fn run(&self, argv: &[String], cwd: &Path, since: f64) -> Option<&Record> {
        let is_it = |run: &&Record| run.argv == argv && run.cwd == cwd && run.started >= since;
        self.runs.iter().rev().find(is_it)
    }

    pub(super) fn outlook(&self) -> Outlook {
        let is_preparing = self.roots.iter().any(|root| {
            let is_due = match root.state.as_str() {
                "building" => true,
                "waiting" => root.why.is_some(),
                _ => false,
            };
            let mut states = root.processes.iter().map(|process| &process.state);
            is_due
                || states.any(|state| state == "starting" || state == "replacement")
                || root.unprepared.iter().any(|it| it.why.starts_with(NOT_YET))
        });
        if is_preparing {
            return Outlook::Preparing;
        }
        let mut processes = self.roots.iter().flat_map(|root| &root.processes);
        if processes.any(|process| process.state == "ready") {
            return Outlook::Settled;
        }
        let failed = self.roots.iter().find(|root| root.state == "failed");
        Outlook::Nothing(failed.map(|root| {
            let words = [root.why.as_deref(), root.output.as_deref()];
            let words: Vec<&str> = words.into_iter().flatten().collect();
            words.join("\n").trim().to_owned()
        }))
    }
}
