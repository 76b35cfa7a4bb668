//! `pyseidon-daemon last`: the project's last run, and the same by plain pytest.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use console::Style;

use super::commands::{self, NOT_RUNNING, here, print};
use super::dispatcher::wall_clock;
use super::history::Record;
use super::status::{Document, render_run};
use super::verify::{UNJUDGED, command_line, interrupt, told_status};
use crate::error::{Context, Error, Result};
use crate::project;

/// What stands for bytes that are no UTF-8.
const REPLACEMENT: char = '\u{fffd}';

const DIFFERENT: i32 = 1;

/// `last`. Returns the exit status.
pub(super) fn last(plain: bool) -> i32 {
    let done = find().and_then(|found| match found {
        None => nothing(),
        Some((document, at)) if plain => again(&document, &document.runs[at]),
        Some((document, at)) => {
            let dim = Style::new().dim().force_styling(console::colors_enabled());
            let mut line = String::new();
            render_run(&document.runs[at], &mut line, wall_clock(), &dim);
            print(&format!("{}\n", line.trim()));
            Ok(0)
        }
    });
    done.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        UNJUDGED
    })
}

/// The last run of all daemons of the project, and whose it is.
fn find() -> Result<Option<(Document, usize)>> {
    let runs = commands::documents()?.into_iter().filter_map(|document| {
        let runs = document.runs.iter().enumerate();
        let (at, _) = runs.max_by(|(_, a), (_, b)| a.started.total_cmp(&b.started))?;
        Some((document, at))
    });
    Ok(runs.max_by(|(a, i), (b, j)| a.runs[*i].started.total_cmp(&b.runs[*j].started)))
}

fn nothing() -> Result<i32> {
    eprintln!(
        "error: no run is known for `{}`\n\nhint: `pyseidon-test` makes one; daemons that have left \
         remember none",
        project::root(&here()?).display()
    );
    Ok(NOT_RUNNING)
}

/// Runs it again by plain pytest, on this terminal and in this environment.
fn again(document: &Document, run: &Record) -> Result<i32> {
    let Some(warm) = run.status else {
        return Err(unknown(run));
    };
    if run.argv.iter().any(|word| word.contains(REPLACEMENT)) {
        return Err(Error::Other(
            "the last run had an argument that is not UTF-8, and is not known exactly\n\n\
             hint: run `pytest` with the same arguments yourself"
                .into(),
        ));
    }
    let script = document.script.display();
    let mut command = Command::new(&document.script);
    command.args(&run.argv).current_dir(&run.cwd);
    let doing = || format!("cannot run `{script}` in `{}`", run.cwd.display());
    interrupt::catch();
    let plain = interrupt::wait(command.spawn().doing(doing)?).doing(doing)?;
    let plain = plain.into_raw();
    interrupt::give_in();
    let (warm_end, plain_end) = (told_status(warm, true), told_status(plain, true));
    if warm == plain {
        eprintln!("plain pytest ended as the warm run did: {plain_end}");
        return Ok(0);
    }
    let words: Vec<OsString> = run.argv.iter().map(OsString::from).collect();
    eprintln!(
        "plain pytest ended otherwise than the warm run: {plain_end}, not {warm_end}\n\n\
         hint: if nothing was edited in between, compare them: `pyseidon-daemon verify -- {}`",
        command_line(&words)
    );
    Ok(DIFFERENT)
}

/// There is nothing to compare with.
fn unknown(run: &Record) -> Error {
    Error::Other(match (&run.checkpoint, run.seconds) {
        (None, _) => format!(
            "the last run was plain pytest already, and how it ended is not known{}\n\n\
             hint: run `pyseidon-test` once more, or compare: `pyseidon-daemon verify`",
            run.why
                .as_ref()
                .map(|why| format!(": {why}"))
                .unwrap_or_default()
        ),
        (Some(_), None) => "the last run goes on\n\nhint: wait for its end".into(),
        (Some(_), Some(_)) => {
            "how the last run ended is not known\n\nhint: `pyseidon-daemon log`".into()
        }
    })
}
