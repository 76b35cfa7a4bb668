//! What every run begins with, on any system.

use std::ffi::{CStr, OsStr, OsString, c_char, c_int};
use std::os::unix::ffi::OsStrExt;

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
    let plain = Plain { script, argv };
    if plain_is_wanted(&env) {
        return plain.exec(None);
    }
    warm(&caller, &plain)
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
