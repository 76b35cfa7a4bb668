//! Runs, from their request to their end.
//!
//! ```text
//!                             Entered
//!  request ──────▶ Serving ───────────────▶ Running ──Ended──▶ history
//!     │             │  ▲ │                     │
//!     │ nothing is  │  └─┘ Refused, Died:      │ the zygote is gone:
//!     │ ready       ▼      the next one        ▼ the end is not known
//!     └──────────▶ Plain
//! ```
//!
//! No run waits for a checkpoint that is being built: what a Z0 saves is about what it takes to
//! build, so who waits for one is later than plain pytest (by up to a third, where there are no
//! plugins).
//!
//! Until a run is Running the daemon keeps copies of its descriptors, to be able to hand it to
//! another checkpoint; from then on it holds none.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::choose::{Answer, Candidate, choose};
use super::dispatcher::{Dispatcher, wall_clock};
use super::history::Record;
use super::level::Level;
use super::parcel::Parcel;
use super::shape::{RootKey, Shape, caller, shown_argv};
use super::supervisor::{Zygote, ZygoteId};
use crate::error::Error;
use crate::process::Process;
use crate::protocol::{self, Reply};
use crate::trace::{Mismatch, path_of};
use crate::transport::Connection;

/// A zygote says at once which worker has the run. One that says nothing for so long was stopped or
/// hangs. From there on it watches the worker itself.
const SILENCE_LIMIT: Duration = Duration::from_secs(15);

/// A refusal costs a fork and a few milliseconds: one is risked per run.
const GUESSES: usize = 1;

#[derive(Debug)]
pub(super) enum Stage {
    Serving {
        zygote: ZygoteId,
        since: Instant,
        parcel: Parcel,
        /// Once it is forked.
        worker: Option<Worker>,
    },
    Running {
        zygote: ZygoteId,
        worker: Option<Worker>,
    },
}

/// The process that serves a run; it leads a process group.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) pid: i32,
    process: Process,
}

impl Worker {
    pub(super) fn of(pid: i32) -> Option<Self> {
        let process = Process::of(pid).ok()?;
        Some(Self { pid, process })
    }

    pub(super) fn is_alive(&self) -> bool {
        self.process.is_alive()
    }

    /// Ends it and its group, as the zygote does when a client is gone.
    pub(super) fn kill(&self) {
        self.process.kill(self.pid);
    }
}

#[derive(Debug)]
pub(super) struct Run {
    pub(super) about: About,
    pub(super) stage: Stage,
}

#[derive(Debug)]
pub(super) struct About {
    root: RootKey,
    /// The levels that may serve it.
    pub(super) levels: Vec<Level>,
    /// Whether its standard descriptors are terminals.
    tty: [bool; 3],
    pub(super) received: Instant,
    pub(super) guesses: usize,
    /// Checkpoints that refused it, or did not get it to pytest.
    pub(super) tried: Vec<ZygoteId>,
}

impl Dispatcher {
    /// A new run.
    pub(super) fn receive(
        &mut self,
        run: Box<protocol::Run>,
        fds: Vec<OwnedFd>,
        client: Connection,
        pid: i32,
        now: Instant,
    ) {
        self.last_run += 1;
        let id = self.last_run;
        self.history.add(Record {
            id,
            argv: shown_argv(&run.argv),
            cwd: path_of(&run.cwd),
            started: wall_clock(),
            seconds: None,
            checkpoint: None,
            why: None,
            pid: None,
            status: None,
            exit: None,
            ahead: None,
            parts: None,
            spared: None,
        });
        let parcel = Parcel {
            client,
            fds,
            run,
            pid,
        };
        let tty = parcel.terminals();
        let about = About {
            root: self.root_for(&parcel.run, tty, now),
            guesses: if Shape::of(&parcel.run).is_for_information() {
                0
            } else {
                GUESSES
            },
            levels: Level::all(&parcel.run),
            tty,
            received: now,
            tried: Vec::new(),
        };
        if let Some(root) = self.root(about.root) {
            root.used = id;
        }
        if self.settings.enabled() {
            self.place(id, about, parcel, now);
        } else {
            self.run_plainly(id, parcel, None, "switched off in `pyproject.toml`");
        }
    }

    /// Hands a run to the best checkpoint there is, holds it, or has it run plainly.
    pub(super) fn place(&mut self, id: u64, mut about: About, mut parcel: Parcel, now: Instant) {
        let mut misfit = None;
        loop {
            let choice = self.choose_for(&about, &parcel.run);
            for (zygote, why) in choice.stale {
                self.on_stale(zygote, &why, now);
            }
            let Some(zygote) = choice.zygote else {
                let Some(why) = choice.misfit else { break };
                match self.root_instead(about.root, &parcel.run, about.tty, now) {
                    Some(root) => about.root = root,
                    None => return self.run_plainly(id, parcel, None, &why),
                }
                misfit = Some(why);
                continue;
            };
            self.remember(id, &about, &parcel);
            let (kept, taken) = self.serve(id, zygote, parcel);
            if taken {
                let passed = choice.passed.join("; ");
                self.note_serving(id, zygote, &about.levels, passed);
                // What lost its worker stands for these levels none the less.
                let has_deeper = about.tried.iter().any(|id| {
                    let tried = self.zygotes.get(id).filter(|tried| tried.is_ready());
                    tried.is_some_and(|tried| tried.answer(&about.levels) == Answer::Accepts)
                });
                self.note_use(zygote, (!has_deeper).then_some(&about.levels), now);
                let stage = Stage::Serving {
                    zygote,
                    since: now,
                    parcel: kept,
                    worker: None,
                };
                self.runs.insert(id, Run { about, stage });
                return;
            }
            parcel = kept;
            // Nothing was started: it cannot have read an order that was not sent whole.
            self.on_lost(zygote, &Error::Closed, now);
        }
        let is_first = self
            .root(about.root)
            .is_some_and(|root| root.generations().next().is_none());
        if is_first {
            self.remember(id, &about, &parcel);
        }
        let mut why = self.want_root(about.root, now);
        if self.root(about.root).is_some_and(|root| root.has_retired()) {
            // What would have served it has retired: it is wanted again.
            self.remember(id, &about, &parcel);
            if let Some(level) = about.levels.first().filter(|_| misfit.is_none()) {
                self.want_growth(about.root, level, now);
                why = self.why_not_deeper(about.root, level);
            }
        }
        let short = self.why_short();
        self.run_plainly(id, parcel, None, &short.or(misfit).unwrap_or(why));
    }

    /// Its root stands for this run, or is to be built for it.
    fn remember(&mut self, id: u64, about: &About, parcel: &Parcel) {
        if let Some(root) = self.root(about.root) {
            root.remember(&about.levels, &parcel.run, about.tty, id);
        }
        self.recall_openings(about.root, &about.levels);
    }

    fn choose_for(&mut self, run: &About, asked: &protocol::Run) -> super::choose::Choice {
        let Some(generation) = self
            .roots
            .iter()
            .find(|root| root.key == run.root)
            .and_then(|root| root.current.as_ref())
        else {
            return super::choose::Choice::default();
        };
        let zygotes = &mut self.zygotes;
        let offered = |id: &ZygoteId| !run.tried.contains(id);
        let prepared = generation
            .prepared
            .iter()
            .filter(|id| offered(id))
            .filter_map(|id| zygotes.get(id))
            .filter(|zygote| zygote.is_ready())
            .map(|zygote| Candidate {
                id: zygote.id,
                answer: zygote.answer(&run.levels),
                depth: zygote.reach,
                used: zygote.used,
            })
            .collect();
        let z0 = Some(generation.z0)
            .filter(offered)
            .filter(|id| zygotes.get(id).is_some_and(|zygote| zygote.is_ready()));
        let caller = caller(asked, run.tty);
        let mut choice = choose(z0, prepared, run.guesses > 0, |id| {
            let trace = &mut zygotes.get_mut(&id).expect("a candidate").trace;
            trace.check_caller(caller)?;
            trace.check_disk()
        });
        if let Some(z0) = generation
            .retired
            .as_ref()
            .filter(|_| choice.zygote.is_none())
            && let Err(Mismatch::Other(why)) = z0.check_caller(caller)
        {
            choice.misfit = Some(why);
        }
        choice
    }

    /// Sends the order. Gives the parcel back, and whether it was taken.
    fn serve(&mut self, id: u64, zygote: ZygoteId, parcel: Parcel) -> (Parcel, bool) {
        let Some(zygote) = self.zygotes.get_mut(&zygote) else {
            return (parcel, false);
        };
        let (parcel, sent) = parcel.send(id, &mut zygote.control);
        match &sent {
            Ok(()) => zygote.take_run(id),
            Err(error) => tracing::warn!("{} does not take run {id}: {error}", zygote.name()),
        }
        (parcel, sent.is_ok())
    }

    fn note_serving(&mut self, id: u64, zygote: ZygoteId, levels: &[Level], passed: String) {
        let Some(zygote) = self.zygotes.get(&zygote) else {
            return;
        };
        let why = self.why_no_deeper(zygote, levels, passed);
        let name = zygote.name().to_owned();
        let spared = zygote.spares();
        if let Some(record) = self.history.get(id) {
            record.checkpoint = Some(name);
            record.spared = Some(spared);
            // What was refused says more.
            record.why = record.why.take().or(why);
        }
    }

    /// Why a run that this zygote serves is not served by a deeper one.
    fn why_no_deeper(&self, zygote: &Zygote, levels: &[Level], passed: String) -> Option<String> {
        let depth = zygote.level.depth();
        let deeper = levels.iter().find(|level| level.depth() == depth + 1);
        match (deeper, passed.is_empty()) {
            (None, _) => zygote.before.as_ref().and(zygote.shallow.clone()),
            (Some(_), false) => Some(passed),
            (Some(deeper), true) => Some(self.why_not_deeper(zygote.root, deeper)),
        }
    }

    /// What would serve a run of this root now, and why nothing deeper; or why it would be plain.
    /// Changes nothing.
    pub(super) fn would_serve(
        &mut self,
        key: RootKey,
        run: &protocol::Run,
        tty: [bool; 3],
        now: Instant,
    ) -> std::result::Result<(ZygoteId, Option<String>), String> {
        let about = About {
            root: key,
            levels: Level::all(run),
            tty,
            received: now,
            guesses: GUESSES,
            tried: Vec::new(),
        };
        let choice = self.choose_for(&about, run);
        let stale = choice.stale.into_iter().map(|(_, why)| why);
        let passed: Vec<_> = stale.chain(choice.passed).collect();
        match choice.zygote.and_then(|id| self.zygotes.get(&id)) {
            Some(zygote) => {
                let why = self.why_no_deeper(zygote, &about.levels, passed.join("; "));
                Ok((zygote.id, why))
            }
            None => Err(choice.misfit.unwrap_or_else(|| match passed.is_empty() {
                true => "no checkpoint is ready".into(),
                false => passed.join("; "),
            })),
        }
    }

    pub(super) fn note_why(&mut self, id: u64, why: &str) {
        if let Some(record) = self.history.get(id) {
            record.why = Some(why.to_owned());
        }
    }

    /// Answers that the client is to run plain pytest itself, and watches that it does.
    pub(super) fn run_plainly(
        &mut self,
        id: u64,
        parcel: Parcel,
        reason: Option<String>,
        why: &str,
    ) {
        // Opened before it is asked whether the client is there: so it is the client's.
        let watched = Process::of(parcel.pid);
        if let Some(record) = self.history.get(id) {
            record.checkpoint = None;
            record.spared = None;
            record.why = Some(why.to_owned());
        }
        if parcel.client.send(&Reply::Plain { reason }, &[]).is_err() {
            self.note_why(id, "its client went away");
            return;
        }
        match watched {
            Ok(process) => {
                self.plains.insert(id, process);
            }
            Err(error) => tracing::debug!("{error}"),
        }
    }

    pub(super) fn on_plain_ended(&mut self, id: u64) {
        self.plains.remove(&id);
        if let Some(record) = self.history.get(id) {
            record.seconds = Some((wall_clock() - record.started).max(0.0));
        }
    }

    pub(super) fn expire_runs(&mut self, now: Instant) {
        let silent: Vec<_> = self
            .runs
            .values()
            .filter_map(|run| match run.stage {
                Stage::Serving {
                    zygote,
                    since,
                    worker: None,
                    ..
                } if since + SILENCE_LIMIT <= now => Some(zygote),
                _ => None,
            })
            .collect();
        for zygote in silent {
            let error = Error::Other(format!("no answer for {SILENCE_LIMIT:?}"));
            self.on_lost(zygote, &error, now);
        }
    }

    pub(super) fn runs_due(&self) -> Option<Instant> {
        let due = self.runs.values().filter_map(|run| match run.stage {
            Stage::Serving {
                since,
                worker: None,
                ..
            } => Some(since + SILENCE_LIMIT),
            Stage::Serving { .. } => None,
            Stage::Running { .. } => None,
        });
        due.min()
    }
}
