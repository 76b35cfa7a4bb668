//! Checkpoints that cannot be grown all the way, and where they park instead.
//!
//! ```text
//!   all the way ──Failed, up to A──▶ up to A ──▶ parked at A
//!        │                            │
//!        │                            └─Failed, up to B──▶ up to B ─ ─ ▶
//!        └──Failed, not known──▶ looking ──Failed, up to C──▶ up to C ─ ─ ▶
//! ```
//!
//! Where a build stopped is remembered until a file changes that it depends on; then all the way
//! is tried again, and what is parked serves until that went well.

use std::time::Instant;

use super::builds::{GROW_PATIENCE, GROW_PAUSE};
use super::dispatcher::Dispatcher;
use super::level::Level;
use super::root::Want;
use super::shape::RootKey;
use super::supervisor::{Failure, ZygoteId};
use crate::protocol::{Before, Culprit, UNKNOWN};

/// A conftest that does two things that cannot be kept costs three builds, or four if one of them is
/// only found at the end. Where more is done, each try costs what it did not save before.
const MOST_STOPS: usize = 6;

impl Dispatcher {
    /// A build has failed and says up to where one may be grown.
    pub(super) fn stop_earlier(
        &mut self,
        key: RootKey,
        level: &Level,
        culprit: Culprit,
        failure: &Failure,
        now: Instant,
    ) {
        let is_there = self.zygotes.values().any(|zygote| {
            let before = zygote.before.as_ref();
            (zygote.root, &zygote.level) == (key, level)
                && zygote.is_ready()
                && before.is_some_and(|before| before.what == culprit.what)
        });
        let record = self.root(key).and_then(|root| root.records.get_mut(level));
        let Some(record) = record else { return };
        // To stop there again does not help: that build has failed too.
        if record.stops.contains(&culprit.what) || record.stops.len() == MOST_STOPS {
            return;
        }
        record.stops.push(culprit.what.clone());
        record.failure = None;
        // Of what was only found by comparing, it is not known what has done it.
        let because = failure.on_files(&culprit.files);
        let is_known = !record.stops.iter().any(|stop| stop == UNKNOWN);
        record.because = (is_known && !because.trace().files.is_empty()).then_some(because);
        if !is_there {
            let why = match culprit.what.as_str() {
                UNKNOWN => format!("another try, to find where {}", failure.reason),
                what => format!("another try, up to {what}"),
            };
            record.grow = Some(Want::new(&why, now, GROW_PAUSE, GROW_PATIENCE));
        }
        record.before = Some(Before {
            what: culprit.what,
            reason: failure.reason.clone(),
        });
    }

    /// This one is parked. Of a test module, whose imports are edited as it is, it may stop
    /// somewhere else next time, and again: only where it has stopped now counts against that.
    pub(super) fn keep_last_stop(&mut self, id: ZygoteId) {
        let Some(zygote) = self.zygotes.get(&id) else {
            return;
        };
        let (key, level) = (zygote.root, zygote.level.clone());
        let before = zygote.before.as_ref().map(|before| before.what.clone());
        let record = self.root(key).and_then(|root| root.records.get_mut(&level));
        if let Some(record) = record.filter(|_| matches!(level, Level::Z3(..))) {
            record.stops.retain(|stop| Some(stop) == before.as_ref());
        }
    }

    /// This one is as deep as there can be: those of its level that had to park earlier go.
    pub(super) fn discard_outdone(&mut self, by: ZygoteId) {
        let Some(by) = self.zygotes.get(&by).filter(|by| by.before.is_none()) else {
            return;
        };
        let (key, level) = (by.root, by.level.clone());
        let outdone = self.zygotes.values().filter(|zygote| {
            (zygote.root, &zygote.level) == (key, &level)
                && zygote.is_ready()
                && zygote.before.is_some()
                && !self.is_base(zygote.id)
        });
        for id in outdone.map(|zygote| zygote.id).collect::<Vec<_>>() {
            self.discard_prepared(id, "another one goes further");
            if let Some(record) = self.root(key).and_then(|root| root.records.get_mut(&level)) {
                record.wasted = 0;
            }
        }
    }
}
