//! Has Pyseidon been upgraded under a running daemon? Asked at every run, so it only looks at a
//! fixed list of files.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::error::{Context, Error, Result};
use crate::process::output_within;
use crate::trace::Signature;

const BINARIES: [&str; 3] = ["pyseidon-test", "pyseidon-daemon", "pyseidon"];

/// What tells our package's directory from another package of that name.
const LANDMARK: &str = "boot.py";

/// All files that make up the installed product: to be listed once, at a daemon's start. A later
/// version brings each of them anew, so new names need not be noticed.
pub fn product_files(binaries: &Path, package: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = BINARIES.iter().map(|name| binaries.join(name)).collect();
    let of_package = fs::read_dir(package).into_iter().flatten().flatten();
    files.extend(of_package.map(|entry| entry.path()).filter(|path| {
        let extension = path.extension().and_then(OsStr::to_str);
        matches!(extension, Some("py" | "so"))
    }));
    files.sort();
    files
}

/// Digest of the state of these files, without reading them.
pub fn build_id(files: &[PathBuf]) -> String {
    let mut hasher = blake3::Hasher::new();
    for file in files {
        let path = file.as_os_str().as_bytes();
        hasher.update(&(path.len() as u64).to_le_bytes());
        hasher.update(path);
        hasher.update(format!("{:?}", Signature::of(file)).as_bytes());
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

/// Where the Python half of Pyseidon is, for the interpreter of this script.
///
/// In an ordinary installation it is found by looking; only for others, such as `pip install -e`,
/// the interpreter is asked, which takes as long as a Python takes to start.
pub fn package_dir(script: &Path, python: &Path, options: &[OsString]) -> Result<PathBuf> {
    let mut seen = script
        .parent()
        .and_then(Path::parent)
        .map(installed_packages)
        .unwrap_or_default();
    match seen.pop() {
        Some(only) if seen.is_empty() => Ok(only),
        _ => ask(python, options),
    }
}

/// Our package below `<prefix>/lib/python3.*`; several, if several Pythons share the prefix.
fn installed_packages(prefix: &Path) -> Vec<PathBuf> {
    let libraries = fs::read_dir(prefix.join("lib")).into_iter().flatten();
    libraries
        .flatten()
        .filter(|entry| entry.file_name().as_bytes().starts_with(b"python3."))
        .map(|entry| entry.path().join("site-packages/pyseidon"))
        .filter(|package| package.join(LANDMARK).is_file())
        .collect()
}

/// A client waits meanwhile, twice as long. A Python starts in a fraction of a second.
const ASK_LIMIT: Duration = Duration::from_secs(5);

fn ask(python: &Path, options: &[OsString]) -> Result<PathBuf> {
    const QUESTION: &str = "import importlib.util, os, sys; \
        spec = importlib.util.find_spec('pyseidon'); \
        origin = spec.origin if spec and spec.origin else ''; \
        sys.stdout.buffer.write(os.fsencode(os.path.dirname(origin)))";
    let mut command = Command::new(python);
    command
        .args(options)
        .args(["-c", QUESTION])
        // `-c` puts the working directory on `sys.path`.
        .current_dir("/")
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    let answer = output_within(&mut command, ASK_LIMIT)
        .doing(|| format!("cannot ask `{}`", python.display()))?;
    let package = PathBuf::from(OsString::from_vec(answer));
    if package.join(LANDMARK).is_file() {
        return Ok(package);
    }
    Err(Error::Other(format!(
        "the package `pyseidon` is not installed for `{}`",
        python.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_changes_the_build() {
        let dir = tempfile::tempdir().unwrap();
        let package = dir.path().join("package");
        fs::create_dir(&package).unwrap();
        for name in ["boot.py", "_zygote.abi3.so", "notes.txt"] {
            fs::write(package.join(name), "1").unwrap();
        }
        let files = product_files(dir.path(), &package);
        assert_eq!(files.len(), 5);
        let before = build_id(&files);
        assert_eq!(build_id(&files), before);
        fs::create_dir(package.join("__pycache__")).unwrap();
        assert_eq!(build_id(&files), before);
        fs::write(dir.path().join("pyseidon-daemon"), "new").unwrap();
        assert_ne!(build_id(&files), before);
    }

    #[test]
    fn the_package_is_found_beside_the_script_without_running_python() {
        let dir = tempfile::tempdir().unwrap();
        let package = dir.path().join("lib/python3.12/site-packages/pyseidon");
        fs::create_dir_all(&package).unwrap();
        fs::write(package.join(LANDMARK), "").unwrap();
        let script = dir.path().join("bin/pytest");
        let found = package_dir(&script, Path::new("/nonexistent"), &[]).unwrap();
        assert_eq!(found, package);
    }
}
