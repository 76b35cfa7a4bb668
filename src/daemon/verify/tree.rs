//! What a run writes below the project's root: the tree is looked at before and after it.
//!
//! Only what has changed in between is read: the time of a file's last change is the kernel's own
//! and cannot be set back.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::compare::{Key, Map};
use super::mask::mask;

/// Of byte code, this says which source it is of; what follows depends on how the process that
/// wrote it shares its constants.
const BYTE_CODE_HEADER: usize = 16;

/// Larger texts are compared byte by byte.
const TEXT_LIMIT: usize = 8 << 20;

/// A file's identity: another one after any change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    mode: u32,
    size: u64,
    changed: (i64, i64),
}

/// A directory and all below it at one moment, without repositories.
#[derive(Debug)]
pub(super) struct Tree {
    root: PathBuf,
    /// Our own files, should they be below it.
    without: PathBuf,
    stamps: BTreeMap<PathBuf, Stamp>,
}

impl Tree {
    /// What cannot be read is not there.
    pub(super) fn read(root: &Path, without: &Path) -> Self {
        let mut stamps = BTreeMap::new();
        let mut directories = vec![root.to_path_buf()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
                let path = entry.path();
                if entry.file_name() == ".git" || path == without {
                    continue;
                }
                let Ok(found) = fs::symlink_metadata(&path) else {
                    continue;
                };
                let mut stamp = Stamp {
                    inode: found.ino(),
                    mode: found.mode(),
                    size: found.size(),
                    changed: (found.ctime(), found.ctime_nsec()),
                };
                if found.is_dir() {
                    // It changes with what is in it, which is seen anyway.
                    (stamp.size, stamp.changed) = (0, (0, 0));
                    directories.push(path.clone());
                }
                stamps.insert(path, stamp);
            }
        }
        Self {
            root: root.to_path_buf(),
            without: without.to_path_buf(),
            stamps,
        }
    }

    /// What is new, other or gone since then: by its path from the root, what it is now.
    pub(super) fn changes(&self) -> Map {
        let now = Self::read(&self.root, &self.without);
        let mut changes = Map::new();
        let mut add = |path: &Path, what: String| {
            let path = path.strip_prefix(&self.root).unwrap_or(path);
            let parent = path.parent().unwrap_or(Path::new(""));
            let key = Key {
                family: mask(&parent.to_string_lossy()),
                name: mask(&path.to_string_lossy()),
            };
            let known = changes.entry(key).or_default();
            if !known.is_empty() {
                // Of names that differ by what is masked.
                known.push('\n');
            }
            known.push_str(&what);
        };
        for (path, stamp) in &now.stamps {
            if self.stamps.get(path) != Some(stamp) {
                add(path, describe(path, stamp.mode));
            }
        }
        for path in self.stamps.keys() {
            if !now.stamps.contains_key(path) {
                add(path, "deleted".into());
            }
        }
        changes
    }
}

fn describe(path: &Path, mode: u32) -> String {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => "a directory".into(),
        libc::S_IFLNK => match fs::read_link(path) {
            Ok(target) => format!("a link to `{}`", mask(&target.to_string_lossy())),
            Err(_) => "a link".into(),
        },
        libc::S_IFREG => match digest(path) {
            Some(digest) => format!("a file with the digest {digest}"),
            None => "a file that cannot be read".into(),
        },
        _ => "neither file nor directory".into(),
    }
}

fn digest(path: &Path) -> Option<String> {
    let mut file = fs::File::open(path).ok()?;
    let mut bytes = Vec::new();
    if path.extension().is_some_and(|suffix| suffix == "pyc") {
        let header = BYTE_CODE_HEADER as u64;
        file.take(header).read_to_end(&mut bytes).ok()?;
        return Some(short(blake3::hash(&bytes)));
    }
    (&mut file)
        .take(TEXT_LIMIT as u64)
        .read_to_end(&mut bytes)
        .ok()?;
    if bytes.len() < TEXT_LIMIT {
        return Some(short(match std::str::from_utf8(&bytes) {
            Ok(text) => blake3::hash(mask(text).as_bytes()),
            Err(_) => blake3::hash(&bytes),
        }));
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(&bytes);
    hasher.update_reader(file).ok()?;
    Some(short(hasher.finalize()))
}

fn short(hash: blake3::Hash) -> String {
    hash.to_hex()[..12].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_run_writes_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in [".git", "own", "d"] {
            fs::create_dir(at(name)).unwrap();
        }
        fs::write(at("kept"), "1").unwrap();
        fs::write(at("gone"), "1").unwrap();
        fs::write(at("d/log"), "took 0.25s").unwrap();
        let tree = Tree::read(dir.path(), &at("own"));
        fs::remove_file(at("gone")).unwrap();
        fs::write(at(".git/HEAD"), "").unwrap();
        fs::write(at("own/out"), "").unwrap();
        fs::write(at("d/log"), "took 0.125s").unwrap();
        std::os::unix::fs::symlink("d", at("link")).unwrap();
        let changes = tree.changes();
        let names: Vec<_> = changes.keys().map(|key| key.name.as_str()).collect();
        assert_eq!(names, ["gone", "link", "d/log"]);
        let told: Vec<_> = changes.values().cloned().collect();
        let digest = short(blake3::hash(b"took TIMEs"));
        let file = format!("a file with the digest {digest}");
        assert_eq!(told, ["deleted".to_owned(), "a link to `d`".into(), file]);
    }
}
