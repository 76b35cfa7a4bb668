//! Which `pytest` is meant, which Python runs it, which project this is, and where the daemon for
//! all that lives. Nothing here runs Python, but for [`package_dir()`], which only a daemon calls.
//!
//! - here: a project's root, and what it takes to run its pytest
//! - [`script`]: the `pytest` script of an environment; elsewhere than on Linux all that there is
//! - [`shebang`]: the interpreter that a script's first line names
//! - [`key`]: which processes may share a daemon
//! - [`place`]: socket, lock, log
//! - [`config`]: what `[tool.pyseidon]` says
//! - [`build`]: has Pyseidon been upgraded under a running daemon?

use std::ffi::OsString;
use std::path::{Path, PathBuf};

pub mod build;
pub mod config;
pub mod key;
pub mod place;
pub mod script;
pub mod shebang;

pub use build::{build_id, package_dir, product_files};
pub use config::{Config, misread_variables};
pub use key::{Attributes, key};
pub use place::{Place, runtime_dir};
pub use script::{Caller, find_script};
use script::{DEFAULT_PATH, search_path};

/// Files of which each marks a project's root: those that pytest itself looks for when it
/// determines its `rootdir`, and a repository.
const ROOT_MARKERS: [&str; 9] = [
    "pyproject.toml",
    ".git",
    "pytest.ini",
    "tox.ini",
    "setup.cfg",
    "setup.py",
    ".pytest.ini",
    "pytest.toml",
    ".pytest.toml",
];

/// A `pytest` command and what it takes to run it, as its first line has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// The project.
    pub root: PathBuf,
    /// The `pytest` script, spelled as a shell would have spelled it: it may be relative.
    pub script: PathBuf,
    pub python: PathBuf,
    pub python_options: Vec<OsString>,
}

impl Environment {
    /// Reads the script's first line. An error says why this script cannot be served warm.
    pub fn of(script: PathBuf, caller: &Caller<'_>) -> Result<Self, String> {
        let path = (caller.env)("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
        let interpreter = shebang::read(&caller.cwd.join(&script), |name| {
            search_path(name, &path, caller.cwd, &|_| true)
        })?;
        Ok(Self {
            root: root(caller.cwd),
            script,
            python: interpreter.python,
            python_options: interpreter.options,
        })
    }
}

/// The nearest directory at or above `cwd` that looks like a project's root, else `cwd`.
pub fn root(cwd: &Path) -> PathBuf {
    cwd.ancestors()
        .find(|dir| {
            ROOT_MARKERS
                .iter()
                .any(|marker| dir.join(marker).symlink_metadata().is_ok())
        })
        .unwrap_or(cwd)
        .to_path_buf()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_root_is_the_nearest_directory_with_a_marker() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        fs::create_dir_all(at("p/a/b")).unwrap();
        assert_eq!(root(&at("p/a/b")), at("p/a/b"));
        fs::create_dir(at("p/.git")).unwrap();
        assert_eq!(root(&at("p/a/b")), at("p"));
        fs::write(at("p/a/tox.ini"), "").unwrap();
        assert_eq!(root(&at("p/a/b")), at("p/a"));
    }
}
