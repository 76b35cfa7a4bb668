//! The latest runs, for `status`, and what became of checkpoints, for `explain`.

use std::collections::VecDeque;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::protocol::{Ahead, ExitPath};

/// A screen of them.
const HISTORY: usize = 20;

/// How a run went, or goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) id: u64,
    pub(super) argv: Vec<String>,
    pub(super) cwd: PathBuf,
    /// Seconds since the epoch.
    pub(super) started: f64,
    /// From the request to the end.
    pub(super) seconds: Option<f64>,
    /// `Z0` or `P0`; none: plain pytest.
    pub(super) checkpoint: Option<String>,
    /// Why it was plain, or why no deeper checkpoint served it.
    pub(super) why: Option<String>,
    /// The worker.
    pub(super) pid: Option<i32>,
    /// The raw wait status, if it is known.
    pub(super) status: Option<i32>,
    pub(super) exit: Option<ExitPath>,
    pub(super) ahead: Option<Ahead>,
    /// Seconds from the order to pytest, in pytest, and from there to the end.
    pub(super) parts: Option<[f64; 3]>,
    /// Seconds that it was spared, estimated: what the imports of its checkpoint took.
    #[serde(default)]
    pub(super) spared: Option<f64>,
}

/// What ended a checkpoint, or kept one from being.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// An input is not what it was when it was read.
    Stale,
    /// An input changed while it was read.
    Unsettled,
    /// It could not be built.
    Failed,
    /// It found, before pytest was entered, that it does not stand for a run.
    Refused,
    /// Its process is gone.
    Lost,
    /// Another takes its place, or its room.
    Replaced,
    /// The user has said what checkpoints may hold.
    Distrusted,
}

impl Kind {
    pub(super) fn in_words(self) -> &'static str {
        match self {
            Self::Stale => "stale",
            Self::Unsettled => "unsettled",
            Self::Failed => "not built",
            Self::Refused => "refused a run",
            Self::Lost => "lost",
            Self::Replaced => "replaced",
            Self::Distrusted => "dropped",
        }
    }
}

/// One such event, or several of the same in a row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Incident {
    /// Seconds since the epoch; of several, when the last happened.
    pub(super) at: f64,
    pub(super) times: u32,
    pub(super) level: String,
    pub(super) depth: usize,
    /// For what runs it was, or was to be.
    pub(super) shape: Option<String>,
    pub(super) kind: Kind,
    /// The cause.
    pub(super) why: String,
    /// The levels of checkpoints that were forked from it and went along.
    pub(super) along: Vec<String>,
}

/// What several checkpoints have read goes stale in all of them, one after the other, while one
/// change is seen to.
const ONE_CHANGE: f64 = 1.0;

impl Incident {
    /// Of the same cause, at another depth: what was forked from another went along with it.
    fn has_along(&self, other: &Self) -> bool {
        self.kind == Kind::Stale
            && other.kind == Kind::Stale
            && self.why == other.why
            && self.depth < other.depth
            && (self.at - other.at).abs() < ONE_CHANGE
    }

    fn take_along(&mut self, other: Self) {
        self.at = self.at.max(other.at);
        self.along.push(other.level);
        self.along.extend(other.along);
        self.along.sort();
    }
}

/// The latest incidents of a root.
#[derive(Debug, Default)]
pub(super) struct Incidents {
    records: VecDeque<Incident>,
}

impl Incidents {
    pub(super) fn add(&mut self, mut incident: Incident) {
        if let Some(last) = self.records.back_mut().filter(|it| it.has_along(&incident)) {
            return last.take_along(incident);
        }
        while let Some(last) = self.records.pop_back() {
            if !incident.has_along(&last) {
                self.records.push_back(last);
                break;
            }
            incident.take_along(last);
        }
        let same = |it: &&mut Incident| {
            it.level == incident.level
                && it.shape == incident.shape
                && it.kind == incident.kind
                && it.why == incident.why
                && it.along == incident.along
        };
        if let Some(last) = self.records.back_mut().filter(same) {
            last.times += 1;
            last.at = incident.at;
            return;
        }
        if self.records.len() == HISTORY {
            self.records.pop_front();
        }
        self.records.push_back(incident);
    }

    /// The latest last.
    pub(super) fn records(&self) -> impl Iterator<Item = &Incident> {
        self.records.iter()
    }
}

/// The latest runs.
#[derive(Debug, Default)]
pub(super) struct History {
    records: VecDeque<Record>,
}

impl History {
    pub(super) fn add(&mut self, record: Record) {
        if self.records.len() == HISTORY {
            self.records.pop_front();
        }
        self.records.push_back(record);
    }

    pub(super) fn get(&mut self, id: u64) -> Option<&mut Record> {
        self.records.iter_mut().rev().find(|record| record.id == id)
    }

    pub(super) fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn incident(why: &str, at: f64) -> Incident {
        Incident {
            at,
            times: 1,
            level: "Z2".into(),
            depth: 2,
            shape: None,
            kind: Kind::Stale,
            why: why.into(),
            along: Vec::new(),
        }
    }

    #[test]
    fn the_same_again_is_counted_and_few_are_kept() {
        let mut incidents = Incidents::default();
        incidents.add(incident("a", 1.0));
        incidents.add(incident("a", 2.0));
        incidents.add(incident("b", 3.0));
        incidents.add(incident("a", 4.0));
        let told: Vec<_> = incidents
            .records()
            .map(|it| (it.why.as_str(), it.times, it.at))
            .collect();
        assert_eq!(told, [("a", 2, 2.0), ("b", 1, 3.0), ("a", 1, 4.0)]);
        for number in 0..100 {
            incidents.add(incident(&number.to_string(), 5.0));
        }
        assert_eq!(incidents.records().count(), HISTORY);
        assert_eq!(incidents.records().last().unwrap().why, "99");
    }
    #[test]
    fn what_one_change_ends_is_one_incident() {
        let of = |level: &str, depth, at| Incident {
            level: level.into(),
            depth,
            ..incident("a", at)
        };
        // As a run finds out, the deepest first; and as the watcher has it looked at.
        let found = [of("Z2", 2, 1.0), of("P0", 1, 1.1), of("Z0", 0, 1.2)];
        let mut looked_at = found.clone();
        looked_at.reverse();
        for order in [found, looked_at] {
            let mut incidents = Incidents::default();
            order.into_iter().for_each(|it| incidents.add(it));
            let told: Vec<_> = incidents.records().collect();
            assert_eq!(told.len(), 1);
            assert_eq!((told[0].level.as_str(), told[0].at), ("Z0", 1.2));
            assert_eq!(told[0].along, ["P0", "Z2"]);
        }
        let mut incidents = Incidents::default();
        incidents.add(of("P0", 1, 1.0));
        incidents.add(of("Z2", 2, 9.0));
        assert_eq!(incidents.records().count(), 2);
    }
}
