//! The interpreter that a script's first line names, in the forms that installers write.
//!
//! ```text
//! #!/venv/bin/python3 -I                  the kernel passes at most one option string
//! #!/usr/bin/env python3                  looked up on PATH
//! #!/bin/sh                               where the path is too long for the kernel or has spaces
//! '''exec' "/a b/bin/python" "$0" "$@"
//! ' '''
//! ```

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The kernel reads this much of a script for its first line (`BINPRM_BUF_SIZE`).
const KERNEL_LIMIT: usize = 256;

/// A path may have 4,096 bytes; the `sh` form adds a few words around it.
const READ_LIMIT: u64 = 8192;

/// How uv spells "beside this script" in relocatable environments.
const BESIDE_SCRIPT: &[u8] = br#""$(dirname -- "$(realpath -- "$0")")"/"#;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interpreter {
    pub python: PathBuf,
    pub options: Vec<OsString>,
}

/// Reads the first line of `script`. `which` finds a program on `PATH`.
///
/// An error says why the script cannot be served warm.
pub fn read(
    script: &Path,
    which: impl Fn(&OsStr) -> Option<PathBuf>,
) -> Result<Interpreter, String> {
    let shown = script.display();
    let mut head = Vec::with_capacity(READ_LIMIT as usize);
    File::open(script)
        .and_then(|file| file.take(READ_LIMIT).read_to_end(&mut head))
        .map_err(|error| format!("cannot read `{shown}`: {error}"))?;
    let beside = || Some(script.canonicalize().ok()?.parent()?.to_path_buf());
    let found = parse(&head, which, beside).map_err(|why| format!("`{shown}` {why}"))?;
    // A version manager's shim chooses the interpreter anew at each start, by rules of its own.
    let mut start = [0; 2];
    match File::open(&found.python).and_then(|mut file| file.read_exact(&mut start)) {
        Ok(()) if &start == b"#!" => Err(format!(
            "the interpreter `{}` is itself a script",
            found.python.display()
        )),
        Ok(()) => Ok(found),
        Err(error) => Err(format!(
            "cannot read the interpreter `{}`: {error}",
            found.python.display()
        )),
    }
}

fn parse(
    head: &[u8],
    which: impl Fn(&OsStr) -> Option<PathBuf>,
    beside: impl Fn() -> Option<PathBuf>,
) -> Result<Interpreter, String> {
    let mut lines = head.split(|byte| *byte == b'\n');
    let first = lines
        .next()
        .and_then(|line| line.strip_prefix(b"#!"))
        .ok_or("is not a script")?;
    let (program, option) = split_word(first.trim_ascii());
    if program == b"/bin/sh" && option.is_empty() {
        let second = lines.next().unwrap_or_default();
        return parse_exec_line(second, beside).ok_or_else(|| "is not a Python script".into());
    }
    if first.len() + 2 > KERNEL_LIMIT {
        return Err("has a first line that is too long for the kernel".into());
    }
    if Path::new(OsStr::from_bytes(program)).file_name() == Some(OsStr::new("env")) {
        if option.starts_with(b"-") || split_word(option).1 != b"" {
            return Err("calls `env` with options".into());
        }
        check_name(option)?;
        let name = OsStr::from_bytes(option);
        let python = which(name)
            .ok_or_else(|| format!("needs `{}`, not on `PATH`", name.to_string_lossy()))?;
        return Ok(Interpreter {
            python,
            options: Vec::new(),
        });
    }
    check_name(program)?;
    let options = (!option.is_empty())
        .then(|| OsString::from_vec(option.to_vec()))
        .into_iter()
        .collect();
    Ok(Interpreter {
        python: OsStr::from_bytes(program).into(),
        options,
    })
}

/// `'''exec' INTERPRETER [OPTION…] "$0" "$@"`, which is a harmless string to Python.
fn parse_exec_line(line: &[u8], beside: impl Fn() -> Option<PathBuf>) -> Option<Interpreter> {
    let rest = line.strip_prefix(b"'''exec' ")?;
    let rest = rest.trim_ascii_end().strip_suffix(br#" "$0" "$@""#)?;
    let (python, rest) = match rest.strip_prefix(BESIDE_SCRIPT) {
        Some(rest) => {
            let (name, rest) = shell_word(rest)?;
            (beside()?.join(OsStr::from_bytes(name)), rest)
        }
        None => {
            let (path, rest) = shell_word(rest)?;
            (PathBuf::from(OsStr::from_bytes(path)), rest)
        }
    };
    check_name(python.as_os_str().as_bytes()).ok()?;
    let options = rest
        .split(|byte| *byte == b' ')
        .filter(|word| !word.is_empty())
        .map(|word| OsString::from_vec(word.to_vec()))
        .collect();
    Some(Interpreter { python, options })
}

/// The first word, quoted or bare, without anything a shell would expand; and the rest.
fn shell_word(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let (word, rest) = match *text.first()? {
        quote @ (b'"' | b'\'') => {
            let end = 1 + text[1..].iter().position(|byte| *byte == quote)?;
            (&text[1..end], &text[end + 1..])
        }
        _ => split_word(text),
    };
    let plain = !word.iter().any(|byte| b"$`\\\"'".contains(byte));
    (plain && !word.is_empty()).then_some((word, rest))
}

/// The first word and the rest, as the kernel splits a first line.
fn split_word(line: &[u8]) -> (&[u8], &[u8]) {
    match line.iter().position(|byte| b" \t".contains(byte)) {
        Some(at) => (&line[..at], line[at..].trim_ascii()),
        None => (line, b""),
    }
}

/// Our extension loads into CPython 3 only, so another interpreter is left alone.
fn check_name(program: &[u8]) -> Result<(), String> {
    let path = Path::new(OsStr::from_bytes(program));
    let name = path.file_name().unwrap_or_default().as_bytes();
    match name.strip_prefix(b"python") {
        Some(version) if !version.starts_with(b"2") => Ok(()),
        _ => Err(format!(
            "is run by `{}`, which is no CPython 3",
            path.display()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(head: &str) -> Result<(String, Vec<String>), String> {
        let which = |name: &OsStr| (name == "python3").then(|| "/found/python3".into());
        let beside = || Some("/real/bin".into());
        parse(head.as_bytes(), which, beside).map(|found| {
            let text = |s: OsString| s.into_string().unwrap();
            (
                text(found.python.into()),
                found.options.into_iter().map(text).collect(),
            )
        })
    }

    #[track_caller]
    fn names(head: &str, python: &str, options: &[&str]) {
        let options = options.iter().map(|o| o.to_string()).collect();
        assert_eq!(parsed(head), Ok((python.to_string(), options)));
    }

    #[test]
    fn a_path_and_at_most_one_option_string() {
        names("#!/v/bin/python3.11\nimport re\n", "/v/bin/python3.11", &[]);
        names("#! /v/bin/python  \n", "/v/bin/python", &[]);
        names("#!/v/bin/python -E -s\n", "/v/bin/python", &["-E -s"]);
    }

    #[test]
    fn env_looks_on_path() {
        names("#!/usr/bin/env python3\n", "/found/python3", &[]);
        assert!(parsed("#!/usr/bin/env python3.9\n").is_err());
        assert!(parsed("#!/usr/bin/env -S python3 -I\n").is_err());
        assert!(parsed("#!/usr/bin/env bash\n").is_err());
    }

    #[test]
    fn the_long_path_form_of_pip_and_uv() {
        let long = format!("/{}/bin/python", "a".repeat(300));
        names(
            &format!("#!/bin/sh\n'''exec' {long} \"$0\" \"$@\"\n' '''\n"),
            &long,
            &[],
        );
        names(
            "#!/bin/sh\n'''exec' \"/a b/bin/python3\" -E -s \"$0\" \"$@\"\n' '''\n",
            "/a b/bin/python3",
            &["-E", "-s"],
        );
        names(
            "#!/bin/sh\n'''exec' \"$(dirname -- \"$(realpath -- \"$0\")\")\"/'python3' \"$0\" \"$@\"\n' '''\n",
            "/real/bin/python3",
            &[],
        );
    }

    #[test]
    fn anything_else_is_refused_with_a_reason() {
        for head in [
            "",
            "\x7fELF",
            "#!/bin/sh\nexec python -m pytest\n",
            "#!/bin/sh\n'''exec' \"$HOME/bin/python\" \"$0\" \"$@\"\n' '''\n",
            "#!/bin/bash\n",
            "#!/usr/bin/python2.7\n",
            "#!/usr/bin/pypy3\n",
            &format!("#!/{}/python\n", "a".repeat(300)),
        ] {
            assert!(parsed(head).is_err(), "{head:?}");
        }
    }

    #[test]
    fn a_shim_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let shim = dir.path().join("python3");
        std::fs::write(&shim, "#!/usr/bin/env bash\n").unwrap();
        let script = dir.path().join("pytest");
        std::fs::write(&script, "#!/usr/bin/env python3\n").unwrap();
        let error = read(&script, |_| Some(shim.clone())).unwrap_err();
        assert!(error.contains("is itself a script"), "{error}");
    }
}
