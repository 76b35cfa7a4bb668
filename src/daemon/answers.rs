//! What zygotes say of the runs they were given, and what follows when one can say nothing more.

use std::path::Path;
use std::time::Instant;

use super::choose::Answer;
use super::clients::{hang_up, has_hung_up};
use super::dispatcher::Dispatcher;
use super::history::Kind;
use super::level::Level;
use super::parcel::Parcel;
use super::runs::{About, Run, Stage, Worker};
use super::supervisor::ZygoteId;
use crate::process::Process;
use crate::protocol::Ended;

impl Dispatcher {
    pub(super) fn on_waiting(&mut self, id: ZygoteId, pid: i32) {
        if let Some(zygote) = self.zygotes.get_mut(&id) {
            zygote.standby = Worker::of(pid);
        }
        self.send_to_rest_if_short(id);
    }

    pub(super) fn on_forked(&mut self, by: ZygoteId, id: u64, pid: i32) {
        if let Some(zygote) = self.zygotes.get_mut(&by) {
            zygote.standby = None;
        }
        if let Some(Run {
            stage: Stage::Serving { zygote, worker, .. },
            ..
        }) = self.runs.get_mut(&id)
            && *zygote == by
        {
            *worker = Worker::of(pid);
        }
    }

    pub(super) fn on_entered(&mut self, id: u64, pid: i32) {
        let Some(run) = self.runs.get_mut(&id) else {
            return;
        };
        let Stage::Serving { zygote, worker, .. } = &mut run.stage else {
            return;
        };
        let zygote = *zygote;
        let worker = worker.take().filter(|worker| worker.pid == pid);
        // This drops every descriptor of the client.
        run.stage = Stage::Running {
            zygote,
            worker: worker.or_else(|| Worker::of(pid)),
        };
        if let Some(zygote) = self.zygotes.get_mut(&zygote) {
            zygote.was_entered(id, &run.about.levels);
        }
        if let Some(record) = self.history.get(id) {
            record.pid = Some(pid);
        }
    }

    pub(super) fn on_refused(&mut self, by: ZygoteId, id: u64, reason: String, now: Instant) {
        let Some((mut about, parcel)) = self.take_back(by, id) else {
            return;
        };
        tracing::info!("run {id} was refused: {reason}");
        about.tried.push(by);
        self.note_why(id, &reason);
        self.note_incident(by, Kind::Refused, &reason);
        let Some(zygote) = self.zygotes.get_mut(&by) else {
            return self.place(id, about, parcel, now);
        };
        if zygote.level == Level::Z0 {
            // It stands for every run of its root: what it refuses cannot be served warm.
            return self.run_plainly(id, parcel, Some(reason.clone()), &reason);
        }
        if zygote.answer(&about.levels) == Answer::Unknown {
            about.guesses = about.guesses.saturating_sub(1);
        }
        zygote.note(&about.levels, Answer::Refuses);
        if zygote.accepts_nothing() {
            let key = zygote.root;
            self.discard_prepared(by, &reason);
            self.discard_if_stranded(key, &reason, now);
        }
        self.place(id, about, parcel, now);
    }

    /// It was not the checkpoint's fault, so that is kept.
    pub(super) fn on_died(&mut self, by: ZygoteId, id: u64, reason: String, now: Instant) {
        let Some((mut about, parcel)) = self.take_back(by, id) else {
            return;
        };
        tracing::info!("run {id} did not get to pytest: {reason}");
        self.note_why(id, &reason);
        if has_hung_up(&parcel.client) {
            return self.note_why(id, "its client went away");
        }
        // Not there again, or what ends it each time would never let it come to an end.
        about.tried.push(by);
        match self.zygotes.get(&by).map(|zygote| &zygote.level) {
            // There is nothing below it.
            Some(Level::Z0) => self.run_plainly(id, parcel, Some(reason.clone()), &reason),
            _ => self.place(id, about, parcel, now),
        }
    }

    /// A run that this zygote was given and that has not entered pytest.
    fn take_back(&mut self, from: ZygoteId, id: u64) -> Option<(About, Parcel)> {
        let is_its =
            |run: &Run| matches!(run.stage, Stage::Serving { zygote, .. } if zygote == from);
        if !self.runs.get(&id).is_some_and(is_its) {
            return None;
        }
        if let Some(zygote) = self.zygotes.get_mut(&from) {
            zygote.runs.remove(&id);
        }
        match self.runs.remove(&id)? {
            Run {
                about,
                stage: Stage::Serving { parcel, .. },
            } => Some((about, parcel)),
            _ => None,
        }
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
            record.ahead = Some(ended.ahead);
            record.parts = Some(ended.seconds);
            let (argv, cwd) = (record.argv.clone(), record.cwd.clone());
            if !ended.imports.is_empty() {
                self.learned
                    .record(&argv, Path::new(&cwd), ended.imports, now);
            }
        }
    }

    /// A zygote is gone, and with it all that could be learned of its runs. Their workers go too:
    /// nobody is left to tell a client how they end.
    pub(super) fn forget_runs_of(&mut self, zygote: ZygoteId) {
        let concerned: Vec<u64> = self
            .runs
            .iter()
            .filter(|(_, run)| match run.stage {
                Stage::Serving { zygote: z, .. } | Stage::Running { zygote: z, .. } => z == zygote,
            })
            .map(|(id, _)| *id)
            .collect();
        for id in concerned {
            let Some(run) = self.runs.remove(&id) else {
                continue;
            };
            self.note_why(id, "its zygote died");
            match run.stage {
                Stage::Serving { parcel, worker, .. } => {
                    // Its worker may be about to enter pytest. Either it has said so, and the
                    // client reads that first; or it can no longer say so and goes no further,
                    // and the client reads the end and runs plain pytest. An answer of ours could
                    // cross with the worker's, and the tests would run twice.
                    let plain = Process::of(parcel.pid);
                    let is_there = !has_hung_up(&parcel.client);
                    hang_up(&parcel.client);
                    if let Some(plain) = plain.ok().filter(|_| is_there) {
                        self.plains.insert(id, plain);
                    }
                    if let Some(worker) = worker {
                        worker.kill();
                    }
                }
                // Its client reads the end of the conversation, and says that the run was lost.
                Stage::Running { worker, .. } => {
                    if let Some(worker) = worker {
                        worker.kill();
                    }
                }
            }
        }
    }
}
