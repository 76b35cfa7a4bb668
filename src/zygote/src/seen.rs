//! What a build has read: a list that the audit hook and the profile function add to.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use pyo3::prelude::*;
use pyseidon::trace::Signature;

static SEEN: Mutex<Seen> = Mutex::new(Seen::new());

/// What a build has read, as far as events tell.
#[derive(Debug)]
pub(crate) struct Seen {
    /// Files opened for reading, with their state right before.
    pub(crate) opened: BTreeMap<PathBuf, Option<Signature>>,
    /// Sources that the import system read: it has found no byte code for them.
    pub(crate) compiled: BTreeSet<PathBuf>,
    /// Sources that were opened for more than one load of a module: to read them as text (a file's own
    /// code among them), or to execute them once more.
    pub(crate) texts: BTreeSet<PathBuf>,
    /// By source, and whether it was its byte code that was opened.
    pub(crate) loaded: BTreeSet<(PathBuf, bool)>,
    /// Directories listed by code other than the import system, and whether only for
    /// distributions.
    pub(crate) listed: BTreeMap<PathBuf, bool>,
    /// Directories in which the import system looked, among them those that were on the search
    /// path for a while.
    pub(crate) searched: BTreeSet<PathBuf>,
    /// Full names of modules that were looked for.
    pub(crate) imported: BTreeSet<String>,
    /// Variables set (or removed: `None`) in the environment of C code, the last write of each.
    pub(crate) written: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// A relative path was used: what it stood for depends on the working directory.
    pub(crate) relative: bool,
    /// Who is being loaded: an entry point's name.
    pub(crate) stage: String,
    pub(crate) since_ns: i128,
}

impl Seen {
    pub(crate) const fn new() -> Self {
        Self {
            opened: BTreeMap::new(),
            compiled: BTreeSet::new(),
            texts: BTreeSet::new(),
            loaded: BTreeSet::new(),
            listed: BTreeMap::new(),
            searched: BTreeSet::new(),
            imported: BTreeSet::new(),
            written: BTreeMap::new(),
            relative: false,
            stage: String::new(),
            since_ns: 0,
        }
    }

    /// In a process that has parked: what it has read is in its trace, and is not what a deeper
    /// one reads.
    pub(crate) fn forget(&mut self) {
        self.opened.clear();
        self.listed.clear();
        self.searched.clear();
        self.imported.clear();
        self.loaded.clear();
    }
}

/// The list of this process. Not to be held while Python runs, which may come back here.
pub(crate) fn seen() -> MutexGuard<'static, Seen> {
    SEEN.lock().expect("no panic while held")
}

/// Says who is being loaded now, for the reason of a veto.
#[pyfunction]
pub(crate) fn stage(name: String) {
    seen().stage = name;
}

/// Notes a module that was looked for without an import.
pub(crate) fn looked_for(name: String) {
    seen().imported.insert(name);
}

/// Notes that a path is relative, and so depends on the working directory.
pub(crate) fn note_relative(path: impl AsRef<Path>) {
    if !path.as_ref().is_absolute() {
        seen().relative = true;
    }
}

/// What was written to the environment of C code: `(name, value or None)`.
#[pyfunction]
pub(crate) fn written() -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
    seen().written.clone().into_iter().collect()
}

/// Has [`written`] give these: what was written since has been taken back.
#[pyfunction]
pub(crate) fn set_written(entries: Vec<(Vec<u8>, Option<Vec<u8>>)>) {
    seen().written = entries.into_iter().collect();
}

/// Sources that the import system has compiled.
#[pyfunction]
pub(crate) fn compiled() -> Vec<PathBuf> {
    seen().compiled.iter().cloned().collect()
}

pub(crate) fn absolute(path: impl AsRef<Path>) -> PathBuf {
    let path = path.as_ref();
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
