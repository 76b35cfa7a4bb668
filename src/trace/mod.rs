//! What a checkpoint was built from, and the check of it.
//!
//! A trace is written down by a zygote when it parks and compared by the daemon right before a
//! worker is let go. It holds files, directories, names that were looked for, and environment
//! variables. Values of the environment are kept as keyed hashes, never in clear.

mod input;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::num::NonZero;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::slice::ChunksMut;
use std::sync::Mutex;
use std::thread::{Builder, available_parallelism};

use serde::{Deserialize, Serialize};

pub use input::{DirInput, FileInput, Interest, Role, Signature, is_used_byte_code, now_ns};

/// One environment variable that was read: its name and a keyed hash of its value, or its absence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvInput {
    pub name: Vec<u8>,
    pub value: Option<[u8; 32]>,
}

/// All inputs of a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    pub files: Vec<FileInput>,
    pub dirs: Vec<DirInput>,
    /// Keys the hashes of this trace.
    pub key: [u8; 32],
    /// The whole environment it was built in, hashed.
    pub env: Vec<EnvInput>,
    /// Names that were read.
    pub env_read: BTreeSet<Vec<u8>>,
    /// The environment was read as a whole.
    pub env_all: bool,
    /// Names that code whose reads cannot be seen might read: those that occur in the strings of
    /// loaded shared objects and in the text of start-up files.
    pub env_hidden: BTreeSet<Vec<u8>>,
    /// The working directory, if it was read.
    pub cwd: Option<Vec<u8>>,
    /// The arguments, if code other than pytest's own read them.
    pub argv: Option<Vec<Vec<u8>>>,
    /// Whether descriptors 0, 1, 2 were terminals, if that was asked.
    pub tty: Option<[bool; 3]>,
}

/// To look at a file takes 2.0 µs, to start and join a thread 79: with fewer files for each, a
/// thread saves nothing worth having.
const PER_THREAD: usize = 200;
/// Checking 4,000 files took 6.8 ms on one thread, 3.8 on two, 2.1 on three, 1.6 on four, and 2.5 on
/// eight (of a machine with four processors).
const MOST_THREADS: usize = 4;
/// How much a thread takes at a time, 0.1 ms: small, so that all end together.
const PORTION: usize = 50;

/// Variables that change from shell to shell and that a whole-environment read is not taken to
/// depend on: a copy of the environment is made to start child processes, not to look at these.
const EVER_CHANGING: [&[u8]; 4] = [b"PWD", b"OLDPWD", b"SHLVL", b"_"];

/// Why a trace does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    /// Will not hold again for anybody: an input on disk changed.
    Stale(String),
    /// Does not stand for this run; may stand for another.
    Other(String),
    /// Does not hold now, as an input is just being saved; may hold again when that is done.
    Unsettled(String),
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stale(why) | Self::Other(why) | Self::Unsettled(why) => f.write_str(why),
        }
    }
}

/// The caller's side of what a trace compares.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// `NAME=value` entries.
    pub env: &'a [Vec<u8>],
    pub cwd: &'a [u8],
    pub argv: &'a [Vec<u8>],
    pub tty: [bool; 3],
}

impl Trace {
    /// Hashes an environment under this trace's key.
    pub fn set_env(&mut self, env: &[Vec<u8>]) {
        self.env = entries(env)
            .map(|(name, value)| EnvInput {
                name: name.to_vec(),
                value: Some(self.hash(value)),
            })
            .collect();
        self.env.sort_by(|a, b| a.name.cmp(&b.name));
        self.env.dedup_by(|b, a| a.name == b.name);
    }

    fn hash(&self, value: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(&self.key, value).as_bytes()
    }

    /// Compares what does not need the disk.
    pub fn check_caller(&self, caller: Caller<'_>) -> Result<(), Mismatch> {
        let shown = String::from_utf8_lossy;
        if self.cwd.as_deref().is_some_and(|cwd| cwd != caller.cwd) {
            return Err(Mismatch::Other("another working directory was read".into()));
        }
        if self.argv.as_deref().is_some_and(|argv| argv != caller.argv) {
            return Err(Mismatch::Other("other arguments were read".into()));
        }
        if self.tty.is_some_and(|tty| tty != caller.tty) {
            return Err(Mismatch::Other(
                "another kind of terminal was asked for".into(),
            ));
        }
        let mut seen = BTreeSet::new();
        for (name, value) in entries(caller.env) {
            if !seen.insert(name) {
                continue;
            }
            let known = self
                .env
                .binary_search_by(|input| input.name.as_slice().cmp(name))
                .ok()
                .and_then(|at| self.env[at].value);
            if known != Some(self.hash(value)) && self.reads(name) {
                return Err(Mismatch::Other(format!(
                    "`{}` has another value in the environment",
                    shown(name)
                )));
            }
        }
        for input in &self.env {
            if !seen.contains(input.name.as_slice()) && self.reads(&input.name) {
                return Err(Mismatch::Other(format!(
                    "`{}` is not in the environment",
                    shown(&input.name)
                )));
            }
        }
        Ok(())
    }

    fn reads(&self, name: &[u8]) -> bool {
        self.env_read.contains(name)
            || self.env_hidden.contains(name)
            || (self.env_all && !EVER_CHANGING.contains(&name))
    }

    /// Compares what is on disk with what was there. Forgets that a file was young once it has
    /// been seen unchanged at a safe age; takes over a directory's new signature when none of
    /// the entries that matter changed.
    ///
    /// Starts threads for a large trace, so it is for the daemon: a zygote forks, and has none.
    pub fn check_disk(&mut self) -> Result<(), Mismatch> {
        let now = now_ns();
        let Self { files, dirs, .. } = self;
        let share = (files.len() + dirs.len()) / PER_THREAD;
        let processors = available_parallelism().map_or(1, NonZero::get);
        let helpers = share.min(processors).min(MOST_THREADS).saturating_sub(1);
        let portions = Mutex::new(files.chunks_mut(PORTION));
        let check_files = || {
            while let Some(portion) = next(&portions) {
                portion.iter_mut().try_for_each(|input| input.check(now))?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            // Where no thread can be had, this one has more to do.
            let helpers: Vec<_> = (0..helpers)
                .map_while(|_| Builder::new().spawn_scoped(scope, check_files).ok())
                .collect();
            let mut found = dirs.iter_mut().try_for_each(|input| input.check(now));
            found = found.and_then(|()| check_files());
            helpers.into_iter().fold(found, |found, helper| {
                found.and(helper.join().expect("a check does not panic"))
            })
        })
    }

    /// Adds what a deeper checkpoint inherits from the one it was forked from. What both have read
    /// and found unequal stays twice, so that it cannot hold: the process image has the older one.
    pub fn inherit(&mut self, parent: &Self) {
        let mut theirs: BTreeMap<_, Vec<&FileInput>> = BTreeMap::new();
        for file in &parent.files {
            theirs.entry(&file.path).or_default().push(file);
        }
        // Whether there was something says nothing of what it was, nor do some bytes of the rest.
        let says_as_much = |seen: &FileInput, own: &FileInput| {
            let is_whole = seen.role == Role::Content
                || (seen.role == own.role && !matches!(seen.role, Role::Head { .. }));
            is_whole && seen.signature == own.signature
        };
        self.files.retain(|own| {
            let seen = theirs.get(&own.path);
            !seen.is_some_and(|seen| seen.iter().any(|seen| says_as_much(seen, own)))
        });
        self.files.extend(parent.files.iter().cloned());
        self.dirs.extend(parent.dirs.iter().cloned());
        self.env_read.extend(parent.env_read.iter().cloned());
        self.env_hidden.extend(parent.env_hidden.iter().cloned());
        self.env_all |= parent.env_all;
        self.cwd = self.cwd.take().or_else(|| parent.cwd.clone());
        self.argv = self.argv.take().or_else(|| parent.argv.clone());
        self.tty = self.tty.or(parent.tty);
    }

    /// The directories that a watcher has to watch. Paths that were only looked at are left to the
    /// check at each run: among them are all that lead to a file, `/tmp` and home directories too,
    /// where something changes all the time. So are devices: whoever writes to `/dev/null` changes
    /// something in its directory.
    pub fn watched(&self) -> BTreeSet<PathBuf> {
        self.files
            .iter()
            .filter(|f| f.role != Role::Probe)
            .filter_map(|f| f.path.parent())
            .chain(self.dirs.iter().map(|d| d.path.as_path()))
            .filter(|directory| !is_the_kernels(directory))
            .map(Path::to_path_buf)
            .collect()
    }

    /// The files that were read in them.
    pub fn watched_files(&self) -> impl Iterator<Item = &Path> {
        let files = self.files.iter().filter(|f| f.role != Role::Probe);
        files.map(|f| f.path.as_path())
    }
}

/// Whether what is there stands for the machine's state and not for files.
fn is_the_kernels(directory: &Path) -> bool {
    ["/dev", "/proc", "/sys"]
        .iter()
        .any(|place| directory.starts_with(place))
}

fn next<'a>(portions: &Mutex<ChunksMut<'a, FileInput>>) -> Option<&'a mut [FileInput]> {
    portions.lock().expect("no panic while held").next()
}

/// Splits `NAME=value` entries; those without a name are left out, as Python does.
pub fn entries(env: &[Vec<u8>]) -> impl Iterator<Item = (&[u8], &[u8])> {
    env.iter().filter_map(|entry| {
        let at = entry.iter().skip(1).position(|b| *b == b'=')? + 1;
        Some((&entry[..at], &entry[at + 1..]))
    })
}

/// A path from bytes.
pub fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn devices_are_checked_but_not_watched() {
        let take = |path: &str| FileInput::take(path.into(), Role::Content);
        let mut trace = Trace {
            files: vec![take("/dev/null"), take("/proc/version"), take("/etc/hosts")],
            ..Trace::default()
        };
        assert_eq!(trace.watched(), BTreeSet::from(["/etc".into()]));
        assert!(trace.check_disk().is_ok());
    }

    fn caller(env: &[Vec<u8>]) -> Caller<'_> {
        Caller {
            env,
            cwd: b"/",
            argv: &[],
            tty: [false; 3],
        }
    }

    #[test]
    fn a_file_that_changed_between_two_checkpoints_does_not_hold_for_the_deeper_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("input");
        fs::write(&path, "one").unwrap();
        let parent = Trace {
            files: vec![FileInput::take(path.clone(), Role::Content)],
            ..Trace::default()
        };
        fs::write(&path, "longer").unwrap();
        let mut deeper = Trace {
            files: vec![FileInput::take(path, Role::Content)],
            ..Trace::default()
        };
        assert_eq!(deeper.check_disk(), Ok(()));
        deeper.inherit(&parent);
        assert!(deeper.check_disk().is_err());
    }

    #[test]
    fn of_what_was_a_head_a_deeper_checkpoint_depends_on_the_rest_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("input");
        fs::write(&path, "head, and the rest").unwrap();
        let of = |role| Trace {
            files: vec![FileInput::take(path.clone(), role)],
            ..Trace::default()
        };
        let mut parent = of(Role::Head { length: 4 });
        let mut deeper = of(Role::Content);
        deeper.inherit(&parent);
        assert_eq!(deeper.check_disk(), Ok(()));
        fs::write(&path, "head, and another").unwrap();
        assert_eq!(parent.check_disk(), Ok(()));
        assert!(deeper.check_disk().is_err());
    }

    #[test]
    fn of_what_was_looked_at_a_deeper_checkpoint_depends_on_the_content_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("input");
        fs::write(&path, "one").unwrap();
        let of = |role| Trace {
            files: vec![FileInput::take(path.clone(), role)],
            ..Trace::default()
        };
        let source = [1, 2];
        for role in [Role::Probe, Role::UnusedByteCode { source }] {
            fs::write(&path, "one").unwrap();
            let mut parent = of(role);
            let mut deeper = of(Role::Content);
            deeper.inherit(&parent);
            fs::write(&path, "another").unwrap();
            assert_eq!(parent.check_disk(), Ok(()));
            assert!(deeper.check_disk().is_err());
        }
    }

    #[test]
    fn whichever_file_of_many_changes_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let count = MOST_THREADS * PER_THREAD + PORTION / 2;
        let paths: Vec<_> = (0..count)
            .map(|number| dir.path().join(number.to_string()))
            .collect();
        for path in &paths {
            fs::write(path, "one").unwrap();
        }
        let mut trace = Trace::default();
        let take = |path: &PathBuf| FileInput::take(path.clone(), Role::Content);
        for changed in [0, PORTION, count / 2, count - 1] {
            trace.files = paths.iter().map(take).collect();
            assert_eq!(trace.check_disk(), Ok(()));
            fs::write(&paths[changed], "longer").unwrap();
            let why = format!("`{}` changed", paths[changed].display());
            assert_eq!(trace.check_disk(), Err(Mismatch::Stale(why)));
            fs::write(&paths[changed], "one").unwrap();
        }
    }

    #[test]
    fn only_what_was_read_of_the_environment_counts() {
        let mut trace = Trace {
            env_read: [b"MODE".to_vec(), b"GONE".to_vec()].into(),
            ..Trace::default()
        };
        trace.set_env(&[b"MODE=one".to_vec(), b"OTHER=1".to_vec()]);
        let ok = [b"MODE=one".to_vec(), b"OTHER=2".to_vec(), b"NEW=3".to_vec()];
        assert_eq!(trace.check_caller(caller(&ok)), Ok(()));
        for bad in [
            vec![b"MODE=two".to_vec()],
            vec![b"OTHER=1".to_vec()],
            vec![b"MODE=one".to_vec(), b"GONE=".to_vec()],
        ] {
            assert!(trace.check_caller(caller(&bad)).is_err(), "{bad:?}");
        }
        trace.env_all = true;
        assert!(trace.check_caller(caller(&ok)).is_err());
    }
}
