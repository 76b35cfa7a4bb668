//! The `pytest` script that `pyseidon-test` stands in for.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where `PATH` leads when it is not set, as for `execvp`.
pub(super) const DEFAULT_PATH: &str = "/bin:/usr/bin";

const NAME_HINT: &str = "name the environment's Python in `PYSEIDON_PYTHON`";

/// What the search depends on.
pub struct Caller<'a> {
    /// This program's name, as it was called.
    pub argv0: &'a OsStr,
    pub env: &'a dyn Fn(&str) -> Option<OsString>,
    pub cwd: &'a Path,
    /// This program's file, symlinks resolved.
    pub exe: &'a Path,
}

/// The `pytest` script that this program stands in for: in its own environment, else in the one
/// that is active, else in the project's, else on `PATH`.
///
/// An error says where it should have been, with a hint.
pub fn find_script(caller: &Caller<'_>) -> Result<PathBuf, String> {
    let own = identity(caller.exe);
    // A `pytest` that is this very program would call itself for ever.
    let usable = |script: &Path| {
        let script = caller.cwd.join(script);
        is_executable(&script) && identity(&script) != own
    };
    let path = (caller.env)("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    let set = |name: &str| (caller.env)(name).filter(|value| !value.is_empty());

    if let Some(python) = set("PYSEIDON_PYTHON") {
        return beside_python(&python, &path, caller.cwd, &usable);
    }

    let beside_us = [as_called(caller, &path), Some(caller.exe.to_path_buf())]
        .into_iter()
        .flatten()
        .filter_map(|program| Some(program.parent()?.join("pytest")));
    let active = ["VIRTUAL_ENV", "CONDA_PREFIX", "UV_PROJECT_ENVIRONMENT"]
        .into_iter()
        .filter_map(|name| Some(PathBuf::from(set(name)?).join("bin/pytest")));
    let local = caller.cwd.ancestors().filter_map(|dir| {
        let venv = dir.join(".venv");
        venv.join("pyvenv.cfg")
            .is_file()
            .then(|| venv.join("bin/pytest"))
    });
    beside_us
        .chain(active)
        .chain(local)
        .find(|script| usable(script))
        .or_else(|| search_path(OsStr::new("pytest"), &path, caller.cwd, &usable))
        .ok_or_else(|| {
            format!(
                "there is no `pytest` beside `pyseidon-test`, in the active environment or on \
                 `PATH`\n\nhint: install pytest there, or {NAME_HINT}"
            )
        })
}

/// The script beside the interpreter that `PYSEIDON_PYTHON` names, by its path or as on `PATH`.
fn beside_python(
    named: &OsStr,
    path: &OsStr,
    cwd: &Path,
    usable: &dyn Fn(&Path) -> bool,
) -> Result<PathBuf, String> {
    let shown = named.to_string_lossy();
    let is_path = named.as_bytes().contains(&b'/');
    let python = if is_path {
        Some(PathBuf::from(named))
    } else {
        search_path(named, path, cwd, &|_| true)
    };
    let script = python.iter().find_map(|p| Some(p.parent()?.join("pytest")));
    if let Some(script) = script.filter(|script| usable(script)) {
        return Ok(script);
    }
    let why = match python {
        None => format!("`{shown}`, the `PYSEIDON_PYTHON` given, is not on `PATH`"),
        Some(python) if !cwd.join(&python).exists() => {
            format!("`{shown}`, the `PYSEIDON_PYTHON` given, does not exist")
        }
        Some(python) => {
            let shown = python.display();
            return Err(format!(
                "there is no `pytest` beside `{shown}`, the `PYSEIDON_PYTHON` given\n\n\
                 hint: install pytest there, or {NAME_HINT}"
            ));
        }
    };
    Err(format!("{why}\n\nhint: {NAME_HINT}"))
}

/// This program's path as the caller wrote it, where that is known to be right. Its symlinks stay:
/// `bin/python` beside a link belongs to another environment than the one beside the target.
fn as_called(caller: &Caller<'_>, path: &OsStr) -> Option<PathBuf> {
    let called = if caller.argv0.as_bytes().contains(&b'/') {
        PathBuf::from(caller.argv0)
    } else {
        search_path(caller.argv0, path, caller.cwd, &|_| true)?
    };
    // argv[0] is the caller's to choose, so it is only a hint.
    let own = identity(caller.exe)?;
    (identity(&caller.cwd.join(&called)) == Some(own)).then_some(called)
}

/// The first executable file of that name on `PATH` which is also `wanted`.
pub(super) fn search_path(
    name: &OsStr,
    path: &OsStr,
    cwd: &Path,
    wanted: &dyn Fn(&Path) -> bool,
) -> Option<PathBuf> {
    path.as_bytes().split(|byte| *byte == b':').find_map(|dir| {
        // An empty entry is the working directory.
        let dir = if dir.is_empty() { b"." } else { dir };
        let file = Path::new(OsStr::from_bytes(dir)).join(name);
        (is_executable(&cwd.join(&file)) && wanted(&file)).then_some(file)
    })
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let found = path.metadata().ok()?;
    Some((found.dev(), found.ino()))
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// A directory in which environments can be laid out.
    struct Disk {
        dir: tempfile::TempDir,
        env: HashMap<String, OsString>,
    }

    impl Disk {
        fn new() -> Self {
            let disk = Self {
                dir: tempfile::tempdir().unwrap(),
                env: HashMap::new(),
            };
            disk.file("tool/pyseidon-test");
            disk.file("work/.keep");
            disk
        }

        fn at(&self, path: &str) -> PathBuf {
            self.dir.path().join(path)
        }

        fn file(&self, path: &str) {
            let path = self.at(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }

        fn set(&mut self, name: &str, path: &str) {
            self.env.insert(name.into(), self.at(path).into());
        }

        fn find(&self, argv0: &str) -> Result<PathBuf, String> {
            find_script(&Caller {
                argv0: OsStr::new(argv0),
                env: &|name| self.env.get(name).cloned(),
                cwd: &self.at("work"),
                exe: &self.at("tool/pyseidon-test"),
            })
        }
    }

    #[test]
    fn the_own_environment_comes_before_the_active_one() {
        let mut disk = Disk::new();
        disk.file("tool/pytest");
        disk.file("venv/bin/pytest");
        disk.set("VIRTUAL_ENV", "venv");
        assert_eq!(disk.find("x"), Ok(disk.at("tool/pytest")));
    }

    #[test]
    fn the_script_is_spelled_as_this_program_was() {
        let mut disk = Disk::new();
        disk.file("tool/pytest");
        assert_eq!(
            disk.find("../tool/pyseidon-test"),
            Ok("../tool/pytest".into())
        );
        disk.env.insert("PATH".into(), "../nowhere:../tool".into());
        assert_eq!(disk.find("pyseidon-test"), Ok("../tool/pytest".into()));
    }

    #[test]
    fn a_false_name_is_not_believed() {
        let disk = Disk::new();
        disk.file("tool/pytest");
        disk.file("other/pytest");
        disk.file("other/pyseidon-test");
        assert_eq!(
            disk.find("../other/pyseidon-test"),
            Ok(disk.at("tool/pytest"))
        );
    }

    #[test]
    fn beside_a_link_comes_before_beside_its_target() {
        let disk = Disk::new();
        disk.file("tool/pytest");
        disk.file("links/.keep");
        symlink(
            disk.at("tool/pyseidon-test"),
            disk.at("links/pyseidon-test"),
        )
        .unwrap();
        let called = "../links/pyseidon-test";
        assert_eq!(disk.find(called), Ok(disk.at("tool/pytest")));
        disk.file("links/pytest");
        assert_eq!(disk.find(called), Ok("../links/pytest".into()));
    }

    #[test]
    fn active_then_local_then_path() {
        let mut disk = Disk::new();
        disk.file("onpath/pytest");
        disk.set("PATH", "onpath");
        assert_eq!(disk.find("x"), Ok(disk.at("onpath/pytest")));
        disk.file(".venv/bin/pytest");
        assert_eq!(disk.find("x"), Ok(disk.at("onpath/pytest")));
        disk.file(".venv/pyvenv.cfg");
        assert_eq!(disk.find("x"), Ok(disk.at(".venv/bin/pytest")));
        disk.set("CONDA_PREFIX", "conda");
        disk.file("conda/bin/pytest");
        assert_eq!(disk.find("x"), Ok(disk.at("conda/bin/pytest")));
        disk.set("VIRTUAL_ENV", "without-pytest");
        assert_eq!(disk.find("x"), Ok(disk.at("conda/bin/pytest")));
    }

    #[test]
    fn an_explicit_python_wins_and_must_have_pytest() {
        let mut disk = Disk::new();
        disk.file("tool/pytest");
        disk.set("PYSEIDON_PYTHON", "env/bin/python");
        let says = |disk: &Disk, words: &str| {
            let why = disk.find("x").unwrap_err();
            let python = disk.env["PYSEIDON_PYTHON"].to_str().unwrap();
            for words in [words, python, "\n\nhint: "] {
                assert!(why.contains(words), "{why}");
            }
        };
        says(&disk, "does not exist");
        disk.file("env/bin/python");
        says(&disk, "no `pytest` beside");
        disk.file("env/bin/pytest");
        assert_eq!(disk.find("x"), Ok(disk.at("env/bin/pytest")));
        disk.env.insert("PYSEIDON_PYTHON".into(), "python0".into());
        says(&disk, "is not on `PATH`");
    }

    #[test]
    fn a_pytest_that_is_this_program_is_passed_over() {
        let mut disk = Disk::new();
        symlink(disk.at("tool/pyseidon-test"), disk.at("tool/pytest")).unwrap();
        assert!(disk.find("x").is_err());
        disk.file("onpath/pytest");
        disk.set("PATH", "onpath");
        assert_eq!(disk.find("x"), Ok(disk.at("onpath/pytest")));
    }
}
