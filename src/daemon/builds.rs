//! Roots and zygotes, from the wish for one to its end.
//!
//! When a root has nothing that serves, its runs are plain, and a Z0 is built when they are over.
//! From a ready Z0 a P0 is grown for each shape of run that it served, from a ready P0 a Z2 for each
//! selection. A generation that has served for long is replaced by one that was built beside it, so that the hash seed varies as it
//! does from one plain pytest to the next.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use super::choose::Answer;
use super::dispatcher::Dispatcher;
use super::edits::is_base;
use super::level::Level;
use super::root::{Generation, Root, Want};
use super::shape::{RootKey, Shape, caller, seed_varies};
use super::spawn::{open_dir, output_file};
use super::supervisor::{Failure, START_LIMIT, Zygote, ZygoteId};
use super::watcher::Wanted;
use crate::error::{Error, Result};
use crate::protocol::{Order, Run, UNKNOWN};
use crate::trace::{Mismatch, Trace};
use crate::transport::Connection;

/// How it begins that there is no deeper checkpoint where one is to come.
pub(super) const NOT_YET: &str = "not prepared yet";

/// A save touches several files, a checkout touches many; a build in between would be wasted.
pub(super) const CHANGE_PAUSE: Duration = Duration::from_millis(200);
pub(super) const CHANGE_PATIENCE: Duration = Duration::from_secs(10);
/// After a change a build is put off by this much, and further by each change that follows: longer
/// than it takes the watcher to say that it goes on.
pub(super) const AFTER_CHANGE: Duration = Duration::from_millis(100);
/// People who start a second run at once should find the processors free.
pub(super) const GROW_PAUSE: Duration = Duration::from_millis(50);
pub(super) const GROW_PATIENCE: Duration = Duration::from_secs(10);
/// What failed for a reason that cannot be seen (memory, a kill) may go well later.
pub(super) const RETRY: Duration = Duration::from_secs(60);
/// Checkpoints that were grown for runs of one kind and served nobody: something in such runs differs each
/// time, and growing goes on for ever.
const MOST_WASTED: u32 = 3;

/// A hash seed serves this many runs or this long; the next generation is built when it is quiet,
/// at the latest after twice as many.
const SEED_RUNS: u32 = 20;
const SEED_TIME: Duration = Duration::from_secs(15 * 60);

impl Dispatcher {
    /// A run of these levels was handed to this zygote. The next deeper one is wanted for it.
    pub(super) fn note_use(&mut self, id: ZygoteId, levels: Option<&[Level]>, now: Instant) {
        let Some(zygote) = self.zygotes.get(&id) else {
            return;
        };
        let (key, depth) = (zygote.root, zygote.level.depth());
        if let Some(zygote) = self.zygotes.get_mut(&id) {
            zygote.needed = now;
        }
        if let Some(root) = self.root(key) {
            root.has_served = true;
            if let Some(generation) = root.generation_of(id) {
                generation.served += 1;
            }
        }
        let mut levels = levels.unwrap_or_default().iter();
        if let Some(deeper) = levels.find(|level| level.depth() == depth + 1) {
            self.want_growth(key, deeper, now);
        }
    }

    pub(super) fn want_growth(&mut self, key: RootKey, level: &Level, now: Instant) {
        let growing = self
            .zygotes
            .values()
            .any(|zygote| zygote.root == key && zygote.is_starting() && zygote.level == *level);
        let Some(record) = self.root(key).and_then(|root| root.records.get_mut(level)) else {
            return;
        };
        if record.failure.as_mut().is_some_and(Failure::outdated) {
            record.failure = None;
        }
        if growing || record.failure.is_some() || record.wasted >= MOST_WASTED {
            return;
        }
        let want = Want::new("a new kind of run", now, GROW_PAUSE, GROW_PATIENCE);
        record.grow.get_or_insert_with(|| want.clone());
        if let Some(root) = self.root(key).filter(|root| root.has_retired())
            && level.depth() == 1
        {
            root.want_z0_again(want, now);
        }
    }

    /// Why such runs are not served by a checkpoint of this level.
    pub(super) fn why_not_deeper(&self, key: RootKey, level: &Level) -> String {
        if level.shape().is_some_and(Shape::is_for_information) {
            return "none is kept for `--help` and `--version`".into();
        }
        let root = self.roots.iter().find(|root| root.key == key);
        let Some(record) = root.and_then(|root| root.records.get(level)) else {
            return "the first run with these options".into();
        };
        if let Some(failure) = &record.failure {
            return failure.reason.clone();
        }
        if record.wasted >= MOST_WASTED {
            return "what was prepared for these options never fitted".into();
        }
        if let Some(short) = self.why_short() {
            return short;
        }
        match &record.grow {
            Some(want) => format!("{NOT_YET}: {}", want.why),
            // It was there and went, or another one has served them.
            None => "there is none of their own".into(),
        }
    }

    /// When something is to be built or ended.
    pub(super) fn builds_due(&self) -> Option<Instant> {
        let hung = self
            .zygotes
            .values()
            .filter(|zygote| zygote.is_starting())
            .map(|zygote| zygote.started + START_LIMIT);
        let wanted = self.roots.iter().filter_map(|root| {
            let build = self
                .build_due(root)
                .into_iter()
                .chain(self.retirement_due(root))
                .min();
            let growth = self.growth_due(root).map(|(due, _)| due);
            build.into_iter().chain(growth).min()
        });
        hung.chain(wanted).chain(self.bases_due()).min()
    }

    fn build_due(&self, root: &Root) -> Option<Instant> {
        if root.next.is_some() || self.memory.shortage.is_some() {
            return None;
        }
        match (&root.build, &root.current) {
            (Some(want), _) => Some(want.due(self.quiet_since)),
            (None, Some(generation)) => self.rotation_due(root, generation),
            (None, None) => None,
        }
    }

    /// When a generation is to be replaced because of its hash seed.
    fn rotation_due(&self, root: &Root, generation: &Generation) -> Option<Instant> {
        if generation.served == 0 || !seed_varies(&root.template) {
            return None;
        }
        let from = if generation.served >= SEED_RUNS {
            generation.born
        } else {
            generation.born + SEED_TIME
        }
        .max(root.no_rotation_before);
        match self.quiet_since {
            Some(since) => Some(from.max(since + CHANGE_PAUSE)),
            None if generation.served >= 2 * SEED_RUNS => Some(from),
            None => None,
        }
    }

    /// What is to be grown next.
    fn growth_due(&self, root: &Root) -> Option<(Instant, Level)> {
        let generation = root.current.as_ref()?;
        if self.memory.shortage.is_some() {
            return None;
        }
        let may_grow = (generation.retired.is_some()
            || self.zygotes.get(&generation.z0).is_some_and(Zygote::is_ready))
            // One at a time: they would only slow each other down.
            && !generation
                .prepared
                .iter()
                .any(|id| self.zygotes.get(id).is_some_and(Zygote::is_starting));
        if !may_grow {
            return None;
        }
        root.records
            .iter()
            .filter_map(|(level, record)| {
                let due = record.grow.as_ref()?.due(self.quiet_since);
                (!self.parents(root, level).is_empty()).then_some((due, level))
            })
            .min()
            .map(|(due, level)| (due, level.clone()))
    }

    /// From which a checkpoint of this level may be forked.
    pub(super) fn parents(&self, root: &Root, level: &Level) -> Vec<ZygoteId> {
        let is_ready = |id: &ZygoteId| self.zygotes.get(id).is_some_and(Zygote::is_ready);
        match level {
            Level::Z0 => Vec::new(),
            Level::P0(_) => [root.next.as_ref(), root.current.as_ref()]
                .into_iter()
                .flatten()
                .map(|generation| generation.z0)
                .filter(is_ready)
                .take(1)
                .collect(),
            deeper => {
                let above: Vec<_> = deeper.above().into_iter().collect();
                let generation = root.current.iter();
                let record = root.records.get(level);
                let mut bases: Vec<_> = generation
                    .clone()
                    .flat_map(|generation| &generation.prepared)
                    .filter(|id| is_ready(id))
                    .filter(|id| {
                        let zygote = &self.zygotes[id];
                        zygote.level == *level && record.is_some_and(|it| is_base(it, zygote))
                    })
                    .copied()
                    .collect();
                // The one that has come furthest. (None may be for this environment.)
                bases.sort_by_key(|id| std::cmp::Reverse(self.zygotes[id].reach));
                let others = generation
                    .flat_map(|generation| &generation.prepared)
                    .filter(|id| is_ready(id))
                    .filter(|id| {
                        let zygote = &self.zygotes[id];
                        // Not from the midst of conftests, if that is a base: there is to be one
                        // that goes on from there.
                        let record = root.records.get(&zygote.level);
                        zygote.level.depth() + 1 == deeper.depth()
                            && zygote.answer(&above) == Answer::Accepts
                            && !record.is_some_and(|record| is_base(record, zygote))
                    })
                    .copied();
                bases.into_iter().chain(others).collect()
            }
        }
    }

    pub(super) fn build_what_is_due(&mut self, now: Instant) {
        if self.is_closing() {
            return;
        }
        self.end_idle_bases(now);
        let due = self.roots.iter().any(|root| {
            let growth = self.growth_due(root).map(|(due, _)| due);
            self.build_due(root)
                .into_iter()
                .chain(growth)
                .any(|due| due <= now)
        });
        if due && self.is_outdated() {
            // What it would build belongs to another build, and might not understand it.
            self.close(None, now);
            return;
        }
        for at in 0..self.roots.len() {
            let root = &self.roots[at];
            if self.build_due(root).is_some_and(|due| due <= now) {
                self.build(at, now);
            }
            let root = &self.roots[at];
            if let Some((_, level)) = self.growth_due(root).filter(|(due, _)| *due <= now) {
                let root = &mut self.roots[at];
                if let Some(record) = root.records.get_mut(&level) {
                    record.grow = None;
                }
                let key = root.key;
                self.grow(key, &level, now);
            }
        }
    }

    /// Starts a Z0 for the next generation.
    fn build(&mut self, at: usize, now: Instant) {
        let root = &mut self.roots[at];
        let key = root.key;
        let why = root
            .build
            .take()
            .map_or_else(|| "a new hash seed".into(), |want| want.why);
        let template = root.template.clone();
        tracing::info!("root {}: starting a Z0 ({why})", key.short());
        match self.start_z0(key, template, now) {
            Ok(id) => self.roots[at].next = Some(Generation::new(id, now)),
            Err(error) => {
                tracing::warn!("root {}: {error}", key.short());
                let reason = error.to_string();
                let root = &mut self.roots[at];
                root.no_rotation_before = now + RETRY;
                if root.current.is_none() {
                    root.failure = Some(Failure::blind(reason, now));
                }
            }
        }
    }

    fn start_z0(&mut self, key: RootKey, run: Box<Run>, now: Instant) -> Result<ZygoteId> {
        let (mut ours, theirs) = Connection::pair()?;
        let output = output_file()?;
        let theirs = OwnedFd::from(theirs.into_stream());
        let group = self.spawner.z0(&run, theirs, &output)?;
        ours.set_nonblocking(true)?;
        let distrusted = self.learned.distrusted().cloned().collect();
        ours.post(&Order::Begin { run, distrusted }, &[])?;
        self.last_zygote += 1;
        let id = ZygoteId(self.last_zygote);
        let zygote = Zygote::starting(id, key, Level::Z0, ours, output, group, now);
        self.zygotes.insert(id, zygote);
        Ok(id)
    }

    /// Has a checkpoint fork a deeper one; a Z0 that is about to replace the serving one comes
    /// first. True if it is asked to.
    ///
    /// What is forked inherits all that its parent holds, so that is checked as it is for a run.
    pub(super) fn grow(&mut self, key: RootKey, level: &Level, now: Instant) -> bool {
        let Some(at) = self.roots.iter().position(|root| root.key == key) else {
            return false;
        };
        let parents = self.parents(&self.roots[at], level);
        for id in &parents {
            let record = self.roots[at].records.get(level);
            let Some((record, parent)) = record.zip(self.zygotes.get_mut(id)) else {
                return false;
            };
            let run = caller(&record.run, record.tty);
            let checked = parent.trace.check_caller(run);
            match checked.and_then(|()| parent.trace.check_disk()) {
                Ok(()) => return self.order_growth(key, *id, level, now),
                Err(Mismatch::Stale(why)) => {
                    self.on_stale(*id, &why, now);
                    return false;
                }
                Err(Mismatch::Unsettled(why)) => {
                    tracing::debug!("not grown yet: {why}");
                    if let Some(record) = self.roots[at].records.get_mut(level) {
                        let want = Want::new(&why, now, GROW_PAUSE, GROW_PATIENCE);
                        record.grow = Some(want.after(GROW_PAUSE));
                    }
                    return false;
                }
                Err(Mismatch::Other(_)) => {}
            }
        }
        if !parents.is_empty() {
            // Such runs belong to another root, or to checkpoints that are gone.
            self.roots[at].records.remove(level);
        }
        false
    }

    fn order_growth(
        &mut self,
        key: RootKey,
        parent: ZygoteId,
        level: &Level,
        now: Instant,
    ) -> bool {
        let root = self.roots.iter_mut().find(|root| root.key == key);
        let Some((root, parent)) = root.zip(self.zygotes.get_mut(&parent)) else {
            return false;
        };
        let Some(record) = root.records.get_mut(level) else {
            return false;
        };
        let run = record.run.clone();
        let from = parent.before.as_ref().filter(|_| parent.level == *level);
        // Bases come first; unless they lie behind what cannot be kept.
        let base = record.edits.next(from);
        let before = base.or(record.before.as_ref()).cloned();
        let started = (|| {
            let (ours, theirs) = Connection::pair()?;
            let output = output_file()?;
            let cwd = open_dir(&run.cwd)?;
            ours.set_nonblocking(true)?;
            let order = Order::Grow {
                run,
                level: level.name().to_owned(),
                before: before.clone(),
            };
            let fds = [theirs.as_fd(), output.as_fd(), cwd.as_fd()];
            parent.control.post(&order, &fds)?;
            Ok::<_, Error>((ours, output))
        })();
        let (ours, output) = match started {
            Ok(started) => started,
            Err(error) => {
                tracing::warn!("root {}: growing a {}: {error}", key.short(), level.name());
                record.failure = Some(Failure::blind(error.to_string(), now));
                return false;
            }
        };
        let described = level.describe().unwrap_or_default();
        let until = before.as_ref().map(|before| match before.what.as_str() {
            UNKNOWN => ", to find where it can be parked".to_owned(),
            what => format!(", up to {what}"),
        });
        tracing::info!(
            "root {}: growing a {} {described}{}",
            key.short(),
            level.name(),
            until.unwrap_or_default()
        );
        self.last_zygote += 1;
        let id = ZygoteId(self.last_zygote);
        let used = record.last;
        let reach = parent.reach + 1;
        let is_from_base = parent.level == *level;
        parent.needed = now;
        let parent = parent.id;
        if let Some(generation) = root.generation_of(parent) {
            generation.prepared.push(id);
        }
        let mut zygote = Zygote::starting(id, key, level.clone(), ours, output, None, now);
        zygote.parent = Some(parent);
        zygote.used = used;
        zygote.before = before;
        zygote.reach = reach;
        zygote.is_from_base = is_from_base;
        self.zygotes.insert(id, zygote);
        true
    }

    pub(super) fn end_hung(&mut self, now: Instant) {
        let is_hung =
            |zygote: &&Zygote| zygote.is_starting() && zygote.started + START_LIMIT <= now;
        let hung: Vec<_> = self.zygotes.values().filter(is_hung).collect();
        for zygote in &hung {
            zygote.kill();
        }
        for id in hung.iter().map(|zygote| zygote.id).collect::<Vec<_>>() {
            let reason = format!("it was not ready after {START_LIMIT:?}");
            self.on_failed(id, reason, None, Trace::default(), now);
        }
    }

    /// Lets go of zygotes that have nothing to do any more. They exit when they notice.
    pub(super) fn drop_spent(&mut self) {
        // When the daemon goes, their ends are waited for.
        if !self.is_closing() {
            self.zygotes.retain(|_, zygote| !zygote.is_spent());
        }
    }

    pub(super) fn update_watches(&mut self) {
        if !std::mem::take(&mut self.watches_outdated) {
            return;
        }
        let mut wanted = Wanted::default();
        for zygote in self.zygotes.values().filter(|zygote| zygote.is_ready()) {
            wanted.add(&zygote.trace);
        }
        for root in &self.roots {
            let of_levels = root
                .records
                .values()
                .filter_map(|record| record.failure.as_ref());
            let of_stops = root
                .records
                .values()
                .filter_map(|record| record.because.as_ref());
            for failure in root.failure.iter().chain(of_levels).chain(of_stops) {
                wanted.add(failure.trace());
            }
        }
        self.watcher.watch(wanted);
    }
}
