//! All that the daemon knows as a document for tools, and the same for people.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use console::Style;
use serde::{Deserialize, Serialize};

use super::dispatcher::{Dispatcher, wall_clock};
use super::history::Record;
use super::level::Level;
use super::relief::Gone;
use super::root::Root;
use super::supervisor::{State, Zygote};
use crate::protocol::ExitPath;

/// Changes when a field goes or gets another meaning; new fields do not count.
const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Document {
    version: u32,
    pub(super) project: PathBuf,
    pub(super) script: PathBuf,
    python: PathBuf,
    pid: u32,
    pss_kib: Option<u64>,
    uptime_seconds: f64,
    idle_timeout_seconds: f64,
    key: String,
    build: String,
    socket: PathBuf,
    log: Option<PathBuf>,
    /// Settings that could not be understood, and what is expected.
    #[serde(default)]
    warnings: Vec<String>,
    /// Modules that the user has each run import itself.
    #[serde(default)]
    distrusted: Vec<String>,
    /// Memory is short, in words, and nothing is built meanwhile.
    #[serde(default)]
    memory_short: Option<String>,
    /// What went because it was.
    #[serde(default)]
    gone: Vec<Gone>,
    /// Command lines of which it is known what they import.
    recordings: usize,
    pub(super) roots: Vec<RootStatus>,
    pub(super) runs: Vec<Record>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct RootStatus {
    id: String,
    /// `ready`, `building`, `failed` or `waiting`.
    pub(super) state: String,
    pub(super) why: Option<String>,
    /// What a failed start printed.
    pub(super) output: Option<String>,
    runs_with_this_hash_seed: u32,
    pub(super) processes: Vec<ProcessStatus>,
    /// Kinds of runs for which no checkpoint is prepared.
    pub(super) unprepared: Vec<Unprepared>,
    /// The Z0 has ended; the other checkpoints go on without it.
    #[serde(default)]
    z0_retired: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Unprepared {
    #[serde(default)]
    pub(super) level: String,
    pub(super) shape: String,
    pub(super) why: String,
    pub(super) output: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ProcessStatus {
    /// `Z0`, `P0` or `Z2`.
    level: String,
    pid: Option<i32>,
    /// `starting`, `ready`, `replacement` or `leaving`.
    pub(super) state: String,
    /// Why it leaves.
    why: Option<String>,
    /// Proportional set size: shared pages count by the share.
    pss_kib: Option<u64>,
    /// Its child that waits for the next run.
    standby: Option<StandbyStatus>,
    holds: String,
    /// Why it is not deeper.
    shallow: Option<String>,
    /// For what runs it was grown.
    shape: Option<String>,
    served: u32,
    running: usize,
    build_seconds: f64,
    age_seconds: f64,
    traced_files: usize,
    traced_directories: usize,
}

#[derive(Debug, Serialize, Deserialize)]
struct StandbyStatus {
    pid: i32,
    pss_kib: u64,
}

impl Dispatcher {
    /// The document, as JSON.
    pub(super) fn document(&self, now: Instant) -> String {
        let identity = &self.identity;
        let document = Document {
            version: VERSION,
            project: identity.root.clone(),
            script: identity.script.clone(),
            python: identity.python.clone(),
            pid: std::process::id(),
            pss_kib: pss_kib(std::process::id() as i32),
            uptime_seconds: now.saturating_duration_since(self.born).as_secs_f64(),
            idle_timeout_seconds: self.settings.idle_timeout().as_secs_f64(),
            key: identity.key.clone(),
            build: identity.build.clone(),
            socket: identity.socket.clone(),
            log: identity.log.clone(),
            warnings: self.settings.warnings().cloned().collect(),
            distrusted: self.learned.distrusted().cloned().collect(),
            memory_short: self.why_short(),
            gone: self.memory.gone.iter().cloned().collect(),
            recordings: self.learned.recordings().len(),
            roots: self
                .roots
                .iter()
                .map(|root| self.root_status(root, now))
                .collect(),
            runs: self.history.records().cloned().collect(),
        };
        serde_json::to_string(&document).expect("it holds text and numbers only")
    }

    fn root_status(&self, root: &Root, now: Instant) -> RootStatus {
        let (state, why) = state_of(root, self.memory.shortage.is_some());
        let processes = self
            .zygotes
            .values()
            .filter(|zygote| zygote.root == root.key)
            .map(|zygote| process_status(zygote, zygote_state(root, zygote), now))
            .collect();
        let unprepared = self.unprepared(root, |_| true);
        RootStatus {
            id: root.key.short(),
            state: state.to_owned(),
            why,
            output: root.failure.as_ref().map(|failure| failure.output.clone()),
            runs_with_this_hash_seed: root.current.as_ref().map_or(0, |g| g.served),
            processes,
            unprepared,
            z0_retired: root.has_retired(),
        }
    }

    /// Those of the levels that are `wanted` which have no checkpoint, and why.
    pub(super) fn unprepared(
        &self,
        root: &Root,
        wanted: impl Fn(&Level) -> bool,
    ) -> Vec<Unprepared> {
        let is_prepared = |level: &Level| {
            self.zygotes.values().any(|zygote| {
                zygote.root == root.key
                    && !matches!(zygote.state, State::Leaving(_))
                    && zygote.level == *level
            })
        };
        root.records
            .iter()
            .filter(|(level, _)| wanted(level))
            .filter(|(level, record)| {
                // A second one may be on its way, for another environment. (Of what there is
                // nothing to grow it from, the level above says why.)
                let is_of_z0 = level.depth() == 1 && root.has_retired();
                root.current.is_some()
                    && (record.grow.is_some() || !is_prepared(level))
                    && (is_of_z0 || !self.parents(root, level).is_empty())
            })
            .map(|(level, record)| Unprepared {
                level: level.name().to_owned(),
                shape: level.describe().unwrap_or_default(),
                why: self.why_not_deeper(root.key, level),
                output: record
                    .failure
                    .as_ref()
                    .map(|failure| failure.output.clone()),
            })
            .collect()
    }
}

/// The state of a root, and why. While memory `is_short` nothing is built.
pub(super) fn state_of(root: &Root, is_short: bool) -> (&'static str, Option<String>) {
    if root.current.is_some() {
        ("ready", None)
    } else if root.next.is_some() {
        ("building", None)
    } else if let Some(failure) = &root.failure {
        ("failed", Some(failure.reason.clone()))
    } else {
        let build = root.build.as_ref().filter(|_| !is_short);
        ("waiting", build.map(|want| want.why.clone()))
    }
}

pub(super) fn zygote_state(root: &Root, zygote: &Zygote) -> &'static str {
    match &zygote.state {
        State::Starting => "starting",
        State::Ready if root.next.as_ref().is_some_and(|next| next.has(zygote.id)) => "replacement",
        State::Ready => "ready",
        State::Leaving(_) => "leaving",
    }
}

fn process_status(zygote: &Zygote, state: &str, now: Instant) -> ProcessStatus {
    ProcessStatus {
        level: zygote.name().to_owned(),
        pid: zygote.pid,
        state: state.to_owned(),
        why: match &zygote.state {
            State::Leaving(why) => Some(why.clone()),
            State::Starting | State::Ready => None,
        },
        pss_kib: zygote.pid.and_then(pss_kib),
        // None if it was ended by somebody.
        standby: zygote.standby.as_ref().and_then(|standby| {
            let pid = standby.pid;
            let pss_kib = pss_kib(pid)?;
            // Asked last: so what was read was its own.
            standby.is_alive().then_some(StandbyStatus { pid, pss_kib })
        }),
        holds: zygote.holds.clone(),
        shallow: zygote.shallow.clone(),
        shape: zygote.level.describe(),
        served: zygote.served,
        running: zygote.runs.len(),
        build_seconds: zygote.build_seconds,
        age_seconds: now.saturating_duration_since(zygote.started).as_secs_f64(),
        traced_files: zygote.trace.files.len(),
        traced_directories: zygote.trace.dirs.len(),
    }
}

pub(super) fn pss_kib(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

impl Document {
    /// For people. `colour`: the output is a terminal that shows it.
    pub(super) fn render(&self, colour: bool) -> String {
        let style = |style: Style| style.force_styling(colour);
        let bold = style(Style::new().bold());
        let dim = style(Style::new().dim());
        let mut text = String::new();
        let out = &mut text;
        // Writing to a `String` cannot fail.
        let _ = writeln!(out, "{}", bold.apply_to(self.project.display()));
        let _ = writeln!(out, "  python   {}", self.python.display());
        let _ = writeln!(
            out,
            "  daemon   pid {}, {}, up {}; leaves after {} without a run",
            self.pid,
            memory(self.pss_kib),
            span(self.uptime_seconds),
            span(self.idle_timeout_seconds),
        );
        if let Some(log) = &self.log {
            let _ = writeln!(out, "  log      {}", log.display());
        }
        let yellow = style(Style::new().yellow());
        for warning in &self.warnings {
            let _ = writeln!(out, "  {}  {warning}", yellow.apply_to("warning"));
        }
        if !self.distrusted.is_empty() {
            let names = self.distrusted.join(", ");
            let _ = writeln!(out, "  distrust {names}: each run imports that itself");
        }
        let now = wall_clock();
        if let Some(short) = &self.memory_short {
            let _ = writeln!(
                out,
                "  {}   {short}; nothing is built",
                yellow.apply_to("memory")
            );
        }
        for gone in &self.gone {
            let ago = span((now - gone.at).max(0.0));
            let _ = writeln!(
                out,
                "  memory   ended {} {ago} ago: {}",
                gone.what, gone.why
            );
        }
        for root in &self.roots {
            root.render(out, &dim, colour);
        }
        if !self.runs.is_empty() {
            let _ = writeln!(out, "\n  last runs");
        }
        for run in self.runs.iter().rev() {
            render_run(run, out, now, &dim);
        }
        text
    }
}

impl RootStatus {
    fn render(&self, out: &mut String, dim: &Style, colour: bool) {
        let shade = match self.state.as_str() {
            "ready" => Style::new().green(),
            "failed" => Style::new().red(),
            _ => Style::new().yellow(),
        };
        let state = shade.force_styling(colour).apply_to(&self.state);
        let why = self
            .why
            .as_ref()
            .map(|why| format!(": {why}"))
            .unwrap_or_default();
        let _ = writeln!(out, "\n  root {}  {state}{why}", dim.apply_to(&self.id));
        show_output(out, self.output.as_deref(), dim);
        if self.z0_retired {
            let why = "retired: built anew when it is wanted again";
            let _ = writeln!(out, "    Z0  {}", dim.apply_to(why));
        }
        for process in &self.processes {
            let pid = process
                .pid
                .map_or_else(|| "-".into(), |pid| pid.to_string());
            let _ = writeln!(
                out,
                "    {}  pid {pid:<8}{:>10}  {:<11}  {} {}  {}",
                process.level,
                memory(process.pss_kib),
                process.state,
                process.served,
                if process.served == 1 { "run" } else { "runs" },
                process.holds
            );
            let standby = process.standby.as_ref();
            let standby = standby.map(|it| format!("pid {}, {}", it.pid, memory(Some(it.pss_kib))));
            for (label, value) in [
                ("standby", &standby),
                ("for", &process.shape),
                ("not deeper", &process.shallow),
                ("leaves", &process.why),
            ] {
                if let Some(value) = value {
                    let _ = writeln!(out, "        {}", dim.apply_to(format!("{label}: {value}")));
                }
            }
        }
        for kind in &self.unprepared {
            let _ = writeln!(out, "    no {}  {}", kind.level, kind.why);
            let _ = writeln!(
                out,
                "        {}",
                dim.apply_to(format!("for: {}", kind.shape))
            );
            show_output(out, kind.output.as_deref(), dim);
        }
    }
}

/// The end of what a failed start printed: a traceback's last lines say most.
pub(super) fn show_output(out: &mut String, output: Option<&str>, dim: &Style) {
    const LINES: usize = 20;
    let lines: Vec<_> = output.unwrap_or_default().lines().collect();
    for line in &lines[lines.len().saturating_sub(LINES)..] {
        let _ = writeln!(out, "        {}", dim.apply_to(line));
    }
}

pub(super) fn render_run(run: &Record, out: &mut String, now: f64, dim: &Style) {
    let how = match &run.checkpoint {
        Some(level) => format!("warm {level}"),
        None => "plain".into(),
    };
    let seconds = run
        .seconds
        .map_or_else(|| "-".into(), |s| format!("{s:.2} s"));
    let _ = write!(
        out,
        "    {:>12}  {how:<7}  {seconds:>9}  {:<18}  {}",
        format!("{} ago", span((now - run.started).max(0.0))),
        end(run),
        run.argv.join(" "),
    );
    if let Some(why) = &run.why {
        let _ = write!(out, "  {}", dim.apply_to(format!("({why})")));
    }
    let _ = writeln!(out);
}

/// How a run ended, in a few words.
fn end(run: &Record) -> String {
    let Some(status) = run.status else {
        return match (&run.checkpoint, run.seconds) {
            (Some(_), None) if run.why.as_deref() != Some("its zygote died") => "running".into(),
            _ => String::new(),
        };
    };
    let status = if libc::WIFSIGNALED(status) {
        format!("signal {}", libc::WTERMSIG(status))
    } else {
        format!("exit {}", libc::WEXITSTATUS(status))
    };
    match run.exit {
        Some(ExitPath::Short) => format!("{status}, short exit"),
        Some(ExitPath::Full) => format!("{status}, full exit"),
        Some(ExitPath::Abrupt) | None => status,
    }
}

pub(super) fn memory(kib: Option<u64>) -> String {
    kib.map_or_else(
        || "-".into(),
        |kib| format!("{:.1} MiB", kib as f64 / 1024.0),
    )
}

/// A span of time with the precision that people care about.
pub(super) fn span(seconds: f64) -> String {
    match seconds as u64 {
        s @ 0..60 => format!("{s} s"),
        s @ 60..3600 => format!("{} min", s / 60),
        s => format!("{} h {} min", s / 3600, s % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Ahead;

    fn record() -> Record {
        Record {
            id: 1,
            argv: vec!["tests/a.py".into(), "-x".into()],
            cwd: "/p".into(),
            started: wall_clock(),
            seconds: Some(0.25),
            checkpoint: Some("P0".into()),
            why: None,
            pid: Some(2),
            status: Some(256),
            exit: Some(ExitPath::Short),
            ahead: Some(Ahead::Natural("another version".into())),
            parts: Some([0.001, 0.2, 0.001]),
            spared: None,
        }
    }

    #[test]
    fn a_run_is_told_in_one_line() {
        let mut text = String::new();
        let dim = Style::new().force_styling(false);
        render_run(&record(), &mut text, wall_clock(), &dim);
        for part in ["warm P0", "0.25 s", "exit 1, short exit", "tests/a.py -x"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        // That is for tools.
        assert!(!text.contains("another version"), "{text}");
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn death_by_signal_is_told() {
        let mut run = record();
        run.status = Some(libc::SIGKILL);
        run.exit = Some(ExitPath::Abrupt);
        assert_eq!(end(&run), "signal 9");
    }

    #[test]
    fn spans_are_short() {
        let spans = [0.4, 59.9, 60.0, 3599.0, 3700.0].map(span);
        assert_eq!(spans, ["0 s", "59 s", "1 min", "59 min", "1 h 1 min"]);
    }

    #[test]
    fn this_process_uses_memory() {
        assert!(pss_kib(std::process::id() as i32).unwrap() > 100);
    }
}
