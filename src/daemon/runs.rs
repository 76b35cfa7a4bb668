//! Runs, from their request to their end.
//!
//! ```text
//!              a Z0 is being built        Entered
//!  request ──────▶ Held ────▶ Serving ───────────────▶ Running ──Ended──▶ history
//!     │              │         │  ▲ │                     │
//!     │ nothing is   │ 30 s,   │  └─┘ Refused: the next    │ the zygote is gone:
//!     │ ready        │ Failed  │      checkpoint           ▼ the end is not known
//!     └─▶ Plain ◀────┴─────────┘
//! ```
//!
//! Until a run is Running the daemon keeps copies of its descriptors, to be able to hand it to
//! another checkpoint; from then on it holds none.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use super::choose::{Answer, Candidate, choose};
use super::clients::{end_of, hang_up};
use super::dispatcher::{Dispatcher, wall_clock};
use super::history::Record;
use super::parcel::{Parcel, Worker};
use super::root::Root;
use super::shape::{RootKey, Shape, shown_argv};
use super::supervisor::{Level, ZygoteId};
use crate::error::Error;
use crate::protocol::{self, Ended, Reply};
use crate::trace::{Caller, path_of};
use crate::transport::Connection;

/// A Z0 that is being built serves sooner than plain pytest would start, unless the machine is
/// very busy; nobody should wait longer than this to find out.
const HOLD_LIMIT: Duration = Duration::from_secs(30);

/// A zygote gives a worker five seconds to enter pytest or to refuse. One that says nothing for
/// three times as long was stopped or hangs.
const SILENCE_LIMIT: Duration = Duration::from_secs(15);

/// A refusal costs a fork and a few milliseconds: one is risked per run.
const GUESSES: usize = 1;

#[derive(Debug)]
pub(super) enum Stage {
    Held {
        until: Instant,
        parcel: Parcel,
    },
    Serving {
        zygote: ZygoteId,
        since: Instant,
        parcel: Parcel,
    },
    Running {
        zygote: ZygoteId,
        worker: Option<Worker>,
    },
}

#[derive(Debug)]
pub(super) struct Run {
    about: About,
    pub(super) stage: Stage,
}

#[derive(Debug)]
struct About {
    root: RootKey,
    shape: Shape,
    received: Instant,
    guesses: usize,
    /// Checkpoints that refused it.
    tried: Vec<ZygoteId>,
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
        let key = RootKey::of(&run);
        let shape = Shape::of(&run);
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
            parts: None,
        });
        if self.root(key).is_none() {
            self.make_room_for_a_root();
            self.roots.push(Root::new(key, run.clone(), now));
        }
        let root = self.root(key).expect("made above");
        root.remember(&shape, &run, id);
        let parcel = Parcel {
            client,
            fds,
            run,
            pid,
        };
        let about = About {
            root: key,
            shape,
            received: now,
            guesses: GUESSES,
            tried: Vec::new(),
        };
        if self.settings.enabled() {
            self.place(id, about, parcel, now);
        } else {
            self.run_plainly(id, parcel, None, "switched off in `pyproject.toml`");
        }
    }

    /// Hands a run to the best checkpoint there is, holds it, or has it run plainly.
    fn place(&mut self, id: u64, about: About, mut parcel: Parcel, now: Instant) {
        loop {
            let choice = self.choose_for(&about, &parcel);
            for (zygote, why) in choice.stale {
                self.on_stale(zygote, &why, now);
            }
            let Some(zygote) = choice.zygote else { break };
            match self.serve(id, zygote, parcel) {
                Ok(kept) => {
                    let passed = choice.passed.join("; ");
                    self.note_serving(id, zygote, &about.shape, passed);
                    self.note_use(zygote, &about.shape, now);
                    let stage = Stage::Serving {
                        zygote,
                        since: now,
                        parcel: kept,
                    };
                    self.runs.insert(id, Run { about, stage });
                    return;
                }
                Err(kept) => {
                    parcel = kept;
                    // Nothing was started: it cannot have read an order that was not sent whole.
                    self.on_lost(zygote, &Error::Closed, now);
                }
            }
        }
        if self.is_building(about.root) {
            let until = about.received + HOLD_LIMIT;
            if now < until {
                self.note_why(id, "waited for the checkpoint that was being built");
                let stage = Stage::Held { until, parcel };
                self.runs.insert(id, Run { about, stage });
                return;
            }
        }
        let why = self.want_root(about.root, now);
        self.run_plainly(id, parcel, None, &why);
    }

    fn choose_for(&mut self, run: &About, parcel: &Parcel) -> super::choose::Choice {
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
                answer: zygote.answer(&run.shape),
                used: zygote.used,
            })
            .collect();
        let z0 = Some(generation.z0)
            .filter(offered)
            .filter(|id| zygotes.get(id).is_some_and(|zygote| zygote.is_ready()));
        let caller = Caller {
            env: &parcel.run.env,
            cwd: &parcel.run.cwd,
            argv: &parcel.run.argv,
            tty: parcel.terminals(),
        };
        choose(z0, prepared, run.guesses, |id| {
            let trace = &mut zygotes.get_mut(&id).expect("a candidate").trace;
            trace.check_caller(caller)?;
            trace.check_disk()
        })
    }

    /// Sends the order. Gives the parcel back either way.
    fn serve(&mut self, id: u64, zygote: ZygoteId, parcel: Parcel) -> Result<Parcel, Parcel> {
        let Some(zygote) = self.zygotes.get_mut(&zygote) else {
            return Err(parcel);
        };
        let (parcel, sent) = parcel.send(id, &zygote.control);
        match sent {
            Ok(()) => {
                zygote.take_run(id);
                Ok(parcel)
            }
            Err(error) => {
                tracing::warn!("{} does not take run {id}: {error}", zygote.name());
                Err(parcel)
            }
        }
    }

    fn note_serving(&mut self, id: u64, zygote: ZygoteId, shape: &Shape, passed: String) {
        let Some(zygote) = self.zygotes.get(&zygote) else {
            return;
        };
        let why = match (&zygote.level, passed.is_empty()) {
            (Level::P0(_), _) => None,
            (Level::Z0, false) => Some(passed),
            (Level::Z0, true) => Some(self.why_no_p0(zygote.root, shape)),
        };
        let name = zygote.name().to_owned();
        if let Some(record) = self.history.get(id) {
            record.checkpoint = Some(name);
            // What was refused says more.
            record.why = record.why.take().or(why);
        }
    }

    fn note_why(&mut self, id: u64, why: &str) {
        if let Some(record) = self.history.get(id) {
            record.why = Some(why.to_owned());
        }
    }

    /// Answers that the client is to run plain pytest itself, and watches that it does.
    fn run_plainly(&mut self, id: u64, parcel: Parcel, reason: Option<String>, why: &str) {
        let watched = end_of(parcel.pid);
        if let Some(record) = self.history.get(id) {
            record.checkpoint = None;
            record.why = Some(why.to_owned());
        }
        if parcel.client.send(&Reply::Plain { reason }, &[]).is_err() {
            self.note_why(id, "its client went away");
            return;
        }
        match watched {
            Ok(fd) => {
                self.plains.insert(id, fd);
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

    /// The client of a held run is gone: so is the run.
    pub(super) fn on_left(&mut self, id: u64) {
        if matches!(
            self.runs.get(&id).map(|run| &run.stage),
            Some(Stage::Held { .. })
        ) {
            self.runs.remove(&id);
            self.note_why(id, "its client went away");
        }
    }

    pub(super) fn on_entered(&mut self, id: u64, pid: i32) {
        let Some(run) = self.runs.get_mut(&id) else {
            return;
        };
        let Stage::Serving { zygote, .. } = run.stage else {
            return;
        };
        // This drops every descriptor of the client.
        run.stage = Stage::Running {
            zygote,
            worker: Worker::of(pid),
        };
        let shape = run.about.shape.clone();
        if let Some(zygote) = self.zygotes.get_mut(&zygote) {
            zygote.was_entered(id, shape);
        }
        if let Some(record) = self.history.get(id) {
            record.pid = Some(pid);
        }
    }

    pub(super) fn on_refused(&mut self, by: ZygoteId, id: u64, reason: String, now: Instant) {
        let (mut about, parcel) = match self.runs.remove(&id) {
            Some(Run {
                about,
                stage: Stage::Serving { zygote, parcel, .. },
            }) if zygote == by => (about, parcel),
            Some(other) => {
                self.runs.insert(id, other);
                return;
            }
            None => return,
        };
        tracing::info!("run {id} was refused: {reason}");
        about.tried.push(by);
        self.note_why(id, &reason);
        let Some(zygote) = self.zygotes.get_mut(&by) else {
            return self.place(id, about, parcel, now);
        };
        zygote.runs.remove(&id);
        if zygote.level == Level::Z0 {
            // It stands for every run of its root: what it refuses cannot be served warm.
            return self.run_plainly(id, parcel, Some(reason.clone()), &reason);
        }
        if zygote.answer(&about.shape) == Answer::Unknown {
            about.guesses = about.guesses.saturating_sub(1);
        }
        zygote.note(about.shape.clone(), Answer::Refuses);
        if zygote.accepts_nothing() {
            self.discard_prepared(by, &reason);
        }
        self.place(id, about, parcel, now);
    }

    pub(super) fn on_ended(&mut self, by: ZygoteId, ended: Ended, now: Instant) {
        if let Some(zygote) = self.zygotes.get_mut(&by) {
            zygote.runs.remove(&ended.id);
            let key = zygote.root;
            if let Some(root) = self.root(key) {
                root.deaths = 0;
            }
        }
        let Some(run) = self.runs.remove(&ended.id) else {
            return;
        };
        if let Some(record) = self.history.get(ended.id) {
            record.seconds = Some(
                now.saturating_duration_since(run.about.received)
                    .as_secs_f64(),
            );
            record.status = Some(ended.status);
            record.exit = Some(ended.exit);
            record.parts = Some(ended.seconds);
            let (argv, cwd) = (record.argv.clone(), record.cwd.clone());
            if !ended.imports.is_empty() {
                self.learned
                    .record(&argv, Path::new(&cwd), ended.imports, now);
            }
        }
    }

    /// A zygote is gone, and with it what is known of its runs.
    pub(super) fn forget_runs_of(&mut self, zygote: ZygoteId) {
        let concerned: Vec<u64> = self
            .runs
            .iter()
            .filter(|(_, run)| match run.stage {
                Stage::Serving { zygote: z, .. } | Stage::Running { zygote: z, .. } => z == zygote,
                Stage::Held { .. } => false,
            })
            .map(|(id, _)| *id)
            .collect();
        for id in concerned {
            let Some(run) = self.runs.remove(&id) else {
                continue;
            };
            self.note_why(id, "its zygote died");
            match run.stage {
                Stage::Serving { parcel, .. } => {
                    // Its worker may be about to enter pytest. Either it has said so, and the
                    // client reads that first; or it can no longer say so and goes no further,
                    // and the client reads the end and runs plain pytest. An answer of ours could
                    // cross with the worker's, and the tests would run twice.
                    hang_up(&parcel.client);
                    if let Ok(fd) = end_of(parcel.pid) {
                        self.plains.insert(id, fd);
                    }
                }
                // Its client has read the end and has gone: nobody waits for it any more.
                Stage::Running { worker, .. } => {
                    if let Some(worker) = worker {
                        worker.kill();
                    }
                }
                Stage::Held { .. } => {}
            }
        }
    }

    /// Places the runs that waited for this root.
    pub(super) fn place_held(&mut self, root: RootKey, now: Instant) {
        for id in self.held(|run| run.about.root == root) {
            self.place_again(id, now);
        }
    }

    fn place_again(&mut self, id: u64, now: Instant) {
        if let Some(Run {
            about,
            stage: Stage::Held { parcel, .. },
        }) = self.runs.remove(&id)
        {
            self.place(id, about, parcel, now);
        }
    }

    /// A root could not be built: what waited for it runs plainly.
    pub(super) fn give_up_held(&mut self, root: RootKey, reason: Option<&str>, why: &str) {
        for id in self.held(|run| run.about.root == root) {
            if let Some(Run {
                stage: Stage::Held { parcel, .. },
                ..
            }) = self.runs.remove(&id)
            {
                self.run_plainly(id, parcel, reason.map(str::to_owned), why);
            }
        }
    }

    pub(super) fn expire_runs(&mut self, now: Instant) {
        let overdue = |run: &Run| matches!(run.stage, Stage::Held { until, .. } if until <= now);
        for id in self.held(overdue) {
            self.place_again(id, now);
        }
        let silent: Vec<_> = self
            .runs
            .values()
            .filter_map(|run| match run.stage {
                Stage::Serving { zygote, since, .. } if since + SILENCE_LIMIT <= now => {
                    Some(zygote)
                }
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
            Stage::Held { until, .. } => Some(until),
            Stage::Serving { since, .. } => Some(since + SILENCE_LIMIT),
            Stage::Running { .. } => None,
        });
        due.min()
    }

    /// The daemon goes: nobody shall wait for it.
    pub(super) fn release_held(&mut self) {
        for id in self.held(|_| true) {
            if let Some(Run {
                stage: Stage::Held { parcel, .. },
                ..
            }) = self.runs.remove(&id)
            {
                let _ = parcel.client.send(&Reply::Plain { reason: None }, &[]);
                self.note_why(id, "the daemon went");
            }
        }
    }

    fn held(&self, which: impl Fn(&Run) -> bool) -> Vec<u64> {
        self.runs
            .iter()
            .filter(|(_, run)| matches!(run.stage, Stage::Held { .. }) && which(run))
            .map(|(id, _)| *id)
            .collect()
    }
}
