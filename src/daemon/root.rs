//! A root: all checkpoints that stand for runs of one [`RootKey`], what is known of the runs it
//! serves, and what is to be built next.
//!
//! A root has a *generation* of checkpoints that serves, and at times a second one that is being
//! built beside it and takes over when it is as good. So there is no moment without a checkpoint
//! because of a replacement.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::edits::Edits;
use super::history::Incidents;
use super::level::Level;
use super::shape::{RootKey, Shape};
use super::supervisor::{Failure, ZygoteId};
use crate::protocol::{Before, Run};
use crate::trace::Trace;

/// Each distinct set of early options or directory is a shape, each set of conftests a selection;
/// people use two or three. So many are known of each depth.
const KINDS: usize = 8;

/// Something to be done in the background when it disturbs nobody.
#[derive(Debug, Clone)]
pub(super) struct Want {
    pub(super) why: String,
    not_before: Instant,
    /// How long all has to have been quiet.
    pause: Duration,
    /// Then it is done in spite of running tests.
    latest: Instant,
}

impl Want {
    pub(super) fn new(why: &str, now: Instant, pause: Duration, patience: Duration) -> Self {
        Self {
            why: why.to_owned(),
            not_before: now,
            pause,
            latest: now + patience,
        }
    }

    pub(super) fn after(mut self, delay: Duration) -> Self {
        self.not_before += delay;
        self.latest += delay;
        self
    }

    /// When to do it. `quiet_since`: when the last run ended, if none is under way.
    pub(super) fn due(&self, quiet_since: Option<Instant>) -> Instant {
        match quiet_since {
            Some(since) => (since + self.pause).max(self.not_before).min(self.latest),
            None => self.latest,
        }
    }

    /// The same wish came up again: wait for quiet anew, but not for ever.
    pub(super) fn renew(&mut self, now: Instant) {
        self.not_before = self.not_before.max(now + self.pause);
    }
}

#[derive(Debug)]
pub(super) struct Generation {
    pub(super) z0: ZygoteId,
    /// What that was built from, once it has retired.
    pub(super) retired: Option<Trace>,
    pub(super) prepared: Vec<ZygoteId>,
    pub(super) born: Instant,
    pub(super) served: u32,
}

impl Generation {
    pub(super) fn new(z0: ZygoteId, now: Instant) -> Self {
        Self {
            z0,
            retired: None,
            prepared: Vec::new(),
            born: now,
            served: 0,
        }
    }

    pub(super) fn members(&self) -> impl Iterator<Item = ZygoteId> + '_ {
        std::iter::once(self.z0).chain(self.prepared.iter().copied())
    }

    pub(super) fn has(&self, id: ZygoteId) -> bool {
        self.members().any(|member| member == id)
    }
}

/// What is known of the runs that a checkpoint of one level would serve.
#[derive(Debug)]
pub(super) struct LevelRecord {
    /// The latest of them that the Z0 stood for, if there was one.
    pub(super) run: Box<Run>,
    /// Whether its standard descriptors were terminals.
    pub(super) tty: [bool; 3],
    pub(super) uses: u32,
    /// The number of the latest.
    pub(super) last: u64,
    pub(super) grow: Option<Want>,
    /// Checkpoints grown for it that never served anybody.
    pub(super) wasted: u32,
    pub(super) failure: Option<Failure>,
    /// Up to where a checkpoint can be grown, if not all the way.
    pub(super) before: Option<Before>,
    /// What that depends on: when it changes, all the way is tried again.
    pub(super) because: Option<Failure>,
    /// Where growing was to stop since it was tried all the way.
    pub(super) stops: Vec<String>,
    pub(super) edits: Edits,
}

impl LevelRecord {
    /// All the way is tried again.
    pub(super) fn forget_stops(&mut self) {
        self.before = None;
        self.because = None;
        self.stops.clear();
    }

    /// The same if what they depend on has changed, or is not known.
    pub(super) fn forget_outdated_stops(&mut self) {
        if self.because.as_mut().is_none_or(Failure::outdated) {
            self.forget_stops();
        }
    }
}

#[derive(Debug)]
pub(super) struct Root {
    pub(super) key: RootKey,
    /// The latest run that the Z0 stood for, or that found no Z0: the next one starts as it did.
    pub(super) template: Box<Run>,
    pub(super) current: Option<Generation>,
    pub(super) next: Option<Generation>,
    pub(super) build: Option<Want>,
    pub(super) failure: Option<Failure>,
    /// How long to wait after an input changed while it was read.
    pub(super) backoff: Duration,
    /// Z0s that died one after the other without having served a run.
    pub(super) deaths: u32,
    pub(super) records: BTreeMap<Level, LevelRecord>,
    /// The number of the last run: what least recently used goes by.
    pub(super) used: u64,
    /// A replacement that failed is not tried again before.
    pub(super) no_rotation_before: Instant,
    /// Z0s that were built.
    pub(super) builds: u32,
    pub(super) born: Instant,
    /// Some run was served by what was built here.
    pub(super) has_served: bool,
    /// How long a Z0 is kept that nothing is wanted of.
    pub(super) keep: Duration,
    pub(super) incidents: Incidents,
}

/// Who tries other options does it within half a minute.
pub(super) const FIRST_KEEP: Duration = Duration::from_secs(30);
const LAST_KEEP: Duration = Duration::from_secs(3600);

/// An input that changes while it is read is being written at this moment; a second later it
/// mostly is not. What changes for ever must not keep a processor busy.
pub(super) const FIRST_BACKOFF: Duration = Duration::from_secs(1);
pub(super) const LAST_BACKOFF: Duration = Duration::from_secs(30);

impl Root {
    pub(super) fn new(key: RootKey, template: Box<Run>, now: Instant) -> Self {
        Self {
            key,
            template,
            current: None,
            next: None,
            build: None,
            failure: None,
            backoff: FIRST_BACKOFF,
            deaths: 0,
            records: BTreeMap::new(),
            used: 0,
            no_rotation_before: now,
            builds: 0,
            born: now,
            has_served: false,
            keep: FIRST_KEEP,
            incidents: Incidents::default(),
        }
    }

    /// The Z0 that serves has retired: from what is there nothing new can be grown for other early
    /// options.
    pub(super) fn has_retired(&self) -> bool {
        let retired = |generation: &Generation| generation.retired.is_some();
        self.current.as_ref().is_some_and(retired)
    }

    /// A Z0 is wanted that has retired. Such wishes may come again and again, so the next is kept
    /// for longer.
    pub(super) fn want_z0_again(&mut self, want: Want, now: Instant) {
        if self.build.is_none() && self.next.is_none() {
            self.keep = (self.keep * 2).min(LAST_KEEP);
            self.want_build(want, now);
        }
    }

    /// Something was built here and has been of no use to anybody so far.
    pub(super) fn is_barren(&self) -> bool {
        self.builds > 0 && !self.has_served
    }

    pub(super) fn generations(&self) -> impl Iterator<Item = &Generation> {
        self.current.iter().chain(&self.next)
    }

    pub(super) fn generation_of(&mut self, id: ZygoteId) -> Option<&mut Generation> {
        self.current
            .iter_mut()
            .chain(&mut self.next)
            .find(|generation| generation.has(id))
    }

    /// Remembers a run: the next checkpoints are built as it was started.
    pub(super) fn remember(&mut self, levels: &[Level], run: &Run, tty: [bool; 3], number: u64) {
        self.used = number;
        *self.template = run.clone();
        for level in levels {
            if level.shape().is_some_and(Shape::is_for_information) {
                continue;
            }
            let record = self
                .records
                .entry(level.clone())
                .or_insert_with(|| LevelRecord {
                    run: self.template.clone(),
                    tty,
                    uses: 0,
                    last: 0,
                    grow: None,
                    wasted: 0,
                    failure: None,
                    before: None,
                    because: None,
                    stops: Vec::new(),
                    edits: Edits::default(),
                });
            record.run = self.template.clone();
            record.tty = tty;
            record.uses += 1;
            record.last = number;
            self.forget_all_but_few(level.depth());
        }
    }

    fn forget_all_but_few(&mut self, depth: usize) {
        let of_depth = |records: &BTreeMap<Level, LevelRecord>| {
            let mut levels: Vec<_> = records
                .iter()
                .filter(|(level, _)| level.depth() == depth)
                .map(|(level, record)| (record.last, level.clone()))
                .collect();
            levels.sort_by_key(|(last, _)| *last);
            levels
        };
        let levels = of_depth(&self.records);
        let excess = levels.len().saturating_sub(KINDS);
        for (_, level) in &levels[..excess] {
            self.records.remove(level);
        }
    }

    /// The level for the most used early options.
    pub(super) fn most_used(&self) -> Option<Level> {
        let most = self
            .records
            .iter()
            .filter(|(level, _)| level.depth() == 1)
            .max_by_key(|(_, record)| (record.uses, record.last));
        most.map(|(level, _)| level.clone())
    }

    /// What lies right below this level and was used last.
    pub(super) fn next_deeper(&self, above: &Level) -> Option<Level> {
        let deeper = self
            .records
            .iter()
            .filter(|(level, _)| {
                level.depth() == above.depth() + 1 && level.shape() == above.shape()
            })
            .max_by_key(|(_, record)| record.last);
        deeper.map(|(level, _)| level.clone())
    }

    /// Asks for a build; a wish that is there already is put off while changes go on.
    pub(super) fn want_build(&mut self, want: Want, now: Instant) {
        match &mut self.build {
            Some(there) => there.renew(now),
            None => self.build = Some(want),
        }
    }

    pub(super) fn lengthen_backoff(&mut self) -> Duration {
        let delay = self.backoff;
        self.backoff = (delay * 2).min(LAST_BACKOFF);
        delay
    }

    /// How long to wait after a Z0 died: not at all the first time, which may be somebody's kill;
    /// then longer each time, as it is likely to die again.
    pub(super) fn count_death(&mut self) -> Duration {
        let delay = match self.deaths {
            0 => Duration::ZERO,
            deaths => (FIRST_BACKOFF * 2u32.pow(deaths.min(10) - 1)).min(LAST_BACKOFF),
        };
        self.deaths += 1;
        delay
    }

    /// What failed to grow from a former checkpoint of this level may grow from a new one.
    pub(super) fn forgive_below(&mut self, above: &Level) {
        for (level, record) in &mut self.records {
            if level.depth() > above.depth() && level.shape() == above.shape() {
                record.failure = None;
                record.forget_outdated_stops();
            }
        }
    }

    /// What failed or was useless before may go well now.
    pub(super) fn forgive(&mut self) {
        for (level, record) in &mut self.records {
            record.failure = None;
            record.wasted = 0;
            match level {
                // What a conftest does does not depend on the generation.
                Level::Z2(_) => record.forget_outdated_stops(),
                _ => record.forget_stops(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::tests::fakes::run;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_want_waits_for_quiet_but_not_for_ever() {
        let now = Instant::now();
        let want = Want::new("x", now, 200 * MS, 10_000 * MS);
        assert_eq!(want.due(None), now + 10_000 * MS);
        assert_eq!(want.due(Some(now + 50 * MS)), now + 250 * MS);
        assert_eq!(want.due(Some(now - 5_000 * MS)), now);
        assert_eq!(want.due(Some(now + 60_000 * MS)), now + 10_000 * MS);
    }

    #[test]
    fn a_want_that_is_renewed_waits_again() {
        let now = Instant::now();
        let mut want = Want::new("x", now, 200 * MS, 1_000 * MS);
        want.renew(now + 100 * MS);
        assert_eq!(want.due(Some(now - 5_000 * MS)), now + 300 * MS);
        want.renew(now + 5_000 * MS);
        assert_eq!(want.due(Some(now - 5_000 * MS)), now + 1_000 * MS);
    }

    #[test]
    fn few_kinds_are_kept_and_the_most_used_is_known() {
        let mut root = Root::new(RootKey::of(&run()), Box::new(run()), Instant::now());
        for number in 0..20u64 {
            let mut run = run();
            run.cwd = format!("/{}", if number % 2 == 0 { 0 } else { number }).into_bytes();
            root.remember(&Level::all(&run), &run, [false; 3], number);
        }
        assert_eq!(root.records.len(), 2 * KINDS);
        let most = root.most_used().unwrap();
        assert_eq!(root.records[&most].uses, 10);
        let deeper = root.next_deeper(&most).unwrap();
        assert_eq!((deeper.depth(), deeper.shape()), (2, most.shape()));
        assert_eq!(root.template.cwd, b"/19");
    }

    #[test]
    fn a_z0_that_keeps_dying_is_built_less_and_less_often() {
        let mut root = Root::new(RootKey::of(&run()), Box::new(run()), Instant::now());
        let delays: Vec<_> = (0..8).map(|_| root.count_death().as_secs()).collect();
        assert_eq!(delays, [0, 1, 2, 4, 8, 16, 30, 30]);
    }

    #[test]
    fn the_back_off_doubles_up_to_its_limit() {
        let mut root = Root::new(RootKey::of(&run()), Box::new(run()), Instant::now());
        let delays: Vec<_> = (0..7).map(|_| root.lengthen_backoff().as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 30, 30]);
    }
}
