//! What of a run decides which root and which prepared checkpoint can stand for it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::protocol::Run;
use crate::trace::{Caller, entries};

/// Digest of all that a worker cannot change any more once its interpreter runs. Runs with
/// unequal digests need another Z0.
///
/// Runs with equal ones may still need another, if start-up code in the environment looks at more
/// than that: then the roots are told apart by a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct RootKey {
    digest: [u8; 32],
    variant: u32,
}

/// Read by the interpreter, the loader or the C library before or while it starts.
const ROOT_PREFIXES: [&[u8]; 5] = [b"PYTHON", b"LD_", b"MALLOC_", b"GLIBC_", b"LC_"];
const ROOT_NAMES: [&[u8]; 3] = [b"LANG", b"LANGUAGE", b"LOCPATH"];
/// Read each time `breakpoint()` is called, so a worker follows it by itself.
const READ_LATE: &[u8] = b"PYTHONBREAKPOINT";

impl RootKey {
    pub(super) fn of(run: &Run) -> Self {
        let mut hasher = blake3::Hasher::new();
        let mut field = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        field(&run.python);
        field(&run.script);
        field(&(run.python_options.len() as u64).to_le_bytes());
        for option in &run.python_options {
            field(option);
        }
        let mut variables: Vec<_> = entries(&run.env)
            .filter(|(name, _)| shapes_the_interpreter(name))
            .collect();
        // `getenv` finds the first of a name; the order of names says nothing.
        variables.sort_by_key(|(name, _)| *name);
        variables.dedup_by_key(|(name, _)| *name);
        for (name, value) in variables {
            field(name);
            field(value);
        }
        if !run.script.starts_with(b"/")
            || run.getenv(b"PYTHONPATH").is_some_and(has_relative_entry)
        {
            field(b"cwd");
            field(&run.cwd);
        }
        Self {
            digest: *hasher.finalize().as_bytes(),
            variant: 0,
        }
    }

    /// For runs of the same digest that this root's Z0 does not stand for.
    pub(super) fn sibling(self) -> Self {
        Self {
            variant: self.variant + 1,
            ..self
        }
    }

    pub(super) fn is_sibling_of(self, other: Self) -> bool {
        self.digest == other.digest
    }

    /// Enough to tell the few roots of one daemon apart.
    pub(super) fn short(&self) -> String {
        let mut text: String = self.digest[..4]
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        if self.variant > 0 {
            text.push_str(&format!("-{}", self.variant));
        }
        text
    }
}

fn shapes_the_interpreter(name: &[u8]) -> bool {
    name != READ_LATE
        && (ROOT_NAMES.contains(&name) || ROOT_PREFIXES.iter().any(|p| name.starts_with(p)))
}

/// An empty variable is no path at all; an empty entry among others is the working directory.
fn has_relative_entry(path: &[u8]) -> bool {
    !path.is_empty()
        && path
            .split(|b| *b == b':')
            .any(|entry| !entry.starts_with(b"/"))
}

/// The caller's side of a run, as a trace compares it.
pub(super) fn caller(run: &Run, tty: [bool; 3]) -> Caller<'_> {
    Caller {
        env: &run.env,
        cwd: &run.cwd,
        argv: &run.argv,
        tty,
    }
}

/// The hash seed is drawn anew by each interpreter unless the user fixed it.
pub(super) fn seed_varies(run: &Run) -> bool {
    run.getenv(b"PYTHONHASHSEED").is_none_or(<[u8]>::is_empty)
}

/// What pytest reads before the point at which a P0 parks. The worker compares all of it again;
/// the shape only keeps the daemon from asking checkpoints that will say no.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Shape {
    cwd: Vec<u8>,
    env: [Option<Vec<u8>>; 3],
    early: Vec<Vec<u8>>,
}

const SHAPE_VARIABLES: [&[u8]; 3] = [
    b"PYTEST_ADDOPTS",
    b"PYTEST_PLUGINS",
    b"PYTEST_DISABLE_PLUGIN_AUTOLOAD",
];

/// Options that take their value from the next token.
const EARLY_WITH_VALUE: [&str; 9] = [
    "-p",
    "-c",
    "--config-file",
    "-o",
    "--override-ini",
    "-W",
    "--pythonwarnings",
    "--rootdir",
    "--assert",
];
const EARLY_FLAG: &str = "--disable-plugin-autoload";
const INFORMATION: [&str; 4] = ["-h", "--help", "-V", "--version"];
/// One-letter options whose value may follow without a space.
const EARLY_JOINED: [&str; 4] = ["-p", "-c", "-o", "-W"];

impl Shape {
    pub(super) fn of(run: &Run) -> Self {
        Self {
            cwd: run.cwd.clone(),
            env: SHAPE_VARIABLES.map(|name| run.getenv(name).map(<[u8]>::to_vec)),
            early: early_tokens(&run.argv),
        }
    }

    /// Such a run shows something and ends: it is not worth a checkpoint of its own.
    pub(super) fn is_for_information(&self) -> bool {
        let is = |token: &Vec<u8>| INFORMATION.iter().any(|flag| flag.as_bytes() == token);
        self.early.iter().any(is)
    }

    /// In words, for `status`.
    pub(super) fn describe(&self) -> String {
        let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut words = vec![format!("in {}", shown(&self.cwd))];
        for (name, value) in SHAPE_VARIABLES.iter().zip(&self.env) {
            if let Some(value) = value {
                words.push(format!("{}={}", shown(name), shown(value)));
            }
        }
        words.extend(self.early.iter().map(|token| shown(token)));
        words.join(" ")
    }
}

/// The tokens of a command line that pytest acts on before it loads conftests, in order. A value
/// that only looks like one of them does no harm: it makes one more shape.
fn early_tokens(argv: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut tokens = argv.iter();
    while let Some(token) = tokens.next() {
        if token == b"--" {
            break;
        }
        let text = String::from_utf8_lossy(token);
        if EARLY_WITH_VALUE.contains(&text.as_ref()) {
            found.push(token.clone());
            found.extend(tokens.next().cloned());
        } else if text == EARLY_FLAG
            || INFORMATION.contains(&text.as_ref())
            || text.starts_with("--strict")
            || EARLY_JOINED.iter().any(|option| text.starts_with(option))
            || text
                .split_once('=')
                .is_some_and(|(name, _)| name.starts_with("--") && EARLY_WITH_VALUE.contains(&name))
        {
            found.push(token.clone());
        }
    }
    found
}

/// The command line as a user would recognise it.
pub(super) fn shown_argv(argv: &[Vec<u8>]) -> Vec<String> {
    argv.iter()
        .map(|token| OsStr::from_bytes(token).to_string_lossy().into_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::tests::fakes::run;

    fn with_argv(argv: &[&str]) -> Shape {
        let mut run = run();
        run.argv = argv.iter().map(|a| a.as_bytes().to_vec()).collect();
        Shape::of(&run)
    }

    #[test]
    fn files_and_selections_do_not_shape_a_run() {
        assert_eq!(
            with_argv(&[]),
            with_argv(&["tests/a.py", "-k", "bar", "-x", "-vv"])
        );
    }

    #[test]
    fn early_options_shape_a_run_in_every_spelling() {
        let plain = with_argv(&[]);
        for argv in [
            &["-p", "no:xdist"] as &[&str],
            &["-pno:xdist"],
            &["-c", "other.ini"],
            &["--config-file=other.ini"],
            &["-o", "addopts="],
            &["--override-ini", "addopts="],
            &["-Werror"],
            &["--rootdir", "/"],
            &["--assert=plain"],
            &["--disable-plugin-autoload"],
            &["--strict-markers"],
        ] {
            assert_ne!(with_argv(argv), plain, "{argv:?}");
        }
        assert_ne!(with_argv(&["-p", "a"]), with_argv(&["-p", "b"]));
    }

    #[test]
    fn help_and_version_are_for_information() {
        assert!(with_argv(&["tests", "--version"]).is_for_information());
        assert!(!with_argv(&["-x", "--", "-h"]).is_for_information());
    }

    #[test]
    fn nothing_after_a_double_dash_is_an_option() {
        assert_eq!(with_argv(&["--", "-p"]), with_argv(&[]));
    }

    #[test]
    fn the_directory_and_addopts_shape_a_run() {
        let plain = run();
        let mut moved = run();
        moved.cwd = b"/elsewhere".to_vec();
        assert_ne!(Shape::of(&plain), Shape::of(&moved));
        let mut addopts = run();
        addopts.env.push(b"PYTEST_ADDOPTS=-q".to_vec());
        assert_ne!(Shape::of(&plain), Shape::of(&addopts));
    }

    #[test]
    fn only_what_the_interpreter_reads_makes_another_root() {
        let key = |entry: &str| {
            let mut run = run();
            run.env.push(entry.as_bytes().to_vec());
            RootKey::of(&run)
        };
        let plain = RootKey::of(&run());
        assert_eq!(key("EDITOR=vi"), plain);
        assert_eq!(key("PYTHONBREAKPOINT=0"), plain);
        for entry in ["PYTHONHASHSEED=1", "LC_ALL=C", "LD_PRELOAD=x", "LANG=C"] {
            assert_ne!(key(entry), plain, "{entry}");
        }
    }

    #[test]
    fn the_directory_makes_another_root_when_pythonpath_depends_on_it() {
        let key = |path: &str, cwd: &str| {
            let mut run = run();
            run.env.push(format!("PYTHONPATH={path}").into_bytes());
            run.cwd = cwd.as_bytes().to_vec();
            RootKey::of(&run)
        };
        assert_eq!(key("/lib", "/a"), key("/lib", "/b"));
        assert_eq!(key("", "/a"), key("", "/b"));
        assert_ne!(key("src", "/a"), key("src", "/b"));
        assert_ne!(key("/lib:", "/a"), key("/lib:", "/b"));
    }
}
