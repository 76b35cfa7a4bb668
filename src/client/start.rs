//! What every run begins with, on any system.

use std::ffi::{CStr, OsStr, OsString, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::fallback::{Plain, say};
use crate::error::exit;
use crate::project::{Caller, find_script};

/// The program's arguments, its name first. Rust's own start-up code would collect them too, but
/// it also opens `/dev/null` on closed descriptors and ignores SIGPIPE, which pytest would inherit.
///
/// # Safety
///
/// `argv` must hold `argc` pointers to C strings, as `main` gets them.
pub unsafe fn arguments(argc: c_int, argv: *const *const c_char) -> Vec<Vec<u8>> {
    (0..usize::try_from(argc).unwrap_or(0))
        // SAFETY: the caller's promise.
        .map(|i| unsafe { CStr::from_ptr(*argv.add(i)) }.to_bytes().to_vec())
        .collect()
}

/// Finds the `pytest` that is meant and runs it: as `warm` has it, or plainly where that is asked
/// for. Returns the exit status.
pub(super) fn run(args: &[Vec<u8>], warm: impl FnOnce(&Caller<'_>, &Plain<'_>) -> i32) -> i32 {
    let env = |name: &str| std::env::var_os(name);
    // Empty when the directory is gone: relative paths still lead where they lead.
    let cwd = std::env::current_dir().unwrap_or_default();
    // Only Linux says it without symlinks.
    let exe = std::env::current_exe().unwrap_or_default();
    let exe = exe.canonicalize().unwrap_or(exe);
    let (argv0, argv) = args
        .split_first()
        .map_or((&[][..], &[][..]), |(a, b)| (a, b));
    let caller = Caller {
        argv0: OsStr::from_bytes(argv0),
        env: &env,
        cwd: &cwd,
        exe: &exe,
    };
    let script = match find_script(&caller) {
        Ok(script) => script,
        Err(why) => {
            say(&format!("error: {why}"));
            return exit::NOT_FOUND;
        }
    };
    name_what_was_typed(&env, &script);
    let plain = Plain { script, argv };
    if plain_is_wanted(&env) || reads_once(argv, &env) || is_short_of_memory() {
        return plain.exec(None);
    }
    warm(&caller, &plain)
}

/// A shell tells a program in `_` how it has found it. This stands in for another.
fn name_what_was_typed(env: &dyn Fn(&str) -> Option<OsString>, script: &Path) {
    let own = env("_").filter(|found| Path::new(found).ends_with("pyseidon-test"));
    if own.is_some() {
        // SAFETY: this process has one thread.
        unsafe { std::env::set_var("_", script) };
    }
}

/// The user, or the machine, does not want a daemon; or wants something that only a process of
/// its own can have.
fn plain_is_wanted(env: &dyn Fn(&str) -> Option<OsString>) -> bool {
    let is = |name: &str, value: &str| env(name).is_some_and(|found| found == value);
    // Nothing should be left running behind a CI job.
    let in_ci = env("CI").is_some_and(|value| !value.is_empty()) && !is("PYSEIDON", "1");
    // A zygote has drawn its hash seed already.
    is("PYSEIDON", "0") || in_ci || is("PYTHONHASHSEED", "random")
}

/// An argument names something to read arguments from (`@<(…)`, `@/dev/stdin`) that can be read only
/// once: a checkpoint that reads it and then finds that it does not stand for the run has used it up.
fn reads_once(argv: &[Vec<u8>], env: &dyn Fn(&str) -> Option<OsString>) -> bool {
    let more = env("PYTEST_ADDOPTS").unwrap_or_default();
    let more = more.as_bytes().split(u8::is_ascii_whitespace);
    argv.iter()
        .map(Vec::as_slice)
        .chain(more)
        .filter_map(|word| word.strip_prefix(b"@"))
        .any(|path| {
            Path::new(OsStr::from_bytes(path))
                .metadata()
                .is_ok_and(|it| !it.is_file())
        })
}

/// A limit of address space or data that may be reached: a worker has some 75 MB more of the one and
/// 12 MB more of the other than a process that was started for the run.
fn is_short_of_memory() -> bool {
    use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
    [Resource::RLIMIT_AS, Resource::RLIMIT_DATA]
        .into_iter()
        .any(|of| getrlimit(of).is_ok_and(|(soft, _)| soft != RLIM_INFINITY))
}
