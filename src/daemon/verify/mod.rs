//! `pyseidon-daemon verify`: is a warm run the same as a plain one?
//!
//! ```text
//!   plain ─▶ plain ─▶ pyseidon-test until it is warm ─▶ plain ─┬─▶ compare
//!  (for what        ╰──────────── compared ─────────────────╯  │
//!   it leaves)                    ▲                            │ differences
//!                                 ╰─── warm, plain ◀───────────╯ twice at most
//! ```
//!
//! - this file: the order of runs, and what is said in the end
//! - [`runs`]: one run and what it showed; the other side of it is `pytest_plugin/pyseidon/witness.py`
//! - [`compare`]: what counts as a difference
//! - [`mask`]: what varies in any two runs · [`tree`]: the files that a run wrote
//! - [`interrupt`]: leaving in good order

mod compare;
pub(super) mod interrupt;
mod mask;
mod report;
mod runs;
mod tree;

use std::ffi::OsString;
use std::time::{Duration, Instant};

use super::commands;
use super::outlook::Outlook;
use crate::error::{Error, Result};
use compare::{Finding, compare};
use runs::{How, Seen, Selection};
pub(super) use runs::{command_line, told_status};

/// No difference; some; it could not be judged. As `diff` has it.
const SAME: i32 = 0;
const DIFFERENT: i32 = 1;
pub(super) const UNJUDGED: i32 = 2;

/// A cold run, one from a Z0 while the P0 grows, and as many again for an edit meanwhile. A run
/// that is served in the same way for the same reason twice ends the attempts before.
const MOST_ATTEMPTS: usize = 5;

/// What is random comes out alike in three plain runs and otherwise in both warm ones once in
/// sixteen times, if it has two values; with a third pair once in 64.
const MORE_PAIRS: usize = 2;

/// How often the daemon is asked whether it is ready.
const PAUSE: Duration = Duration::from_millis(50);

/// What `verify` was told.
#[derive(Debug)]
pub(super) struct Options {
    /// For pytest.
    pub(super) arguments: Vec<OsString>,
    /// Show what the runs print.
    pub(super) show: bool,
    /// The answer is for tools.
    pub(super) json: bool,
    /// How long the daemon may take to prepare, in all.
    pub(super) wait: Duration,
}

/// What the comparison came to.
struct Verdict {
    findings: Vec<Finding>,
    /// `Z0` or `P0`: what served the warm runs.
    checkpoint: String,
    /// Why it was no deeper one.
    why: Option<String>,
    /// How plain pytest ended, as `waitpid` has it.
    status: i32,
    witnessed: bool,
    tests: usize,
}

impl Verdict {
    fn differs(&self) -> bool {
        self.findings.iter().any(|it| !it.differences.is_empty())
    }
}

/// `verify`. Returns the exit status.
pub(super) fn verify(options: &Options) -> i32 {
    interrupt::catch();
    let mut executions = 0;
    let judged = Selection::new(&options.arguments, options.show).and_then(|selection| {
        let mut play = Play {
            selection,
            deadline: None,
            wait: options.wait,
        };
        let judged = play.judge();
        executions = play.selection.executions;
        judged
    });
    report::clear();
    // Only now: the temporary directory is gone.
    interrupt::give_in();
    if options.json {
        report::print_json(&judged, executions);
    }
    match judged {
        Ok(verdict) => {
            if !options.json {
                report::print(&verdict, executions);
            }
            if verdict.differs() { DIFFERENT } else { SAME }
        }
        Err(error) => {
            eprintln!("error: {error}");
            UNJUDGED
        }
    }
}

/// The runs of one `verify`.
struct Play {
    selection: Selection,
    wait: Duration,
    /// For the daemon's preparations; from the first of them on.
    deadline: Option<Instant>,
}

impl Play {
    fn judge(&mut self) -> Result<Verdict> {
        self.plain("for the files that it leaves")?;
        let first = self.plain("to compare with")?;
        let warm = self.warm()?;
        let record = warm.record.as_ref();
        let (checkpoint, why) = record.map_or((None, None), |record| {
            (record.checkpoint.clone(), record.why.clone())
        });
        let (status, witnessed, tests) = (first.status, first.witnessed, first.tests);
        let mut plain = vec![first.facts, self.plain("to compare with")?.facts];
        let mut warm = vec![warm.facts];
        let mut findings = compare(&plain, &warm);
        for _ in 0..MORE_PAIRS {
            if findings.iter().all(|it| it.differences.is_empty()) {
                break;
            }
            warm.push(self.warm()?.facts);
            plain.push(self.plain("to see whether a difference stays")?.facts);
            findings = compare(&plain, &warm);
        }
        if findings.iter().any(|it| !it.differences.is_empty()) {
            disregard_consequences(&mut findings);
        }
        Ok(Verdict {
            findings,
            checkpoint: checkpoint.unwrap_or_default(),
            why,
            status,
            witnessed,
            tests,
        })
    }

    fn run(&mut self, how: How, what: &str) -> Result<Seen> {
        report::progress(&format!("run {}: {what}", self.selection.executions + 1));
        let seen = self.selection.run(how)?;
        self.go_on()?;
        Ok(seen)
    }

    fn plain(&mut self, why: &str) -> Result<Seen> {
        self.run(How::Plain, &format!("plain pytest, {why}"))
    }

    /// Runs it by `pyseidon-test` until that is warm, at P0 if there can be one.
    ///
    /// An error if it cannot be had, with the daemon's reason.
    fn warm(&mut self) -> Result<Seen> {
        let mut previous = None;
        for _ in 0..MOST_ATTEMPTS {
            let seen = self.run(How::Warm, "pyseidon-test")?;
            let Some(record) = &seen.record else {
                return Err(never_arrived(&seen));
            };
            let level = record.checkpoint.as_deref();
            if level == Some("P0") {
                return Ok(seen);
            }
            let served = (record.checkpoint.clone(), record.why.clone());
            let outlook = self.settle()?;
            let is_final = previous.as_ref() == Some(&served);
            match (&outlook, level) {
                (_, Some(_)) if is_final => return Ok(seen),
                (Outlook::Nothing(why), None) => {
                    return Err(unjudged(why.as_ref().or(record.why.as_ref())));
                }
                (_, None) if is_final => return Err(unjudged(record.why.as_ref())),
                _ => {}
            }
            previous = Some(served);
        }
        let why = previous.and_then(|(_, why)| why);
        Err(unjudged(why.as_ref()))
    }

    /// Waits until the daemon prepares nothing any more.
    fn settle(&mut self) -> Result<Outlook> {
        let wait = self.wait;
        let deadline = *self.deadline.get_or_insert_with(|| Instant::now() + wait);
        loop {
            let documents = commands::documents()?;
            let settled = documents.iter().map(|document| document.outlook());
            // Those that have something first: any of them may be that of the runs.
            let outlook = settled.max().unwrap_or(Outlook::Nothing(None));
            if outlook != Outlook::Preparing {
                return Ok(outlook);
            }
            if Instant::now() >= deadline {
                return Err(Error::Other(format!(
                    "could not be judged: the daemon was not ready within {} s\n\n\
                     hint: give it more time with `--wait`; `pyseidon-daemon status` says what it does",
                    wait.as_secs()
                )));
            }
            report::progress("the daemon prepares a checkpoint");
            std::thread::sleep(PAUSE);
            self.go_on()?;
        }
    }

    /// An error if somebody wants us to end.
    fn go_on(&self) -> Result<()> {
        if interrupt::is_wanted() {
            return Err(Error::Other("interrupted".into()));
        }
        Ok(())
    }
}

fn unjudged(why: Option<&String>) -> Error {
    let why = why.map_or("the daemon gave no reason", String::as_str);
    Error::Other(format!(
        "could not be judged: these runs are plain pytest: {why}\n\n\
         hint: `pyseidon-daemon status` and `pyseidon-daemon log` may say more"
    ))
}

/// The run was plain pytest without any daemon's doing.
fn never_arrived(seen: &Seen) -> Error {
    let why = match &seen.excuse {
        Some(excuse) => excuse.clone(),
        None if runs::random_seed() => "`PYTHONHASHSEED=random` asks for it".into(),
        None => "no daemon knows of them".into(),
    };
    Error::Other(format!(
        "could not be judged: `pyseidon-test` was plain pytest: {why}"
    ))
}

/// A warm run that ended otherwise leaves another `.pytest_cache`, which the next plain one puts
/// right: it is no chance of the suite's.
fn disregard_consequences(findings: &mut Vec<Finding>) {
    for finding in findings.iter_mut() {
        let is_cache = |name: &String| name.split('/').any(|part| part == ".pytest_cache");
        finding.unstable.retain(|name| !is_cache(name));
    }
    findings.retain(|finding| !finding.is_empty());
}

#[cfg(test)]
mod tests {
    use super::*;
    use compare::{Aspect, Facts, Group};

    fn facts(text: &str) -> Facts {
        Facts::from([(Group::Stdout, Aspect::Text(text.into()))])
    }

    #[test]
    fn only_what_has_something_to_say_is_told() {
        assert_eq!(compare(&[facts("a"), facts("a")], &[facts("a")]), []);
        let [found] = &compare(&[facts("a"), facts("a")], &[facts("b")])[..] else {
            panic!("one group differs");
        };
        assert_eq!((found.group, found.differences.len()), ("stdout", 2));
    }
}
