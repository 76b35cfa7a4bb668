//! The latest runs, for `status`.

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
