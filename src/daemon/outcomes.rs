//! What became of a zygote: parked, failed, lost, stale; and who takes its place.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::builds::{AFTER_CHANGE, CHANGE_PATIENCE, CHANGE_PAUSE, GROW_PATIENCE, RETRY};
use super::dispatcher::Dispatcher;
use super::history::Kind;
use super::level::Level;
use super::root::{FIRST_BACKOFF, Generation, LAST_BACKOFF, Root, Want};
use super::shape::{RootKey, caller};
use super::supervisor::{Failure, Zygote, ZygoteId};
use crate::error::Error;
use crate::protocol::{Culprit, ENDED_EARLY, Parked};
use crate::trace::{Mismatch, Trace};

/// Sets of early options in use at the same time: the terminal's, the editor's, one with `-W`. And
/// as many directories of tests.
const PREPARED: usize = 4;
/// Files that are named first: the one that is being worked on, and the one before. Each holds all that
/// a test module imports.
const FIRST_MODULES: usize = 2;

impl Dispatcher {
    pub(super) fn on_parked(&mut self, id: ZygoteId, parked: Parked, now: Instant) {
        self.watches_outdated = true;
        self.on_building(id, parked.pid);
        let Some(zygote) = self.zygotes.get(&id).filter(|zygote| zygote.is_starting()) else {
            return;
        };
        let (key, level) = (zygote.root, zygote.level.clone());
        if let Some(what) = parked.unsettled {
            let why = format!("{what} changed while it was read");
            return self.on_unsettled(id, &why, now);
        }
        let parent = zygote.parent;
        let stands_on = parent.and_then(|parent| self.zygotes.get(&parent));
        let parent_trace = stands_on.map(|parent| parent.trace.clone());
        let stands_on = stands_on.map(|parent| (parent.modules, parent.spares()));
        if parent.is_some() && parent_trace.is_none() {
            // What it inherited is not known any more.
            return self.on_unsettled(id, "what it was forked from is gone", now);
        }
        let Some(zygote) = self.zygotes.get_mut(&id) else {
            return;
        };
        zygote.park(parked, parent_trace.as_ref());
        zygote.needed = now;
        zygote.stand_on(stands_on);
        tracing::info!(
            "root {}: {} {} is ready in {:.2} s: {}{}",
            key.short(),
            zygote.name(),
            zygote.pid.unwrap_or_default(),
            zygote.build_seconds,
            zygote.holds,
            zygote
                .shallow
                .as_ref()
                .map_or_else(String::new, |why| format!(" (not deeper: {why})"))
        );
        match level {
            Level::Z0 => self.on_z0_ready(key, id, now),
            Level::P0(_) | Level::Z2(_) | Level::Z3(..) => {
                // An edit while it was built may have hit what its parent had read long before.
                for checked in parent.into_iter().chain([id]) {
                    let found = self.zygotes.get_mut(&checked).map(|z| z.trace.check_disk());
                    let Some(Err(mismatch)) = found else {
                        continue;
                    };
                    let why = mismatch.to_string();
                    return if checked == id || matches!(mismatch, Mismatch::Unsettled(_)) {
                        self.on_unsettled(id, &why, now)
                    } else {
                        self.on_stale(checked, &why, now)
                    };
                }
                if let Some(root) = self.root(key) {
                    root.backoff = FIRST_BACKOFF;
                }
                self.take_over(key, now);
                self.pass_base_by(id, now);
                if self.is_base(id) {
                    self.grow_from_base(key, &level, now);
                } else {
                    self.discard_outdone(id);
                    self.discard_former(id);
                    self.want_opening(id, now);
                }
                self.keep_few_prepared(key, level.depth());
                self.keep_last_stop(id);
                let is_base = self.is_base(id);
                let deeper = self.root(key).and_then(|root| {
                    root.forgive_below(&level);
                    root.next_deeper(&level)
                });
                // From a base the next is the one that goes on from there.
                if let Some(deeper) = deeper.filter(|_| !is_base) {
                    self.want_growth(key, &deeper, now);
                }
            }
        }
    }

    pub(super) fn on_building(&mut self, id: ZygoteId, pid: i32) {
        if let Some(zygote) = self.zygotes.get_mut(&id) {
            zygote.introduce(pid);
        }
    }

    fn on_z0_ready(&mut self, key: RootKey, id: ZygoteId, now: Instant) {
        let root = self.roots.iter_mut().find(|root| root.key == key);
        let Some((root, z0)) = root.zip(self.zygotes.get(&id)) else {
            return;
        };
        // Runs that came before it was known what this Z0 looks at.
        root.records.retain(|_, record| {
            let run = caller(&record.run, record.tty);
            z0.trace.check_caller(run).is_ok()
        });
        root.backoff = FIRST_BACKOFF;
        root.failure = None;
        root.builds += 1;
        root.forgive();
        if root.current.is_none() {
            self.take_over(key, now);
            let levels = self.root(key).map(|root| Level::all(&root.template));
            if let Some(level) = levels.iter().flatten().next() {
                self.want_growth(key, level, now);
            }
        } else {
            let most_used = root.most_used();
            if let Some(record) = most_used.as_ref().and_then(|it| root.records.get_mut(it)) {
                record.grow = None;
            }
            if !most_used.is_some_and(|level| self.grow(key, &level, now)) {
                self.take_over(key, now);
            }
        }
    }

    /// The next generation serves from here on, if there is one that can.
    fn take_over(&mut self, key: RootKey, now: Instant) {
        let Some(at) = self.roots.iter().position(|root| root.key == key) else {
            return;
        };
        let ready = self.roots[at]
            .next
            .as_ref()
            .and_then(|next| self.zygotes.get(&next.z0))
            .is_some_and(Zygote::is_ready);
        if !ready {
            return;
        }
        let next = self.roots[at].next.take();
        let Some(former) = std::mem::replace(&mut self.roots[at].current, next) else {
            return;
        };
        // Before the next run of each kind finds a Z0 only, or none any more.
        let served: BTreeSet<Level> = former
            .prepared
            .iter()
            .filter_map(|id| self.zygotes.get(id))
            .filter(|zygote| zygote.is_ready() && zygote.served > 0)
            .filter_map(|zygote| zygote.level.shape())
            .map(|shape| Level::P0(shape.clone()))
            .collect();
        self.note_incident(former.z0, Kind::Replaced, "a newer one took its place");
        self.dismiss(former, "replaced");
        for level in served {
            if !self.has_prepared(at, &level) {
                self.want_growth(key, &level, now);
            }
        }
    }

    /// The generation that serves has a checkpoint of this level, or it is being grown.
    fn has_prepared(&self, at: usize, level: &Level) -> bool {
        let prepared = self.roots[at].current.iter().flat_map(|it| &it.prepared);
        prepared
            .filter_map(|id| self.zygotes.get(id))
            .any(|zygote| zygote.level == *level)
    }

    pub(super) fn dismiss(&mut self, generation: Generation, why: &str) {
        self.watches_outdated = true;
        for id in generation.members() {
            if let Some(zygote) = self.zygotes.get_mut(&id) {
                zygote.end(why);
            }
        }
    }

    /// The kind of runs of this depth that came least recently has no checkpoint any more, nor the
    /// base of one.
    fn keep_few_prepared(&mut self, key: RootKey, depth: usize) {
        let root = self.roots.iter().find(|root| root.key == key);
        let Some(generation) = root.and_then(|root| root.current.as_ref()) else {
            return;
        };
        let of_depth = |zygote: &&Zygote| zygote.level.depth() == depth;
        let zygotes = generation
            .prepared
            .iter()
            .filter_map(|id| self.zygotes.get(id));
        let prepared: Vec<_> = zygotes
            .filter(of_depth)
            .map(|zygote| (zygote.used, zygote.id, zygote.level.clone()))
            .collect();
        let tops = prepared.iter().filter(|(_, id, _)| !self.is_base(*id));
        let most = if depth == 3 { FIRST_MODULES } else { PREPARED };
        if tops.clone().count() <= most {
            return;
        }
        let Some((_, top, level)) = tops.min_by_key(|(used, id, _)| (*used, *id)) else {
            return;
        };
        // Another one for the same runs in another environment stays, and needs the base.
        let is_last = prepared
            .iter()
            .all(|(_, id, other)| other != level || id == top || self.is_base(*id));
        let gone = prepared
            .iter()
            .filter(|(_, id, other)| id == top || (is_last && other == level));
        let why = "others were used more recently";
        for (_, id, _) in gone {
            self.note_incident(*id, Kind::Replaced, why);
            self.discard_prepared(*id, why);
        }
        if let Some(record) = self.root(key).and_then(|root| root.records.get_mut(level)) {
            record.grow = None;
        }
    }

    /// Takes a grown checkpoint out of service.
    pub(super) fn discard_prepared(&mut self, id: ZygoteId, why: &str) {
        self.watches_outdated = true;
        // A base is of use by what is grown from it.
        let is_base = self.is_base(id);
        let Some(zygote) = self.zygotes.get_mut(&id) else {
            return;
        };
        zygote.end(why);
        let (key, level, served) = (zygote.root, zygote.level.clone(), zygote.served);
        self.unlist_prepared(key, id);
        let record = self.root(key).and_then(|root| root.records.get_mut(&level));
        if let Some(record) = record.filter(|_| !is_base) {
            match served {
                0 => record.wasted += 1,
                _ => record.wasted = 0,
            }
        }
    }

    fn unlist_prepared(&mut self, key: RootKey, id: ZygoteId) {
        if let Some(generation) = self.root(key).and_then(|root| root.generation_of(id)) {
            generation.prepared.retain(|member| *member != id);
        }
    }

    /// An input changed while it was read: what was read cannot be said.
    fn on_unsettled(&mut self, id: ZygoteId, why: &str, now: Instant) {
        let Some(zygote) = self.zygotes.get_mut(&id) else {
            return;
        };
        zygote.leave("an input changed while it was read");
        let (key, level) = (zygote.root, zygote.level.clone());
        self.note_incident(id, Kind::Unsettled, why);
        tracing::info!("root {}: {why}", key.short());
        let gives_up = self
            .root(key)
            .is_some_and(|root| root.backoff == LAST_BACKOFF);
        if gives_up {
            // It changes all the time: builds would go on for ever.
            let failure = Failure::blind(why.to_owned(), now);
            return self.note_failure(id, key, level, failure, now);
        }
        let Some(root) = self.root(key) else { return };
        let delay = root.lengthen_backoff();
        let want = Want::new(why, now, CHANGE_PAUSE, CHANGE_PATIENCE).after(delay);
        match level {
            Level::Z0 => {
                root.next = None;
                match root.current {
                    Some(_) => root.no_rotation_before = now + RETRY,
                    None => root.build = Some(want),
                }
            }
            level => {
                if let Some(record) = root.records.get_mut(&level) {
                    record.grow = Some(want);
                }
                self.unlist_prepared(key, id);
                self.take_over(key, now);
            }
        }
    }

    /// `culprit` says up to where one may be grown instead.
    pub(super) fn on_failed(
        &mut self,
        id: ZygoteId,
        reason: String,
        culprit: Option<Culprit>,
        trace: Trace,
        now: Instant,
    ) {
        let Some(zygote) = self
            .zygotes
            .get_mut(&id)
            .filter(|zygote| zygote.is_starting())
        else {
            return;
        };
        let failure = zygote.failure(reason, trace, now);
        zygote.leave("failed");
        let (key, level) = (zygote.root, zygote.level.clone());
        self.note_failure(id, key, level.clone(), failure.clone(), now);
        // What ends pytest before it is parked is an edit that is broken: no base is to blame.
        let is_broken = failure.reason == ENDED_EARLY;
        if !is_broken && self.does_without_base(id, culprit.is_some(), now) {
            return;
        }
        if let Some(culprit) = culprit {
            self.stop_earlier(key, &level, culprit, &failure, now);
        }
    }

    /// A start came to nothing.
    fn note_failure(
        &mut self,
        id: ZygoteId,
        key: RootKey,
        level: Level,
        failure: Failure,
        now: Instant,
    ) {
        self.watches_outdated = true;
        let reason = failure.reason.clone();
        let said = format!(
            "root {}: no {}: {reason}{}",
            key.short(),
            level.name(),
            below(&failure.output)
        );
        if reason == ENDED_EARLY {
            tracing::info!("{said}");
        } else {
            tracing::warn!("{said}");
            self.note_incident_of(key, &level, Kind::Failed, &reason, Vec::new());
        }
        let Some(root) = self.root(key) else { return };
        match level {
            Level::Z0 => {
                root.next = None;
                match root.current {
                    Some(_) => root.no_rotation_before = now + RETRY,
                    None => root.failure = Some(failure),
                }
            }
            level => {
                if let Some(record) = root.records.get_mut(&level) {
                    record.failure = Some(failure);
                }
                self.unlist_prepared(key, id);
                self.take_over(key, now);
            }
        }
    }

    /// A zygote's channel ended, or it talks nonsense, or not at all. It is of no use any more.
    pub(super) fn on_lost(&mut self, id: ZygoteId, error: &Error, now: Instant) {
        let Some(zygote) = self.zygotes.remove(&id) else {
            return;
        };
        self.watches_outdated = true;
        // It may be alive: stopped, or without the descriptors it had.
        zygote.kill();
        let (key, level) = (zygote.root, zygote.level.clone());
        self.forget_runs_of(id);
        if zygote.is_starting() {
            let reason = format!("its process ended while it was starting ({error})");
            let failure = zygote.failure(reason, Trace::default(), now);
            self.note_failure(id, key, level, failure, now);
        } else if zygote.is_ready() {
            tracing::warn!(
                "root {}: {} {} is gone: {error}{}",
                key.short(),
                zygote.name(),
                zygote.pid.unwrap_or_default(),
                below(&zygote.output_tail())
            );
            let along = self.along_with(id);
            self.note_incident_of(key, &level, Kind::Lost, &error.to_string(), along);
            match level {
                Level::Z0 => {
                    let delay = self.root(key).map(Root::count_death).unwrap_or_default();
                    self.discard_generation(id, "its Z0 died", delay, now);
                }
                level => {
                    self.unlist_prepared(key, id);
                    if self.is_stranded(key) {
                        let delay = self.root(key).map(Root::count_death).unwrap_or_default();
                        return self.discard_current(key, "its P0 died", delay, now);
                    }
                    self.want_growth(key, &level, now);
                }
            }
        }
    }

    /// An input on disk is not what it was.
    pub(super) fn on_stale(&mut self, id: ZygoteId, why: &str, now: Instant) {
        let Some(zygote) = self.zygotes.get(&id) else {
            return;
        };
        tracing::info!(
            "root {}: {} is stale: {why}",
            zygote.root.short(),
            zygote.name()
        );
        let (key, level) = (zygote.root, zygote.level.clone());
        self.note_incident(id, Kind::Stale, why);
        match level {
            Level::Z0 => self.discard_generation(id, why, AFTER_CHANGE, now),
            level => {
                self.note_edits(id, now);
                self.discard_prepared(id, why);
                self.end_builds_from(id, why, now);
                let record = self.root(key).and_then(|root| root.records.get_mut(&level));
                if let Some(record) = record {
                    // It was of use until now.
                    record.wasted = 0;
                    record.failure = None;
                    if level.depth() > 1 {
                        record.forget_outdated_stops();
                    }
                    let want = Want::new(why, now, CHANGE_PAUSE, GROW_PATIENCE);
                    record.grow = Some(want.after(AFTER_CHANGE));
                }
                if self.is_stranded(key) {
                    return self.discard_current(key, why, AFTER_CHANGE, now);
                }
                let want = Want::new(why, now, CHANGE_PAUSE, CHANGE_PATIENCE).after(AFTER_CHANGE);
                if let Some(root) = self.root(key).filter(|root| root.has_retired())
                    && level.depth() == 1
                {
                    root.want_z0_again(want, now);
                }
            }
        }
    }

    /// What is being grown from a checkpoint that is stale would be so too; and only one is grown at
    /// a time.
    fn end_builds_from(&mut self, parent: ZygoteId, why: &str, now: Instant) {
        let from = |zygote: &&Zygote| zygote.parent == Some(parent) && zygote.is_starting();
        let children: Vec<_> = self.zygotes.values().filter(from).map(|it| it.id).collect();
        for id in children {
            let Some(zygote) = self.zygotes.get_mut(&id) else {
                continue;
            };
            zygote.end(why);
            let (key, level) = (zygote.root, zygote.level.clone());
            self.unlist_prepared(key, id);
            if let Some(record) = self.root(key).and_then(|root| root.records.get_mut(&level)) {
                let want = Want::new(why, now, CHANGE_PAUSE, GROW_PATIENCE);
                record.grow = Some(want.after(AFTER_CHANGE));
            }
        }
    }

    /// A Z0 is of no use any more, nor is what was grown from it; a new one is wanted.
    pub(super) fn discard_generation(
        &mut self,
        z0: ZygoteId,
        why: &str,
        delay: Duration,
        now: Instant,
    ) {
        let Some(root) = self
            .roots
            .iter_mut()
            .find(|root| root.generations().any(|generation| generation.z0 == z0))
        else {
            return;
        };
        let key = root.key;
        let is_current = root
            .current
            .as_ref()
            .is_some_and(|current| current.z0 == z0);
        let discarded = if is_current {
            root.current.take()
        } else {
            // What serves is older: if it is stale too, that is found out and is reason enough.
            root.no_rotation_before = now + RETRY;
            root.next.take()
        };
        root.forgive();
        if root.current.is_none() && root.next.is_none() {
            let want = Want::new(why, now, CHANGE_PAUSE, CHANGE_PATIENCE).after(delay);
            root.want_build(want, now);
        }
        if let Some(generation) = discarded {
            self.dismiss(generation, why);
        }
        // The one built beside it may be ready.
        self.take_over(key, now);
    }

    /// Looks again at all that is ready, for who asks what is: the watcher may be late, and misses
    /// what is written through memory.
    pub(super) fn recheck_all(&mut self, now: Instant) {
        self.recheck_those(|_| true, now);
    }

    fn recheck_those(&mut self, is_concerned: impl Fn(&Zygote) -> bool, now: Instant) {
        let concerned: Vec<_> = self
            .zygotes
            .values()
            .filter(|zygote| zygote.is_ready() && is_concerned(zygote))
            .map(|zygote| zygote.id)
            .collect();
        // In the order of their numbers: a Z0 comes before what was grown from it and takes that
        // along.
        for id in concerned {
            let Some(zygote) = self.zygotes.get_mut(&id).filter(|zygote| zygote.is_ready()) else {
                continue;
            };
            match zygote.trace.check_disk() {
                Ok(()) => {}
                Err(Mismatch::Unsettled(_)) => {
                    let again = zygote.watched().clone();
                    self.look_again(again, now);
                }
                Err(Mismatch::Stale(why) | Mismatch::Other(why)) => self.on_stale(id, &why, now),
            }
        }
    }

    /// Looks again at everything that depends on these directories.
    pub(super) fn recheck(&mut self, directories: &BTreeSet<PathBuf>, now: Instant) {
        self.recheck_those(|zygote| !zygote.watched().is_disjoint(directories), now);
        for root in &mut self.roots {
            if let Some(want) = &mut root.build {
                want.renew(now);
            }
            let outdated = |failure: &mut Option<Failure>| {
                let found = failure.as_mut().is_some_and(|failure| {
                    !failure.watched().is_disjoint(directories) && failure.outdated()
                });
                found.then(|| *failure = None).is_some()
            };
            if outdated(&mut root.failure) {
                let want = Want::new("an input changed", now, CHANGE_PAUSE, CHANGE_PATIENCE);
                root.want_build(want.after(AFTER_CHANGE), now);
            }
            for record in root.records.values_mut() {
                if let Some(want) = &mut record.grow {
                    want.renew(now);
                }
                let is_free = outdated(&mut record.because);
                if is_free {
                    record.forget_stops();
                }
                if outdated(&mut record.failure) || is_free {
                    let want = Want::new("an input changed", now, CHANGE_PAUSE, GROW_PATIENCE);
                    record.grow = Some(want.after(AFTER_CHANGE));
                }
            }
        }
    }
}

/// What a process printed, below the line of the log that tells of it.
fn below(output: &str) -> String {
    output.lines().map(|line| format!("\n    {line}")).collect()
}
