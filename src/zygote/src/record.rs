//! A trace from what was seen of a build.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use pyo3::prelude::*;
use pyseidon::trace::{DirInput, FileInput, Interest, Role, Signature, Trace, is_used_byte_code};

use crate::seen::Seen;

/// What only Python can tell of itself, given by `observe.py`.
#[derive(FromPyObject, Debug, Default)]
#[pyo3(from_item_all)]
pub(crate) struct Facts {
    /// Of each loaded module: its file, and its byte code's place (or none).
    modules: Vec<(PathBuf, Option<PathBuf>)>,
    /// Top-level names in `sys.modules`, and packages with their directories.
    names: Vec<String>,
    packages: BTreeMap<String, Vec<PathBuf>>,
    sys_path: Vec<PathBuf>,
    /// Further files that were read before recording could begin.
    files: Vec<PathBuf>,
    /// Start-up text, in which a name of a variable counts as a read of it.
    texts: Vec<PathBuf>,
    env_read: BTreeSet<Vec<u8>>,
    env_all: bool,
    argv_read: bool,
    cwd_read: bool,
    terminal_read: bool,
    probes: Vec<PathBuf>,
    /// Byte code that no child writes: it is fresh.
    fresh: BTreeSet<PathBuf>,
    /// Of sources that are in the midst of being executed: how many bytes have been.
    heads: BTreeMap<PathBuf, u64>,
    /// See [`pyseidon::protocol::Parked`].
    pub(crate) conftests: Vec<(PathBuf, String)>,
    pub(crate) opening: Option<(String, f64)>,
    /// Modules that are held but not in `sys.modules`, until a run imports them.
    pub(crate) hidden: BTreeSet<String>,
}

/// How long before the build's start the kernel may have stamped a change that was made after it:
/// the clock for stamps ticks every 1 to 10 ms.
const TICK_NS: i128 = 20_000_000;

/// The trace, and the file that changed while it was read, if any did.
pub(crate) fn trace(seen: &Seen, facts: Facts, key: [u8; 32]) -> (Trace, Option<PathBuf>) {
    let mut trace = Trace {
        key,
        env_read: facts.env_read,
        env_all: facts.env_all,
        ..Trace::default()
    };
    // But for those that somebody has looked at as well.
    let mut heads = facts.heads;
    heads.retain(|path, _| !facts.files.contains(path) && !seen.texts.contains(path));
    let mut files: BTreeMap<PathBuf, FileInput> = BTreeMap::new();
    let mut sources: Vec<PathBuf> = facts.files;
    let mut byte_code = |cached: &Path, source: &Path| {
        if heads.contains_key(source) {
            // Who goes on looks at it himself.
            return;
        }
        let stands_for = Signature::of(source)
            .map(|s| [(s.mtime_ns.div_euclid(1_000_000_000)) as u32, s.size as u32]);
        let role = match stands_for {
            Some(source) if !facts.fresh.contains(cached) && !is_used_byte_code(cached, source) => {
                Role::UnusedByteCode { source }
            }
            _ => Role::Content,
        };
        files
            .entry(cached.to_owned())
            .or_insert_with(|| FileInput::take(cached.to_owned(), role));
    };
    for path in seen.opened.keys().chain(facts.texts.iter()) {
        match source_of(path) {
            // The source is only looked at when its byte code is fresh.
            Some(source) => {
                byte_code(path, &source);
                sources.push(source);
            }
            None => sources.push(path.clone()),
        }
    }
    for (file, cached) in &facts.modules {
        sources.push(file.clone());
        if let Some(cached) = cached {
            byte_code(cached, file);
        }
    }
    let objects = shared_objects();
    sources.extend(objects.iter().cloned());
    for path in sources {
        let length = heads.get(&path).copied();
        let role = length.map_or(Role::Content, |length| Role::Head { length });
        files
            .entry(path.clone())
            .or_insert_with(|| FileInput::take(path, role));
    }
    for path in facts.probes {
        files
            .entry(path.clone())
            .or_insert_with(|| FileInput::take(path, Role::Probe));
    }
    let late = |signature: Option<Signature>| {
        signature.is_some_and(|s| s.ctime_ns > seen.since_ns - TICK_NS)
    };
    let unsettled = files.values().find_map(|input| {
        let after = input.signature;
        let changed = match seen.opened.get(&input.path) {
            // That was used, and taken away since.
            Some(Some(_)) if after.is_none() => true,
            Some(before) => {
                matches!(input.role, Role::Content | Role::Head { .. }) && *before != after
            }
            None => false,
        };
        // No child writes it, as it was there when that was decided.
        let changed = changed || (after.is_none() && facts.fresh.contains(&input.path));
        let is_read = !matches!(input.role, Role::Probe | Role::UnusedByteCode { .. });
        let young = late(after) && is_read;
        (changed || young).then(|| input.path.clone())
    });
    trace.files = files.into_values().collect();
    trace.dirs = directories(seen, facts.names, facts.packages, facts.sys_path);
    let unsettled = unsettled.or_else(|| {
        let dir = trace.dirs.iter().find(|dir| late(dir.signature))?;
        Some(dir.path.clone())
    });
    trace.env_hidden = hidden_names(&objects, &facts.texts);
    if facts.cwd_read || seen.relative {
        trace.cwd = Some(Vec::new());
    }
    if facts.argv_read {
        trace.argv = Some(Vec::new());
    }
    if facts.terminal_read {
        // A zygote has no terminal.
        trace.tty = Some([false; 3]);
    }
    (trace, unsettled)
}

/// What a build that came to nothing had read, as it was when it was read: when any of it
/// changes, another try may go better.
pub(crate) fn failed(seen: &Seen) -> Trace {
    let mut files: Vec<FileInput> = Vec::new();
    for (path, before) in &seen.opened {
        files.push(FileInput {
            path: path.clone(),
            role: Role::Content,
            signature: *before,
            content: None,
        });
        if let Some(source) = source_of(path) {
            files.push(FileInput::take(source, Role::Content));
        }
    }
    // What was missing may come into one of the directories in which something else was found.
    let names = seen.imported.iter().flat_map(|name| name.split('.'));
    let interest = Interest::Names {
        names: names.map(str::to_owned).collect(),
        dists: true,
    };
    let parents = files.iter().filter_map(|file| file.path.parent());
    let found_in: BTreeSet<_> = parents
        .filter(|dir| !dir.ends_with("__pycache__"))
        .collect();
    let dirs = found_in
        .into_iter()
        .map(|dir| DirInput::take(dir.to_path_buf(), interest.clone()))
        .collect();
    Trace {
        files,
        dirs,
        ..Trace::default()
    }
}

/// `dir/__pycache__/name.tag.pyc` stands for `dir/name.py`.
pub(crate) fn source_of(byte_code: &Path) -> Option<PathBuf> {
    if byte_code.extension()? != "pyc" {
        return None;
    }
    let cache = byte_code.parent()?;
    if cache.file_name()? != "__pycache__" {
        return None;
    }
    let stem = byte_code.file_name()?.to_str()?.split('.').next()?;
    Some(cache.parent()?.join(format!("{stem}.py")))
}

fn directories(
    seen: &Seen,
    names: Vec<String>,
    packages: BTreeMap<String, Vec<PathBuf>>,
    sys_path: Vec<PathBuf>,
) -> Vec<DirInput> {
    let mut top: BTreeSet<String> = names.into_iter().collect();
    let mut below: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for name in &seen.imported {
        match name.rsplit_once('.') {
            None => {
                top.insert(name.clone());
            }
            Some((package, tail)) => {
                below.entry(package).or_default().insert(tail.to_owned());
            }
        }
    }
    // Distributions can be found in any directory of the search path, and only there.
    let mut wanted: BTreeMap<PathBuf, (BTreeSet<String>, bool)> = sys_path
        .into_iter()
        .filter(|path| !path.is_file())
        .map(|path| (path, (top.clone(), true)))
        .collect();
    for (package, paths) in packages {
        let mut tails = below.remove(package.as_str()).unwrap_or_default();
        // A namespace package's directory becomes a package of its own by it.
        tails.insert("__init__".to_owned());
        for path in paths {
            wanted
                .entry(path)
                .or_default()
                .0
                .extend(tails.iter().cloned());
        }
    }
    // Those that were on the path for a while, and those of packages that are loaded no more.
    let tails = seen.imported.iter().flat_map(|name| name.split('.'));
    let tails: BTreeSet<String> = tails.map(str::to_owned).collect();
    for path in &seen.searched {
        if !path.is_file() && !wanted.contains_key(path) {
            wanted.insert(path.clone(), (tails.clone(), true));
        }
    }
    let mut inputs: Vec<DirInput> = wanted
        .into_iter()
        .map(|(path, (names, dists))| DirInput::take(path, Interest::Names { names, dists }))
        .collect();
    for (path, only_dists) in &seen.listed {
        let interest = if *only_dists {
            Interest::Names {
                names: BTreeSet::new(),
                dists: true,
            }
        } else {
            Interest::All
        };
        inputs.push(DirInput::take(path.clone(), interest));
    }
    inputs
}

/// Files that are mapped into this process.
fn shared_objects() -> Vec<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let found: BTreeSet<PathBuf> = maps
        .lines()
        .filter_map(|line| line.find('/').map(|at| PathBuf::from(&line[at..])))
        .filter(|path| path.is_file())
        .collect();
    found.into_iter().collect()
}

/// Names that C code, or text run by the start-up, might look up in the environment.
fn hidden_names(objects: &[PathBuf], texts: &[PathBuf]) -> BTreeSet<Vec<u8>> {
    let mut names = BTreeSet::new();
    for path in objects {
        let file = path
            .file_name()
            .map(|n| n.as_bytes().to_vec())
            .unwrap_or_default();
        if file.starts_with(b"_zygote.") || !is_shared_object(&file) || is_base(&file) {
            continue;
        }
        if let Ok(bytes) = fs::read(path) {
            collect_names(&bytes, true, &mut names);
        }
    }
    for path in texts {
        if let Ok(bytes) = fs::read(path) {
            collect_names(&bytes, false, &mut names);
        }
    }
    names
}

fn is_shared_object(file: &[u8]) -> bool {
    file.ends_with(b".so") || file.windows(4).any(|w| w == b".so.")
}

/// What every Python holds. The variables that these read are in the root key.
fn is_base(file: &[u8]) -> bool {
    const BASE: [&[u8]; 11] = [
        b"ld-linux",
        b"ld-musl",
        b"libc.",
        b"libdl.",
        b"libgcc_s.",
        b"libm.",
        b"libpthread.",
        b"libpython",
        b"librt.",
        b"libstdc++.",
        b"libutil.",
    ];
    BASE.iter().any(|start| file.starts_with(start))
}

/// Upper-case identifiers, in binaries those that end in a null byte, as C strings do.
fn collect_names(bytes: &[u8], terminated: bool, names: &mut BTreeSet<Vec<u8>>) {
    let part = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
    let mut start = None;
    for (at, byte) in bytes.iter().chain(std::iter::once(&0)).enumerate() {
        match (part(*byte), start) {
            (true, None) => start = Some(at),
            (false, Some(from)) => {
                let name = &bytes[from..at];
                let ends = !terminated || *byte == 0;
                if ends && (2..64).contains(&name.len()) && !name[0].is_ascii_digit() {
                    names.insert(name.to_vec());
                }
                start = None;
            }
            _ => {}
        }
    }
    for lower in ["http_proxy", "https_proxy", "no_proxy", "all_proxy"] {
        if bytes.windows(lower.len()).any(|w| w == lower.as_bytes()) {
            names.insert(lower.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_code_that_went_after_it_was_found_fresh_is_no_input() {
        let dir = std::env::temp_dir().join(format!("pyseidon-record-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("__pycache__")).unwrap();
        let source = dir.join("mod.py");
        std::fs::write(&source, "").unwrap();
        let cached = dir.join("__pycache__/mod.cpython-311.pyc");
        let facts = |fresh: &[&PathBuf]| Facts {
            modules: vec![(source.clone(), Some(cached.clone()))],
            fresh: fresh.iter().map(|path| (*path).clone()).collect(),
            ..Facts::default()
        };
        let mut seen = Seen::new();
        seen.since_ns = i128::MAX / 2;
        // It was looked for when the module was loaded, and was not there.
        seen.opened.insert(cached.clone(), None);
        assert_eq!(trace(&seen, facts(&[]), [0; 32]).1, None);
        assert_eq!(
            trace(&seen, facts(&[&cached]), [0; 32]).1,
            Some(cached.clone())
        );
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
