//! Bases: checkpoints that are parked in the midst of conftests, from which the one that has executed
//! all is grown, and grown again.
//!
//! ```text
//!   P0 ──▶ Z2                        P0 ──▶ base ──▶ Z2
//!          └ gone with each edit            │         └ gone with each edit
//!                                           └ serves a run that comes at once
//! ```
//!
//! There are two for each set of conftests (and environment):
//! - the *opening*, where most is spared after an edit of whichever file: a Z2 tells where that is;
//! - for some time, one before the first of the files that are edited again and again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::builds::{GROW_PATIENCE, GROW_PAUSE};
use super::dispatcher::Dispatcher;
use super::level::Level;
use super::root::{LevelRecord, Want};
use super::shape::{RootKey, caller};
use super::supervisor::{Zygote, ZygoteId};
use crate::protocol::Before;
use crate::trace::Signature;

/// Two edits of one file within this time are likely to be followed by a third; and so long after
/// the last one a base is kept. Between two edits of one file people run tests, read the result and
/// think: mostly a minute or two.
const HOT: Duration = Duration::from_secs(5 * 60);

/// What an edit is to be spared for an opening to be kept. It costs a process (12 MiB where little is
/// imported), and a build; of less than this nobody would notice that it is there.
const LEAST_SPARED: f64 = 0.1;

/// Of the files that runs of one kind have executed.
#[derive(Debug, Default)]
pub(super) struct Edits {
    latest: BTreeMap<PathBuf, Edit>,
    /// Where the base before a file is parked, and how long it is kept.
    base: Option<(Before, Instant)>,
    opening: Opening,
    /// How often an opening was of no use.
    useless: u32,
}

/// A file that nobody can go on in any more (the compiler warns of it) makes an opening useless, and
/// the next one is right. What fails each time is built this often.
const MOST_USELESS: u32 = 3;

/// What another place has to be worth, as a multiple, for an opening to move there. That is measured
/// anew with each build, beside whatever else is done: chosen large, not measured, so that none moves
/// to and fro.
const MUCH_BETTER: f64 = 2.0;

#[derive(Debug, Default)]
enum Opening {
    #[default]
    Unknown,
    /// And what it was expected to spare.
    At(Before, f64),
    /// It was tried, and did not park, or nothing could be grown from it: again and again.
    Useless,
}

/// The latest of one file.
#[derive(Debug)]
struct Edit {
    at: Instant,
    /// What it was after that.
    is: Option<Signature>,
    /// It was not the first.
    again: bool,
}

impl Edits {
    /// Before the file that is edited again and again, or behind the imports of a conftest that is.
    pub(super) fn base(&self) -> Option<&Before> {
        self.base.as_ref().map(|(before, _)| before)
    }

    pub(super) fn opening(&self) -> Option<&Before> {
        match &self.opening {
            Opening::At(before, _) => Some(before),
            Opening::Unknown | Opening::Useless => None,
        }
    }

    pub(super) fn is_base(&self, before: Option<&Before>) -> bool {
        before.is_some() && (before == self.base() || before == self.opening())
    }

    /// Where to park on the way from a checkpoint that is parked at `from`: none if that is the last.
    pub(super) fn next(&self, from: Option<&Before>) -> Option<&Before> {
        let from = from.map(|before| &before.what);
        let is_from = |place: Option<&Before>| from.is_some() && place.map(|it| &it.what) == from;
        if is_from(self.base()) {
            None
        } else if is_from(self.opening()) {
            self.base()
        } else {
            self.base().or(self.opening())
        }
    }

    /// No base before a file: it is not needed any more.
    fn forget_base(&mut self) {
        self.latest.clear();
        self.base = None;
    }

    /// This one was of no use.
    fn give_up(&mut self, before: Option<&Before>) {
        if before.is_some() && before == self.opening() {
            self.give_up_opening();
        } else {
            self.forget_base();
        }
    }

    /// The nearest of those that something was grown from was of no use.
    fn give_up_nearest(&mut self) {
        match self.base {
            Some(_) => self.forget_base(),
            None => self.give_up_opening(),
        }
    }

    fn give_up_opening(&mut self) {
        self.useless += 1;
        self.opening = match self.useless {
            MOST_USELESS.. => Opening::Useless,
            _ => Opening::Unknown,
        };
    }

    /// A Z2 tells where an opening serves best. True if one is to be built there: there is none yet,
    /// or one that is worth much less.
    fn find_opening(&mut self, place: &str, seconds: f64) -> bool {
        let is_better = match &self.opening {
            Opening::Unknown => seconds >= LEAST_SPARED,
            Opening::At(before, now) => {
                before.what != place && seconds >= MUCH_BETTER * now + LEAST_SPARED
            }
            Opening::Useless => false,
        };
        if is_better {
            self.set_opening(place, seconds);
        }
        is_better
    }

    /// It is known from before where one serves best, if nothing newer is.
    pub(super) fn recall_opening(&mut self, place: &str) {
        if matches!(self.opening, Opening::Unknown) {
            self.set_opening(place, LEAST_SPARED);
        }
    }

    fn set_opening(&mut self, place: &str, seconds: f64) {
        let before = Before {
            what: place.to_owned(),
            reason: "what follows may be edited".to_owned(),
        };
        self.opening = Opening::At(before, seconds);
    }

    /// Takes over which files a checkpoint does not stand for any more, in the order in which they
    /// are executed. `is_base`: the base itself does not.
    fn note(
        &mut self,
        edited: Vec<(PathBuf, Option<Signature>, String)>,
        is_base: bool,
        now: Instant,
    ) {
        self.latest.retain(|_, edit| edit.at + HOT > now);
        let mut first = None;
        for (path, is, place) in edited {
            let again = match self.latest.get(&path) {
                // Another checkpoint has noticed the same edit.
                Some(edit) if edit.is == is => edit.again,
                former => former.is_some(),
            };
            let edit = Edit { at: now, is, again };
            self.latest.insert(path.clone(), edit);
            if again {
                first.get_or_insert((path, place));
            }
        }
        if let Some((path, what)) = first {
            let reason = format!("`{}` is edited again and again", path.display());
            let before = Before { what, reason };
            // As long as it holds none of them, it does for this file as well.
            let kept = self.base.take().filter(|_| !is_base);
            self.base = Some((kept.map_or(before, |(former, _)| former), now + HOT));
        }
    }
}

/// Whether it is the base of checkpoints of its level.
pub(super) fn is_base(record: &LevelRecord, zygote: &Zygote) -> bool {
    record.edits.is_base(zygote.before.as_ref())
}

impl Dispatcher {
    pub(super) fn is_base(&self, id: ZygoteId) -> bool {
        self.zygotes.get(&id).is_some_and(|zygote| {
            let root = self.roots.iter().find(|root| root.key == zygote.root);
            let record = root.and_then(|root| root.records.get(&zygote.level));
            record.is_some_and(|record| is_base(record, zygote))
        })
    }

    /// A checkpoint has become stale.
    pub(super) fn note_edits(&mut self, id: ZygoteId, now: Instant) {
        let Some(zygote) = self.zygotes.get(&id) else {
            return;
        };
        let (key, level) = (zygote.root, zygote.level.clone());
        let mut edited = zygote.edited();
        let before = zygote.before.clone();
        // Where an edit leaves a base as it is, there is none to be parked before that file.
        let holds_open = |path: &Path| {
            let mut others = self.zygotes.values();
            others.any(|other| {
                (other.root, &other.level) == (key, &level)
                    && other.is_ready()
                    && self.is_base(other.id)
                    && other.holds_open(path)
            })
        };
        edited.retain(|(path, ..)| path.ends_with("conftest.py") || !holds_open(path));
        let record = self.root(key).and_then(|root| root.records.get_mut(&level));
        let Some(record) = record else { return };
        let is_base = before.is_some() && before.as_ref() == record.edits.base();
        record.edits.note(edited, is_base, now);
    }

    /// A base is parked: what was to be grown is grown from it.
    pub(super) fn grow_from_base(&mut self, key: RootKey, level: &Level, now: Instant) {
        if let Some(record) = self.root(key).and_then(|root| root.records.get_mut(level)) {
            let want = Want::new("its base is ready", now, GROW_PAUSE, GROW_PATIENCE);
            record.grow.get_or_insert(want);
        }
    }

    /// True if a base has failed, or what was grown from it and does not say why (`explained`): then
    /// it is done without.
    pub(super) fn does_without_base(
        &mut self,
        id: ZygoteId,
        explained: bool,
        now: Instant,
    ) -> bool {
        let Some(zygote) = self.zygotes.get(&id) else {
            return false;
        };
        let (key, level) = (zygote.root, zygote.level.clone());
        let is_from_base = zygote.is_from_base;
        let before = zygote.before.clone();
        let record = self.root(key).and_then(|root| root.records.get_mut(&level));
        let Some(record) = record else { return false };
        let was_base = record.edits.is_base(before.as_ref());
        if !was_base && (explained || !is_from_base) {
            return false;
        }
        match was_base {
            true => record.edits.give_up(before.as_ref()),
            false => record.edits.give_up_nearest(),
        }
        record.failure = None;
        let want = Want::new(
            "another try, without a base",
            now,
            GROW_PAUSE,
            GROW_PATIENCE,
        );
        record.grow = Some(want);
        self.learn_opening(key, &level, now);
        self.end_former_bases(key, &level);
        true
    }

    /// A checkpoint behind conftests is parked, and was to stop in their midst: where that was has not
    /// been passed this time.
    pub(super) fn pass_base_by(&mut self, id: ZygoteId, now: Instant) {
        let Some(zygote) = self.zygotes.get_mut(&id) else {
            return;
        };
        if !matches!(zygote.level, Level::Z2(_)) || zygote.shallow.is_some() {
            return;
        }
        let (key, level) = (zygote.root, zygote.level.clone());
        let before = zygote.before.take();
        let record = self.root(key).and_then(|root| root.records.get_mut(&level));
        if let Some(record) = record.filter(|it| it.edits.is_base(before.as_ref())) {
            record.edits.give_up(before.as_ref());
            self.learn_opening(key, &level, now);
        }
    }

    /// A checkpoint is ready. If it tells of an opening, that is built, and this one again from there.
    pub(super) fn want_opening(&mut self, id: ZygoteId, now: Instant) {
        let Some(zygote) = self.zygotes.get(&id).filter(|_| !self.is_base(id)) else {
            return;
        };
        let Some((place, seconds)) = zygote.opening.clone() else {
            return;
        };
        let is_there = zygote.before.as_ref().is_some_and(|it| it.what == place);
        let (key, level) = (zygote.root, zygote.level.clone());
        let record = self.root(key).and_then(|root| root.records.get_mut(&level));
        if let Some(record) = record.filter(|_| !is_there)
            && record.edits.find_opening(&place, seconds)
        {
            // While there is a base before a file, what is grown is grown from that.
            if record.edits.base().is_none() {
                let why = format!("an opening {place}, {seconds:.1} s");
                let want = Want::new(&why, now, GROW_PAUSE, GROW_PATIENCE);
                record.grow.get_or_insert(want);
            }
            self.learn_opening(key, &level, now);
        }
    }

    /// What is known of these runs' opening outlives the daemon.
    fn learn_opening(&mut self, key: RootKey, level: &Level, now: Instant) {
        let root = self.roots.iter().find(|root| root.key == key);
        let record = root.and_then(|root| root.records.get(level));
        let place = record.and_then(|record| record.edits.opening());
        if let Some(runs) = level.describe() {
            let place = place.map(|before| before.what.as_str());
            self.learned.note_opening(&runs, place, now);
        }
    }

    /// Of runs that have just been seen for the first time.
    pub(super) fn recall_openings(&mut self, key: RootKey, levels: &[Level]) {
        for level in levels.iter().filter(|it| matches!(it, Level::Z2(_))) {
            let known = level.describe();
            let known = known.and_then(|runs| self.learned.opening(&runs).map(str::to_owned));
            let record = self.root(key).and_then(|root| root.records.get_mut(level));
            if let Some((record, place)) = record.zip(known) {
                record.edits.recall_opening(&place);
            }
        }
    }

    /// What was grown from a base is ready: the same goes that was there before it, with what was
    /// grown from that.
    pub(super) fn discard_former(&mut self, by: ZygoteId) {
        let Some(by) = self.zygotes.get(&by).filter(|by| by.is_from_base) else {
            return;
        };
        let (key, level) = (by.root, by.level.clone());
        let is_former = |zygote: &Zygote| {
            (zygote.root, &zygote.level) == (key, &level)
                && zygote.id != by.id
                && zygote.is_ready()
                && !self.is_base(zygote.id)
        };
        let root = self.roots.iter().find(|root| root.key == key);
        let Some(record) = root.and_then(|root| root.records.get(&level)) else {
            return;
        };
        // Not those that serve in another environment.
        let run = caller(&record.run, record.tty);
        // What nothing was grown from any more stands for an environment that is not in use.
        let is_left = |zygote: &Zygote| {
            (zygote.root, &zygote.level) == (key, &level)
                && zygote.is_ready()
                && self.is_base(zygote.id)
                && !self.zygotes.values().any(|it| it.parent == Some(zygote.id))
                && zygote.trace.check_caller(run).is_err()
        };
        let left: Vec<_> = self
            .zygotes
            .values()
            .filter(|zygote| is_left(zygote))
            .map(|zygote| zygote.id)
            .collect();
        let former: Vec<_> = self
            .zygotes
            .values()
            .filter(|zygote| is_former(zygote) && zygote.trace.check_caller(run).is_ok())
            .map(|zygote| zygote.id)
            .collect();
        if let Some(record) = self.root(key).and_then(|root| root.records.get_mut(&level)) {
            record.edits.useless = 0;
        }
        for id in left {
            self.discard_prepared(id, "it is needed as a base no more");
        }
        for id in former {
            let children = self.zygotes.values().filter(|it| it.parent == Some(id));
            let children: Vec<_> = children.map(|it| (it.id, it.level.clone())).collect();
            for (id, level) in children.into_iter().chain([(id, level.clone())]) {
                self.discard_prepared(id, "another one was grown from a base");
                if let Some(record) = self.root(key).and_then(|root| root.records.get_mut(&level)) {
                    record.wasted = 0;
                }
            }
        }
    }

    /// When the next base is not needed any more.
    pub(super) fn bases_due(&self) -> Option<Instant> {
        let records = self.roots.iter().flat_map(|root| root.records.values());
        records
            .filter_map(|record| record.edits.base.as_ref())
            .map(|(_, until)| *until)
            .min()
    }

    /// Lets go of bases before files that have not been edited for long.
    pub(super) fn end_idle_bases(&mut self, now: Instant) {
        let mut over = Vec::new();
        for root in &mut self.roots {
            for (level, record) in &mut root.records {
                if record
                    .edits
                    .base
                    .as_ref()
                    .is_some_and(|(_, until)| *until <= now)
                {
                    record.edits.forget_base();
                    over.push((root.key, level.clone()));
                }
            }
        }
        for (key, level) in over {
            self.end_former_bases(key, &level);
            let has_base = self
                .zygotes
                .values()
                .any(|it| (it.root, &it.level) == (key, &level) && self.is_base(it.id));
            let record = self.root(key).and_then(|root| root.records.get_mut(&level));
            if let Some(record) = record.filter(|it| !has_base && it.edits.opening().is_some()) {
                let want = Want::new("its opening", now, GROW_PAUSE, GROW_PATIENCE);
                record.grow.get_or_insert(want);
            }
        }
    }

    /// Of this level those go that another one was grown from.
    fn end_former_bases(&mut self, key: RootKey, level: &Level) {
        let parents: Vec<_> = self
            .zygotes
            .values()
            .filter(|zygote| zygote.root == key && zygote.level == *level && zygote.is_ready())
            .filter_map(|zygote| zygote.parent)
            .collect();
        for id in parents {
            let is_former = self
                .zygotes
                .get(&id)
                .is_some_and(|zygote| zygote.level == *level && zygote.is_ready());
            // The opening stays, if this is the end of another one.
            if is_former && !self.is_base(id) {
                self.discard_prepared(id, "it is needed as a base no more");
                if let Some(record) = self.root(key).and_then(|root| root.records.get_mut(level)) {
                    record.wasted = 0;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(file: &str, size: u64) -> (PathBuf, Option<Signature>, String) {
        let signature = Signature {
            size,
            ..Signature::of(std::path::Path::new("/")).unwrap()
        };
        (file.into(), Some(signature), format!("before `{file}`"))
    }

    #[test]
    fn the_second_edit_within_some_minutes_makes_a_base() {
        let mut edits = Edits::default();
        let start = Instant::now();
        edits.note(vec![edit("a", 1)], false, start);
        assert_eq!(edits.base(), None);
        // The same, noticed by another checkpoint.
        edits.note(vec![edit("a", 1)], false, start);
        assert_eq!(edits.base(), None);
        edits.note(vec![edit("b", 1)], false, start + HOT / 2);
        assert_eq!(edits.base(), None);
        edits.note(vec![edit("a", 2)], false, start + HOT / 2);
        assert_eq!(edits.base().unwrap().what, "before `a`");
    }

    #[test]
    fn an_edit_after_a_long_time_is_a_first_one() {
        let mut edits = Edits::default();
        let start = Instant::now();
        edits.note(vec![edit("a", 1)], false, start);
        edits.note(vec![edit("a", 2)], false, start + HOT);
        assert_eq!(edits.base(), None);
    }

    #[test]
    fn of_several_the_first_that_is_executed_counts() {
        let mut edits = Edits::default();
        let start = Instant::now();
        for size in [1, 2] {
            edits.note(vec![edit("b", size), edit("c", size)], false, start);
        }
        assert_eq!(edits.base().unwrap().what, "before `b`");
        // One before it serves for what comes later too.
        edits.note(vec![edit("c", 3)], false, start);
        assert_eq!(edits.base().unwrap().what, "before `b`");
        // But not for what it has executed itself. An edit that it may hold once is no reason.
        edits.note(vec![edit("a", 1)], true, start);
        assert_eq!(edits.base().unwrap().what, "before `b`");
        edits.note(vec![edit("a", 2)], false, start);
        assert_eq!(edits.base().unwrap().what, "before `b`");
        edits.note(vec![edit("a", 2)], true, start);
        assert_eq!(edits.base().unwrap().what, "before `a`");
    }
}
