//! How far a checkpoint goes, and for what runs it is grown.
//!
//! ```text
//!   Z0  interpreter and pytest                  every run of a root
//!   └ P0  plugins, parked inside pytest         runs with the same early options
//!     └ Z2  the initial conftests, executed     runs that load the same conftests
//!       └ Z3  the first test module's imports   runs that name this module first
//! ```

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::shape::Shape;
use crate::protocol::Run;
use crate::trace::path_of;

/// How far a zygote goes before it parks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// pytest is imported.
    Z0,
    /// Plugins are imported and registered: grown for runs of this shape.
    P0(Shape),
    /// The conftests that pytest loads first are executed, with what they import: all the way, or up
    /// to what cannot be kept (`stops.rs`).
    Z2(Selection),
    /// What the first test module, this file, imports is executed as well.
    Z3(Selection, PathBuf),
}

/// What of a run decides which conftests it loads, and what they see of it. The worker compares
/// all of it again; the selection only keeps the daemon from asking checkpoints that will say no.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Selection {
    pub(super) shape: Shape,
    /// Options that may matter, in order, and the directories of the files.
    rest: Vec<Vec<u8>>,
}

/// Options of pytest's own that no conftest is loaded by; those in the second list take a value.
const LATE_FLAGS: [&str; 19] = [
    "-x",
    "--exitfirst",
    "-l",
    "--showlocals",
    "--lf",
    "--last-failed",
    "--ff",
    "--failed-first",
    "--nf",
    "--new-first",
    "--sw",
    "--stepwise",
    "--sw-skip",
    "--co",
    "--collect-only",
    "--no-header",
    "--no-summary",
    "--setup-show",
    "--cache-clear",
];
const LATE_WITH_VALUE: [&str; 10] = [
    "-k",
    "-m",
    "-r",
    "--maxfail",
    "--tb",
    "--durations",
    "--durations-min",
    "--deselect",
    "--color",
    "--junitxml",
];

impl Selection {
    pub(super) fn of(run: &Run) -> Self {
        Self {
            shape: Shape::of(run),
            rest: rest(&run.argv, &path_of(&run.cwd)),
        }
    }

    pub(super) fn describe(&self) -> String {
        let mut words = vec![self.shape.describe()];
        let shown = |token: &Vec<u8>| String::from_utf8_lossy(token).into_owned();
        words.extend(self.rest.iter().map(shown));
        words.join(" ")
    }
}

fn rest(argv: &[Vec<u8>], cwd: &Path) -> Vec<Vec<u8>> {
    let mut found: Vec<Vec<u8>> = Vec::new();
    let mut tokens = argv.iter();
    while let Some(token) = tokens.next() {
        let text = String::from_utf8_lossy(token);
        let name = text.split('=').next().unwrap_or_default();
        let is_letters = |letters: &str| {
            text.len() > 1
                && text.starts_with('-')
                && text[1..].chars().all(|c| letters.contains(c))
        };
        if LATE_FLAGS.contains(&text.as_ref()) || is_letters("vqxl") {
            continue;
        }
        if LATE_WITH_VALUE.contains(&text.as_ref()) {
            tokens.next();
            continue;
        }
        let is_joined = ["-k", "-m", "-r"]
            .iter()
            .any(|short| text.starts_with(short));
        if is_joined || (name.len() < text.len() && LATE_WITH_VALUE.contains(&name)) {
            continue;
        }
        let found_in = if token.starts_with(b"-") {
            token.clone()
        } else {
            directory(token, cwd)
        };
        if token.starts_with(b"-") || !found.contains(&found_in) {
            found.push(found_in);
        }
    }
    found
}

/// The directory of a test file, or of a test in one; anything else as it is.
fn directory(token: &[u8], cwd: &Path) -> Vec<u8> {
    let end = token.windows(2).position(|two| two == b"::");
    let path = path_of(&token[..end.unwrap_or(token.len())]);
    let there = cwd.join(&path);
    match path.parent() {
        Some(parent) if there.is_file() => {
            let parent = parent.as_os_str().as_bytes();
            [parent, b"/"].concat()
        }
        _ => token.to_vec(),
    }
}

/// The Python file that is named first, if it is an argument at all and no option's value: the
/// worker knows.
fn first_file(run: &Run) -> Option<PathBuf> {
    let cwd = path_of(&run.cwd);
    run.argv
        .iter()
        .filter(|token| !token.starts_with(b"-"))
        .map(|token| {
            let end = token.windows(2).position(|two| two == b"::");
            cwd.join(path_of(&token[..end.unwrap_or(token.len())]))
        })
        .find(|path| path.extension().is_some_and(|end| end == "py") && path.is_file())
}

impl Level {
    /// The levels that runs like this one are served from, the deepest last.
    pub(super) fn all(run: &Run) -> Vec<Self> {
        let selection = Selection::of(run);
        let mut levels = vec![
            Self::P0(selection.shape.clone()),
            Self::Z2(selection.clone()),
        ];
        levels.extend(first_file(run).map(|file| Self::Z3(selection, file)));
        levels
    }

    pub(super) fn shape(&self) -> Option<&Shape> {
        match self {
            Self::Z0 => None,
            Self::P0(shape) => Some(shape),
            Self::Z2(selection) | Self::Z3(selection, _) => Some(&selection.shape),
        }
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Z0 => "Z0",
            Self::P0(_) => "P0",
            Self::Z2(_) => "Z2",
            Self::Z3(..) => "Z3",
        }
    }

    /// The level that one of this is grown from.
    pub(super) fn above(&self) -> Option<Self> {
        match self {
            Self::Z0 => None,
            Self::P0(_) => Some(Self::Z0),
            Self::Z2(selection) => Some(Self::P0(selection.shape.clone())),
            Self::Z3(selection, _) => Some(Self::Z2(selection.clone())),
        }
    }

    /// How many levels lie above it.
    pub(super) fn depth(&self) -> usize {
        match self {
            Self::Z0 => 0,
            Self::P0(_) => 1,
            Self::Z2(_) => 2,
            Self::Z3(..) => 3,
        }
    }

    /// In words, for `status`.
    pub(super) fn describe(&self) -> Option<String> {
        match self {
            Self::Z0 => None,
            Self::P0(shape) => Some(shape.describe()),
            Self::Z2(selection) => Some(selection.describe()),
            Self::Z3(_, file) => Some(file.display().to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::tests::fakes::run;

    fn of(argv: &[&str], cwd: &Path) -> Selection {
        let mut run = run();
        run.argv = argv.iter().map(|a| a.as_bytes().to_vec()).collect();
        run.cwd = cwd.as_os_str().as_bytes().to_vec();
        Selection::of(&run)
    }

    #[test]
    fn tests_of_one_directory_are_one_selection() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("tests")).unwrap();
        for name in ["tests/a.py", "tests/b.py", "c.py"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let of = |argv: &[&str]| of(argv, dir.path());
        let one = of(&["tests/a.py"]);
        for argv in [
            &["tests/b.py::test_x"] as &[&str],
            &["-k", "x and y", "tests/a.py", "-vv", "--tb=short"],
            &["tests/a.py", "tests/b.py", "-x", "--maxfail", "2"],
        ] {
            assert_eq!(of(argv), one, "{argv:?}");
        }
        for argv in [
            &["c.py"] as &[&str],
            &["tests"],
            &["tests/a.py", "-s"],
            &["tests/a.py", "--import-mode=append"],
            &["tests/a.py", "c.py"],
            &[],
        ] {
            assert_ne!(of(argv), one, "{argv:?}");
        }
    }
}
