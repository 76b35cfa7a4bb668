//! What `verify` says: while it works on stderr, in the end on stdout.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use console::Style;
use serde::Serialize;

use super::compare::Finding;
use super::runs::told_status;
use super::{Verdict, commands};
use crate::error::Result;

/// A screen's worth of each group.
const MOST_LINES: usize = 20;
/// Of what is unstable, names are enough.
const MOST_NAMES: usize = 3;
/// A module's constant may be a whole document.
const MOST_CHARACTERS: usize = 300;

/// What `--json` prints. New fields do not change the version.
#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    /// `same`, `different` or `unjudged`.
    verdict: &'static str,
    /// Why it could not be judged.
    reason: Option<String>,
    executions: usize,
    checkpoint: Option<&'a str>,
    why_not_deeper: Option<&'a str>,
    tests: Option<usize>,
    /// Those with something to say: what differs, what differs between plain runs, what differs
    /// between warm ones.
    findings: &'a [Finding],
}

pub(super) fn print_json(judged: &Result<Verdict>, executions: usize) {
    let verdict = judged.as_ref().ok();
    let document = Document {
        version: 1,
        verdict: match verdict {
            Some(verdict) if verdict.differs() => "different",
            Some(_) => "same",
            None => "unjudged",
        },
        reason: judged.as_ref().err().map(ToString::to_string),
        executions,
        checkpoint: verdict.map(|it| it.checkpoint.as_str()),
        why_not_deeper: verdict.and_then(|it| it.why.as_deref()),
        tests: verdict.map(|it| it.tests),
        findings: verdict.map_or(&[], |it| &it.findings),
    };
    let text = serde_json::to_string(&document).expect("it holds text and numbers only");
    commands::print(&format!("{text}\n"));
}

/// A line on a terminal that the next one takes the place of.
pub(super) fn progress(text: &str) {
    if console::user_attended_stderr() {
        let _ = write!(io::stderr(), "\r\x1b[K{text}");
    }
}

pub(super) fn clear() {
    progress("");
}

/// For people.
pub(super) fn print(verdict: &Verdict, executions: usize) {
    for (findings, what) in [
        (
            unstable as fn(&Finding) -> &Vec<String>,
            "plain pytest differs from run to run",
        ),
        (
            wavering,
            "warm runs differ from run to run where plain ones do not",
        ),
    ] {
        for finding in &verdict.findings {
            let names = findings(finding);
            if !names.is_empty() {
                eprintln!("note: {what} in {}: {}", finding.group, listed(names));
            }
        }
    }
    let served = match &verdict.why {
        Some(why) => format!("served warm from {} ({why})", verdict.checkpoint),
        None => format!("served warm from {}", verdict.checkpoint),
    };
    let tests = match verdict.tests {
        1 => "1 test".to_owned(),
        tests => format!("{tests} tests"),
    };
    let told = format!("{tests}, {executions} runs, {served}");
    if !verdict.differs() {
        let end = told_status(verdict.status, verdict.witnessed);
        return commands::print(&format!("no difference: {end}, {told}\n"));
    }
    let bold = Style::new().bold().force_styling(console::colors_enabled());
    let mut text = format!("the warm run is not what plain pytest is: {told}\n");
    for finding in &verdict.findings {
        let lines = &finding.differences;
        if lines.is_empty() {
            continue;
        }
        // Writing to a `String` cannot fail.
        let _ = writeln!(text, "\n{}", bold.apply_to(finding.group));
        for line in lines.iter().take(MOST_LINES) {
            let _ = writeln!(text, "  {}", shortened(line));
        }
        if lines.len() > MOST_LINES {
            let _ = writeln!(text, "  and {} more", lines.len() - MOST_LINES);
        }
    }
    commands::print(&text);
}

fn unstable(finding: &Finding) -> &Vec<String> {
    &finding.unstable
}

fn wavering(finding: &Finding) -> &Vec<String> {
    &finding.wavering
}

fn listed(names: &[String]) -> String {
    let shown: Vec<String> = names
        .iter()
        .take(MOST_NAMES)
        .map(|name| shortened(name))
        .collect();
    let mut text = shown.join("; ");
    if names.len() > MOST_NAMES {
        let _ = write!(text, "; and {} more", names.len() - MOST_NAMES);
    }
    text
}

/// On one line, without what a terminal would act on.
fn shortened(line: &str) -> String {
    let line = console::strip_ansi_codes(line);
    let shown = line.chars().take(MOST_CHARACTERS);
    let mut text: String = shown
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if text.len() < line.len() {
        text.push_str("...");
    }
    text
}
