//! One zygote, as the daemon sees it.
//!
//! ```text
//!              Parked                  stale, replaced, refused
//!  Starting ───────────▶ Ready ────────────────────────────────▶ Leaving
//!     │                    │                                        │ its last run ended:
//!     │ Failed, EOF,       │ EOF                                    │ the channel is dropped,
//!     │ unsettled, slow    ▼                                        ▼ the process exits
//!     └──────────────────▶ gone ◀───────────────────────────────────┘
//! ```
//!
//! Only a Ready zygote gets runs. A Leaving one is still listened to, because it reports the ends
//! of its runs. What a failed start leaves behind is a [`Failure`]: it is kept by the root, answers
//! for the zygote until something it had read changes, and holds the captured output.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::Shutdown;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::choose::Answer;
use super::level::Level;
use super::runs::Worker;
use super::shape::RootKey;
use crate::process::Process;
use crate::protocol::{Before, Loads, Order, Parked};
use crate::trace::{Role, Signature, Trace};
use crate::transport::Connection;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ZygoteId(pub(super) u64);

#[derive(Debug)]
pub(super) enum State {
    Starting,
    Ready,
    /// Takes no more runs, and why.
    Leaving(String),
}

/// Building takes a second or so; importing the largest plugin sets on a cold disk under load was
/// seen to take 20 s. Beyond this it hangs.
pub(super) const START_LIMIT: Duration = Duration::from_secs(120);

/// As much of the output of a failed start as anybody will read: the end of it.
const OUTPUT_SHOWN: u64 = 16 << 10;

#[derive(Debug)]
pub(super) struct Zygote {
    pub(super) id: ZygoteId,
    pub(super) root: RootKey,
    pub(super) level: Level,
    /// The zygote it was forked from.
    pub(super) parent: Option<ZygoteId>,
    pub(super) state: State,
    pub(super) control: Connection,
    /// What it wrote to its standard output and error.
    output: File,
    pub(super) started: Instant,
    /// When it parked, or something was grown from it or served by it last.
    pub(super) needed: Instant,
    /// Whom to end if it hangs. Of a Z0 that has not spoken yet: what was started, whose child it
    /// will be. Of a grown one: nobody.
    process: Option<Process>,
    /// The process group that is its own: nobody's worker is in it.
    group: Option<i32>,
    /// What it says itself.
    pub(super) pid: Option<i32>,
    /// Its child that waits for the next run.
    pub(super) standby: Option<Worker>,
    pub(super) trace: Trace,
    watched: BTreeSet<PathBuf>,
    pub(super) holds: String,
    pub(super) shallow: Option<String>,
    pub(super) build_seconds: f64,
    /// Where it was to park, if not at the usual place.
    pub(super) before: Option<Before>,
    /// How many zygotes it was forked from, one from the other.
    pub(super) reach: usize,
    /// Grown from one of the same level, which is parked before a file ([`super::edits`]).
    pub(super) is_from_base: bool,
    /// See [`Parked`].
    pub(super) places: Vec<(PathBuf, String)>,
    pub(super) opening: Option<(String, f64)>,
    /// How many modules it holds.
    pub(super) modules: u32,
    pub(super) loads: Loads,
    /// The modules of what it was forked from, and the seconds that this spares.
    inherited: (u32, f64),
    answers: BTreeMap<Level, Answer>,
    /// Runs it was given that have not ended.
    pub(super) runs: BTreeSet<u64>,
    pub(super) served: u32,
    /// The number of the last run it served, or that it was grown for: what least recently used
    /// goes by.
    pub(super) used: u64,
}

/// Why a checkpoint could not be built.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) reason: String,
    pub(super) output: String,
    pub(super) at: Instant,
    trace: Trace,
}

impl Failure {
    /// Nothing is known of what it depends on.
    pub(super) fn blind(reason: String, at: Instant) -> Self {
        Self {
            reason,
            output: String::new(),
            at,
            trace: Trace::default(),
        }
    }

    /// Of what it depends on, only these files.
    pub(super) fn on_files(&self, files: &[PathBuf]) -> Self {
        let read = self.trace.files.iter();
        let trace = Trace {
            files: read
                .filter(|file| files.contains(&file.path))
                .cloned()
                .collect(),
            ..Trace::default()
        };
        Self {
            output: String::new(),
            trace,
            ..self.clone()
        }
    }

    /// An input of the failed start is not what it was: it may go better now.
    pub(super) fn outdated(&mut self) -> bool {
        self.trace.check_disk().is_err()
    }

    pub(super) fn watched(&self) -> BTreeSet<PathBuf> {
        self.trace.watched()
    }

    pub(super) fn trace(&self) -> &Trace {
        &self.trace
    }
}

impl Zygote {
    pub(super) fn starting(
        id: ZygoteId,
        root: RootKey,
        level: Level,
        control: Connection,
        output: File,
        group: Option<i32>,
        now: Instant,
    ) -> Self {
        Self {
            id,
            root,
            level,
            parent: None,
            state: State::Starting,
            control,
            output,
            started: now,
            needed: now,
            process: group.and_then(|pid| Process::of(pid).ok()),
            group,
            pid: None,
            standby: None,
            trace: Trace::default(),
            watched: BTreeSet::new(),
            holds: String::new(),
            shallow: None,
            build_seconds: 0.0,
            before: None,
            reach: 0,
            is_from_base: false,
            places: Vec::new(),
            opening: None,
            modules: 0,
            loads: Loads::default(),
            inherited: (0, 0.0),
            answers: BTreeMap::new(),
            runs: BTreeSet::new(),
            served: 0,
            used: 0,
        }
    }

    /// It has said which process it is.
    pub(super) fn introduce(&mut self, pid: i32) {
        if self.pid == Some(pid) {
            return;
        }
        self.pid = Some(pid);
        self.process = Process::of(pid).ok();
        self.group.get_or_insert(pid);
        if matches!(self.state, State::Leaving(_)) && self.runs.is_empty() {
            self.kill();
        }
    }

    /// Starting → Ready. `parent` is the trace of the zygote it was forked from.
    pub(super) fn park(&mut self, parked: Parked, parent: Option<&Trace>) {
        self.holds = parked.holds;
        self.shallow = parked.shallow;
        self.build_seconds = parked.seconds;
        self.places = parked.places;
        self.opening = parked.opening;
        self.modules = parked.modules;
        self.loads = parked.loads;
        self.trace = parked.trace;
        if let Some(parent) = parent {
            self.trace.inherit(parent);
        }
        self.watched = self.trace.watched();
        self.answers.insert(self.level.clone(), Answer::Accepts);
        self.state = State::Ready;
    }

    /// Has it end its standby, until it serves a run again.
    pub(super) fn rest(&mut self) {
        self.standby = None;
        // If it is gone, that is heard.
        let _ = self.control.post(&Order::Rest, &[]);
    }

    /// Takes over what is told of a checkpoint together with what lies above it.
    pub(super) fn stand_on(&mut self, parent: Option<(u32, f64)>) {
        self.inherited = parent.unwrap_or_default();
    }

    /// The modules that it holds beyond those of what it was forked from.
    pub(super) fn added(&self) -> u32 {
        self.modules.saturating_sub(self.inherited.0)
    }

    /// What a run is spared, estimated: what it would import to get here. Of a build that was not
    /// watched module by module it is all of it; watched ones do much else that no run does.
    pub(super) fn spares(&self) -> f64 {
        let own = match self.loads.watched {
            true => self.loads.own_micros() as f64 / 1e6,
            false => self.build_seconds,
        };
        self.inherited.1 + own
    }

    /// Any → Leaving.
    pub(super) fn leave(&mut self, why: &str) {
        if !self.control.has_output() {
            // It need not keep a standby for what will not come. It still reports how runs end.
            let _ = self.control.stream().shutdown(Shutdown::Write);
        }
        self.state = State::Leaving(why.to_owned());
    }

    /// Any → Leaving, and no more building: it would go on until it is to park.
    pub(super) fn end(&mut self, why: &str) {
        if self.is_starting() {
            self.kill();
        }
        self.leave(why);
    }

    /// Ends the process if it is known. Its sockets close with it, so its clients learn of it.
    pub(super) fn kill(&self) {
        if let Some(process) = &self.process {
            process.kill(self.group.unwrap_or_default());
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready)
    }

    pub(super) fn is_starting(&self) -> bool {
        matches!(self.state, State::Starting)
    }

    /// Nothing keeps it any more: its channel may be dropped.
    pub(super) fn is_spent(&self) -> bool {
        matches!(self.state, State::Leaving(_)) && self.runs.is_empty() && !self.is_stranger()
    }

    /// Is building and could not be ended: it has not said yet which process it is.
    pub(super) fn is_stranger(&self) -> bool {
        self.process.is_none() && self.pid.is_none()
    }

    pub(super) fn failure(&self, reason: String, trace: Trace, now: Instant) -> Failure {
        Failure {
            reason,
            output: self.output_tail(),
            at: now,
            trace,
        }
    }

    pub(super) fn take_run(&mut self, run: u64) {
        self.runs.insert(run);
    }

    /// One of the runs that have these levels has entered pytest.
    pub(super) fn was_entered(&mut self, run: u64, levels: &[Level]) {
        self.served += 1;
        self.used = run;
        self.note(levels, Answer::Accepts);
    }

    /// What it is known to say to runs that have these levels.
    pub(super) fn answer(&self, levels: &[Level]) -> Answer {
        let Some(level) = self.like_its_own(levels) else {
            // All runs of a root have the Z0. Only those that name a test file first have a Z3.
            return match self.level {
                Level::Z0 => Answer::Accepts,
                _ => Answer::Refuses,
            };
        };
        // Other early options may come to the same; other conftests do not.
        let unknown = match level {
            Level::Z0 | Level::P0(_) => Answer::Unknown,
            Level::Z2(_) | Level::Z3(..) => Answer::Refuses,
        };
        self.answers.get(level).copied().unwrap_or(unknown)
    }

    pub(super) fn note(&mut self, levels: &[Level], answer: Answer) {
        if let Some(level) = self.like_its_own(levels).cloned() {
            self.answers.insert(level, answer);
        }
    }

    /// That of these levels which is as deep as its own.
    fn like_its_own<'a>(&self, levels: &'a [Level]) -> Option<&'a Level> {
        let depth = self.level.depth();
        levels.iter().find(|level| level.depth() == depth)
    }

    /// No shape is left that it would accept, as far as is known.
    pub(super) fn accepts_nothing(&self) -> bool {
        !self.answers.values().any(|a| *a == Answer::Accepts)
    }

    pub(super) fn watched(&self) -> &BTreeSet<PathBuf> {
        &self.watched
    }

    /// Whether this file is in the midst of being executed: what follows may be edited.
    pub(super) fn holds_open(&self, path: &Path) -> bool {
        let is_head = |role| matches!(role, Role::Head { .. });
        let mut files = self.trace.files.iter();
        files.any(|file| is_head(file.role) && file.path == path)
    }

    /// Files of the project that are not what was executed, in the order of that; what is there
    /// now, and the place before.
    pub(super) fn edited(&self) -> Vec<(PathBuf, Option<Signature>, String)> {
        let executed = |path: &PathBuf| self.trace.files.iter().find(|file| file.path == *path);
        let places = self.places.iter().filter_map(|(path, place)| {
            let now = Signature::of(path);
            let is_other = executed(path).is_some_and(|file| file.signature != now);
            is_other.then(|| (path.clone(), now, place.clone()))
        });
        places.collect()
    }

    /// The end of what it wrote.
    pub(super) fn output_tail(&self) -> String {
        let size = self.output.metadata().map_or(0, |m| m.len());
        let from = size.saturating_sub(OUTPUT_SHOWN);
        let mut bytes = vec![0; (size - from) as usize];
        match self.output.read_at(&mut bytes, from) {
            Ok(count) => String::from_utf8_lossy(&bytes[..count]).trim().to_owned(),
            Err(_) => String::new(),
        }
    }

    pub(super) fn name(&self) -> &'static str {
        self.level.name()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::shape::Shape;
    use crate::daemon::tests::fakes::{NOBODY, memory_file, parked, run};
    use std::io::Write;
    use std::os::unix::process::CommandExt;

    fn zygote(level: Level) -> (Zygote, Connection) {
        let (ours, theirs) = Connection::pair().unwrap();
        let zygote = Zygote::starting(
            ZygoteId(1),
            RootKey::of(&run()),
            level,
            ours,
            memory_file(),
            None,
            Instant::now(),
        );
        (zygote, theirs)
    }

    #[test]
    fn it_is_ready_only_between_parking_and_leaving() {
        let (mut z, _theirs) = zygote(Level::Z0);
        assert!(z.is_starting() && !z.is_ready());
        z.park(parked(9), None);
        assert!(z.is_ready());
        z.leave("stale");
        assert!(!z.is_ready());
    }

    #[test]
    fn it_is_spent_when_it_leaves_and_its_runs_ended() {
        let (mut z, _theirs) = zygote(Level::Z0);
        z.introduce(NOBODY);
        z.park(parked(NOBODY), None);
        z.take_run(1);
        assert!(!z.is_spent());
        z.leave("replaced");
        assert!(!z.is_spent());
        z.runs.remove(&1);
        assert!(z.is_spent());
    }

    #[test]
    fn who_builds_is_ended_when_it_is_not_wanted_any_more() {
        let sleep = || {
            let mut command = std::process::Command::new("sleep");
            command.arg("100").process_group(0).spawn().unwrap()
        };
        let (mut z, _theirs) = zygote(Level::P0(Shape::of(&run())));
        let mut child = sleep();
        z.introduce(child.id() as i32);
        z.end("replaced");
        assert!(z.is_spent() && !child.wait().unwrap().success());

        // It was too early to know.
        let (mut z, _theirs) = zygote(Level::P0(Shape::of(&run())));
        z.end("replaced");
        assert!(!z.is_spent());
        let mut child = sleep();
        z.introduce(child.id() as i32);
        assert!(z.is_spent() && !child.wait().unwrap().success());
    }

    #[test]
    fn a_prepared_checkpoint_accepts_the_shape_it_was_grown_for() {
        let mut other = run();
        other.cwd = b"/elsewhere".to_vec();
        for (depth, unknown) in [(0, Answer::Unknown), (1, Answer::Refuses)] {
            let levels = Level::all(&run());
            let (mut z, _theirs) = zygote(levels[depth].clone());
            assert_eq!(z.answer(&levels), unknown);
            z.park(parked(9), Some(&Trace::default()));
            assert_eq!(z.answer(&levels), Answer::Accepts);
            assert_eq!(z.answer(&Level::all(&other)), unknown);
            z.note(&levels, Answer::Refuses);
            assert!(z.accepts_nothing());
        }
    }

    #[test]
    fn what_holds_a_first_module_refuses_runs_that_name_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("test_a.py");
        std::fs::write(&file, "").unwrap();
        let mut named = run();
        named.argv = vec![file.as_os_str().as_encoded_bytes().to_vec()];
        let levels = Level::all(&named);
        let (mut z, _theirs) = zygote(levels[2].clone());
        z.park(parked(9), Some(&Trace::default()));
        assert_eq!(z.answer(&levels), Answer::Accepts);
        assert_eq!(z.answer(&Level::all(&run())), Answer::Refuses);
    }

    #[test]
    fn a_failure_keeps_the_output() {
        let (mut z, _theirs) = zygote(Level::Z0);
        z.output.write_all(b"Traceback\nImportError\n").unwrap();
        let failure = z.failure("no pytest".into(), Trace::default(), Instant::now());
        assert_eq!(failure.output, "Traceback\nImportError");
    }
}
