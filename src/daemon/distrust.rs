//! `pyseidon-daemon distrust`: modules that each run imports itself, because the user says so.
//!
//! No checkpoint may hold them: a build that comes to one ends there, and is served by what lies
//! above, as with any other reason. They are kept with what was learned, so they outlive the daemon.

use std::str::FromStr;
use std::time::Instant;

use super::builds::{CHANGE_PATIENCE, CHANGE_PAUSE};
use super::commands::{self, NOT_RUNNING, here, print};
use super::dispatcher::Dispatcher;
use super::history::Kind;
use super::root::Want;
use crate::error::Result;
use crate::project;
use crate::protocol::Distrust;

/// The name of a module or package, as an import statement has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Module(String);

impl FromStr for Module {
    type Err = String;

    fn from_str(word: &str) -> std::result::Result<Self, String> {
        let is_name = |part: &str| {
            let mut letters = part.chars();
            let first = letters.next();
            first.is_some_and(|it| it.is_alphabetic() || it == '_')
                && letters.all(|it| it.is_alphanumeric() || it == '_')
        };
        if word.split('.').all(is_name) {
            Ok(Self(word.to_owned()))
        } else {
            Err(
                "that is no module's name\n\nhint: name it as an import statement does, such as \
                 `app.models`; a package stands for all that is in it"
                    .into(),
            )
        }
    }
}

/// `distrust`. Returns the exit status.
pub(super) fn distrust(module: Option<Module>, undo: bool) -> Result<i32> {
    let request = Distrust {
        module: module.map(|module| module.0),
        undo,
    };
    let answers = commands::distrusted(&request)?;
    if answers.is_empty() {
        eprintln!(
            "error: no daemon is running for `{}`\n\nhint: `pyseidon-daemon start`, then again",
            project::root(&here()?).display()
        );
        return Ok(NOT_RUNNING);
    }
    for (has_changed, names) in &answers {
        let text = match (&request.module, undo, has_changed) {
            (None, _, _) if names.is_empty() => "no module is distrusted".into(),
            (None, _, _) => names.join("\n"),
            (Some(module), false, true) => {
                format!("`{module}` is distrusted: each run imports it itself from now on")
            }
            (Some(module), false, false) => format!("`{module}` is distrusted already"),
            (Some(module), true, true) => format!("`{module}` is not distrusted any more"),
            (Some(module), true, false) => format!("`{module}` was not distrusted"),
        };
        print(&format!("{text}\n"));
    }
    Ok(0)
}

impl Dispatcher {
    /// Whether anything has changed by it, and all names.
    pub(super) fn on_distrust(&mut self, request: &Distrust, now: Instant) -> (bool, Vec<String>) {
        let has_changed = request
            .module
            .as_ref()
            .is_some_and(|module| self.learned.distrust(module, request.undo, now));
        if let Some(module) = request.module.as_ref().filter(|_| has_changed) {
            // At once: it is the user's word.
            self.learned.save();
            let why = match request.undo {
                true => format!("`{module}` is not distrusted any more"),
                false => format!("`{module}` is distrusted"),
            };
            tracing::info!("{why}");
            self.start_anew(&why, now);
        }
        (has_changed, self.learned.distrusted().cloned().collect())
    }

    /// Takes everything out of service. Which checkpoints hold a module is not always known; and
    /// this is asked for once in a while.
    fn start_anew(&mut self, why: &str, now: Instant) {
        for at in 0..self.roots.len() {
            let root = &mut self.roots[at];
            let generations = [root.current.take(), root.next.take()];
            let was_built = root.failure.take().is_some() || root.builds > 0;
            root.forgive();
            if was_built || generations.iter().any(Option::is_some) {
                let want = Want::new(why, now, CHANGE_PAUSE, CHANGE_PATIENCE);
                root.want_build(want, now);
            }
            let key = root.key;
            for generation in generations.into_iter().flatten() {
                // (It is in the root's tables no more.)
                let level = self.zygotes.get(&generation.z0).map(|it| it.level.clone());
                let names = |id| Some(self.zygotes.get(id)?.name().to_owned());
                let along = generation.prepared.iter().filter_map(names).collect();
                if let Some(level) = level {
                    self.note_incident_of(key, &level, Kind::Distrusted, why, along);
                }
                self.dismiss(generation, why);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_an_import_statement_takes_is_a_module() {
        for word in ["a", "app.models", "_x.y1", "größe"] {
            assert!(word.parse::<Module>().is_ok(), "{word}");
        }
        for word in ["", "a.", ".a", "a-b", "a b", "a/b.py", "1a"] {
            let error = word.parse::<Module>().unwrap_err();
            assert!(error.contains("hint: "), "{word}");
        }
    }
}
