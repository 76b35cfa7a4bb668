//! What was learned of a project's runs, kept in the user's cache directory.
//!
//! Nothing depends on it being there: a store that is missing, of another version or damaged is
//! an empty one, and one that cannot be written is done without.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{Context, Result};

/// Changes with any change of what is stored.
const VERSION: u32 = 1;

/// The selections of a few days' work. A recording of a large project has 2,000 names, about
/// 50 kB.
const RECORDINGS: usize = 20;

/// Sets of conftests of which it is known where a checkpoint serves best after an edit.
const OPENINGS: usize = 20;

/// Runs come in bursts; one write after the burst is enough.
const WRITE_DELAY: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Store {
    version: u32,
    /// For people who look into their cache, and for `pyseidon-daemon log`.
    project: PathBuf,
    recordings: Vec<Recording>,
    /// Modules that each run is to import itself.
    #[serde(default)]
    distrusted: BTreeSet<String>,
    /// For which runs, and the place in the midst of their conftests (`super::edits`).
    #[serde(default)]
    openings: Vec<(String, String)>,
}

/// What a natural run imported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Recording {
    pub(super) argv: Vec<String>,
    pub(super) cwd: PathBuf,
    pub(super) runs: u32,
    /// Module names in order.
    pub(super) imports: Vec<String>,
}

#[derive(Debug)]
pub(super) struct Learned {
    path: Option<PathBuf>,
    store: Store,
    unsaved: Option<Instant>,
}

impl Learned {
    pub(super) fn load(path: Option<PathBuf>, project: &Path) -> Self {
        let known = path
            .as_deref()
            .and_then(|path| fs::read(path).ok())
            .and_then(|bytes| serde_json::from_slice::<Store>(&bytes).ok())
            .filter(|store| store.version == VERSION && store.project == project);
        // An empty one is saved too: it tells whose log lies beside it.
        let unsaved = known.is_none().then(Instant::now);
        Self {
            path,
            store: known.unwrap_or_else(|| Store {
                version: VERSION,
                project: project.to_path_buf(),
                recordings: Vec::new(),
                distrusted: BTreeSet::new(),
                openings: Vec::new(),
            }),
            unsaved,
        }
    }

    /// Takes over what a run imported; the latest recording of a command line is the true one.
    pub(super) fn record(
        &mut self,
        argv: &[String],
        cwd: &Path,
        imports: Vec<String>,
        now: Instant,
    ) {
        let recordings = &mut self.store.recordings;
        let same = recordings
            .iter()
            .position(|r| r.argv == argv && r.cwd == cwd);
        let runs = same.map_or(0, |at| recordings.remove(at).runs) + 1;
        recordings.push(Recording {
            argv: argv.to_vec(),
            cwd: cwd.to_path_buf(),
            runs,
            imports,
        });
        if recordings.len() > RECORDINGS {
            recordings.remove(0);
        }
        self.unsaved.get_or_insert(now);
    }

    pub(super) fn recordings(&self) -> &[Recording] {
        &self.store.recordings
    }

    pub(super) fn opening(&self, runs: &str) -> Option<&str> {
        let mut known = self.store.openings.iter();
        let found = known.find(|(of, _)| of == runs);
        found.map(|(_, place)| place.as_str())
    }

    /// Takes over where an opening serves best for these runs; `None`: nowhere that is known.
    pub(super) fn note_opening(&mut self, runs: &str, place: Option<&str>, now: Instant) {
        if self.opening(runs) == place {
            return;
        }
        let openings = &mut self.store.openings;
        openings.retain(|(of, _)| of != runs);
        openings.extend(place.map(|place| (runs.to_owned(), place.to_owned())));
        if openings.len() > OPENINGS {
            openings.remove(0);
        }
        self.unsaved.get_or_insert(now);
    }

    pub(super) fn distrusted(&self) -> impl Iterator<Item = &String> {
        self.store.distrusted.iter()
    }

    /// Takes a module into the list of those, or out of it. True if that changes anything.
    pub(super) fn distrust(&mut self, module: &str, undo: bool, now: Instant) -> bool {
        let has_changed = match undo {
            true => self.store.distrusted.remove(module),
            false => self.store.distrusted.insert(module.to_owned()),
        };
        if has_changed {
            self.unsaved.get_or_insert(now);
        }
        has_changed
    }

    /// When to save, if there is anything to save.
    pub(super) fn due(&self) -> Option<Instant> {
        self.unsaved.map(|since| since + WRITE_DELAY)
    }

    pub(super) fn save(&mut self) {
        if self.unsaved.take().is_none() {
            return;
        }
        let Some(path) = &self.path else { return };
        if let Err(error) = write(path, &self.store) {
            tracing::warn!("doing without a memory of earlier runs: {error}");
            self.path = None;
        }
    }
}

/// Writes beside the old file and renames, so that there is always a whole one.
fn write(path: &Path, store: &Store) -> Result<()> {
    let doing = || format!("writing `{}`", path.display());
    if let Some(dir) = path.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .doing(doing)?;
    }
    let bytes = serde_json::to_vec(store)
        .map_err(std::io::Error::from)
        .doing(doing)?;
    let beside = path.with_extension(format!("{}.tmp", std::process::id()));
    let written = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)
        .and_then(|mut file| file.write_all(&bytes))
        .and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written.doing(doing)
}

/// The project that a store belongs to.
pub(super) fn project_of(path: &Path) -> Option<PathBuf> {
    #[derive(Deserialize)]
    struct Head {
        project: PathBuf,
    }
    let bytes = fs::read(path).ok()?;
    serde_json::from_slice::<Head>(&bytes)
        .ok()
        .map(|head| head.project)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(path: &Path) -> Learned {
        let mut learned = Learned::load(Some(path.to_path_buf()), Path::new("/p"));
        let argv = vec!["-k".to_string(), "one".to_string()];
        learned.record(&argv, Path::new("/p"), vec!["a".into()], Instant::now());
        learned
    }

    #[test]
    fn what_was_saved_is_there_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache/store.json");
        let mut learned = recorded(&path);
        assert!(learned.distrust("app", false, Instant::now()));
        assert!(!learned.distrust("app", false, Instant::now()));
        for (runs, place) in [("a", "behind `b`"), ("c", "behind `d`")] {
            learned.note_opening(runs, Some(place), Instant::now());
        }
        learned.note_opening("c", None, Instant::now());
        learned.save();
        assert_eq!(learned.due(), None);
        let again = Learned::load(Some(path.clone()), Path::new("/p"));
        assert_eq!(again.recordings(), learned.recordings());
        assert!(again.distrusted().eq(["app"]));
        assert_eq!(again.opening("a"), Some("behind `b`"));
        assert_eq!(again.opening("c"), None);
        assert_eq!(project_of(&path), Some("/p".into()));
        let names: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(names.len(), 1);
    }

    #[test]
    fn a_store_that_is_damaged_or_of_another_version_is_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.json");
        for text in [
            "",
            "{",
            r#"{"version":0,"project":"/p","recordings":[]}"#,
            "[1]",
        ] {
            fs::write(&path, text).unwrap();
            let learned = Learned::load(Some(path.clone()), Path::new("/p"));
            assert!(learned.recordings().is_empty(), "{text}");
        }
    }

    #[test]
    fn a_place_that_cannot_be_written_is_done_without() {
        let mut learned = recorded(Path::new("/proc/nowhere/store.json"));
        learned.save();
        assert_eq!(learned.path, None);
        assert_eq!(learned.recordings().len(), 1);
    }

    #[test]
    fn the_latest_recording_of_a_command_line_replaces_the_others() {
        let mut learned = Learned::load(None, Path::new("/p"));
        for number in 0..30 {
            let argv = vec![format!("{}", number % 25)];
            let imports = vec![format!("m{number}")];
            learned.record(&argv, Path::new("/p"), imports, Instant::now());
        }
        assert_eq!(learned.recordings().len(), RECORDINGS);
        let last = learned.recordings().last().unwrap();
        assert_eq!(
            (last.argv[0].as_str(), last.imports[0].as_str()),
            ("4", "m29")
        );
    }
}
