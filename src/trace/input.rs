//! What a trace holds of the disk: files, directories, and what identifies them.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::Mismatch;

/// How long after a change a file's signature is not yet trusted alone: two seconds cover the
/// coarsest time stamps in use (FAT), as in git's rule for racily clean entries.
const YOUNG_NS: i128 = 2_000_000_000;

/// What identifies the content of a file without reading it. The change time is set by the
/// kernel alone, so a rewrite that puts size and modification time back is still seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    pub dev: u64,
    pub ino: u64,
    pub size: u64,
    pub mtime_ns: i128,
    pub ctime_ns: i128,
    pub mode: u32,
}

impl Signature {
    /// Follows symbolic links. `None` when there is nothing (or nothing that may be seen) there.
    pub fn of(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().as_ref().map(Self::from)
    }
}

impl From<&fs::Metadata> for Signature {
    fn from(data: &fs::Metadata) -> Self {
        let ns = |s: i64, n: i64| i128::from(s) * 1_000_000_000 + i128::from(n);
        Self {
            dev: data.dev(),
            ino: data.ino(),
            // A directory's size says nothing that its times do not.
            size: if data.is_dir() { 0 } else { data.size() },
            mtime_ns: ns(data.mtime(), data.mtime_nsec()),
            ctime_ns: ns(data.ctime(), data.ctime_nsec()),
            mode: data.mode(),
        }
    }
}

/// A file that was read, or a path that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileInput {
    pub path: PathBuf,
    pub role: Role,
    /// `None`: there was nothing.
    pub signature: Option<Signature>,
    /// Of a file that was young when it was read: its content's digest. Of a head: that of its bytes.
    /// Of a probed symbolic link: the digest of its target.
    pub content: Option<[u8; 32]>,
}

/// Why a file is in the trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Its content was read.
    Content,
    /// Byte code that was missing or outdated when its source was compiled. It may come into being
    /// or change, as it is written from the very source (`mtime` in seconds, `size`) that was
    /// compiled then, or else is not looked at.
    UnusedByteCode { source: [u32; 2] },
    /// A source of which only so many bytes have been executed: what follows may be another.
    Head { length: u64 },
    /// Only its being there, and of what kind, was asked.
    Probe,
}

/// A directory in which names were looked up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirInput {
    pub path: PathBuf,
    pub signature: Option<Signature>,
    pub interest: Interest,
    /// Digest of those entries that `interest` covers.
    pub listing: [u8; 32],
}

/// Which entries of a directory matter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Interest {
    /// All of them.
    All,
    /// What an import of one of these names could find (`name`, `name.*`), and, with `dists`,
    /// what tells of installed distributions and start-up files.
    Names {
        names: BTreeSet<String>,
        dists: bool,
    },
}

impl Interest {
    fn covers(&self, entry: &[u8]) -> bool {
        match self {
            Self::All => true,
            Self::Names { names, dists } => {
                let stem = entry.split(|b| *b == b'.').next().unwrap_or(entry);
                if std::str::from_utf8(stem).is_ok_and(|stem| names.contains(stem)) {
                    return true;
                }
                *dists
                    && [
                        b".dist-info".as_slice(),
                        b".egg-info",
                        b".egg-link",
                        b".egg",
                        b".pth",
                    ]
                    .iter()
                    .any(|end| entry.ends_with(end))
            }
        }
    }
}

impl FileInput {
    /// Takes the input's present state.
    pub fn take(path: PathBuf, role: Role) -> Self {
        // Of a head this decides, so an edit in between must show in the signature.
        let head = match role {
            Role::Head { length } => digest_of_head(&path, length).ok(),
            _ => None,
        };
        let signature = Signature::of(&path);
        let content = match signature {
            _ if role == Role::Probe => link_target(&path),
            _ if head.is_some() => head,
            Some(s)
                if role == Role::Content && now_ns() - s.ctime_ns.max(s.mtime_ns) < YOUNG_NS =>
            {
                digest(&path).ok()
            }
            _ => None,
        };
        Self {
            path,
            role,
            signature,
            content,
        }
    }

    pub(super) fn check(&mut self, now: i128) -> Result<(), Mismatch> {
        let changed =
            |path: &Path, what: &str| Err(Mismatch::Stale(format!("`{}` {what}", path.display())));
        let found = Signature::of(&self.path);
        if let (Role::Head { length }, Some(before)) = (self.role, self.signature) {
            let is_old = now - before.ctime_ns.max(before.mtime_ns) > YOUNG_NS;
            if found == Some(before) && is_old {
                return Ok(());
            }
            return match digest_of_head(&self.path, length).ok() {
                head if head == self.content => Ok(()),
                None if is_being_saved(&self.path, now) => Err(Mismatch::Unsettled(format!(
                    "`{}` is just being saved",
                    self.path.display()
                ))),
                _ => changed(&self.path, "changed in what is executed of it"),
            };
        }
        match (self.role, self.signature, found) {
            (Role::Probe, before, after) => {
                let kind = |s: Option<Signature>| s.map(|s| s.mode & libc::S_IFMT);
                if kind(before) != kind(after) || link_target(&self.path) != self.content {
                    return changed(&self.path, "came or went");
                }
            }
            (Role::UnusedByteCode { .. }, _, None) => {}
            (Role::UnusedByteCode { source }, _, Some(_)) => match Header::of(&self.path) {
                // Plain pytest has written it since, for the source that was compiled.
                Header::Time(stands_for) if stands_for == source => {
                    self.signature = found;
                    self.role = Role::Content;
                }
                // Python compares it with the source itself, and compiles that.
                Header::Time(_) | Header::Hash | Header::Other => {}
                Header::Trusted => return changed(&self.path, "stands for another source"),
            },
            (_, None, None) => {}
            (_, Some(_), None) => return changed(&self.path, "is gone"),
            (_, None, Some(_)) => return changed(&self.path, "is new"),
            (_, Some(before), Some(after)) if before != after => {
                return changed(&self.path, "changed");
            }
            (_, Some(before), Some(_)) => {
                if let Some(content) = self.content {
                    if digest(&self.path).ok() != Some(content) {
                        return changed(&self.path, "changed");
                    }
                    if now - before.ctime_ns.max(before.mtime_ns) > YOUNG_NS {
                        self.content = None;
                    }
                }
            }
        }
        Ok(())
    }
}

impl DirInput {
    pub fn take(path: PathBuf, interest: Interest) -> Self {
        let signature = Signature::of(&path);
        let listing = listing(&path, &interest);
        Self {
            path,
            signature,
            interest,
            listing,
        }
    }

    pub(super) fn check(&mut self, now: i128) -> Result<(), Mismatch> {
        let found = Signature::of(&self.path);
        let settled = found.is_none_or(|s| now - s.ctime_ns.max(s.mtime_ns) > YOUNG_NS);
        if found == self.signature && settled {
            return Ok(());
        }
        if found.is_some() != self.signature.is_some()
            || listing(&self.path, &self.interest) != self.listing
        {
            return Err(Mismatch::Stale(format!(
                "`{}` has other entries",
                self.path.display()
            )));
        }
        self.signature = found;
        Ok(())
    }
}

/// Digest of the entries that matter, with what each is: also behind a link.
fn listing(path: &Path, interest: &Interest) -> [u8; 32] {
    let mut entries: Vec<(Vec<u8>, [u32; 2])> = match fs::read_dir(path) {
        Ok(found) => found
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let name = entry.file_name().into_vec();
                if !interest.covers(&name) {
                    return None;
                }
                let kind = |data: io::Result<fs::Metadata>| {
                    data.map_or(0, |data| data.mode() & libc::S_IFMT)
                };
                Some((
                    name,
                    [kind(entry.metadata()), kind(fs::metadata(entry.path()))],
                ))
            })
            .collect(),
        Err(_) => Vec::new(),
    };
    entries.sort();
    let mut hasher = blake3::Hasher::new();
    for (name, kinds) in entries {
        hasher.update(&name);
        hasher.update(&[0]);
        for kind in kinds {
            hasher.update(&kind.to_le_bytes());
        }
    }
    *hasher.finalize().as_bytes()
}

/// How byte code tells which source it stands for (PEP 552).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Header {
    /// The source's `mtime` in seconds and `size`.
    Time([u32; 2]),
    /// A hash of the source, which is compared.
    Hash,
    /// It is taken as it is.
    Trusted,
    /// It is none, or cannot be read.
    Other,
}

impl Header {
    fn of(path: &Path) -> Self {
        use std::io::Read;
        let mut header = [0u8; 16];
        let read = fs::File::open(path).and_then(|mut file| file.read_exact(&mut header));
        if read.is_err() {
            return Self::Other;
        }
        let word = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        match word(4) {
            0 => Self::Time([word(8), word(12)]),
            1 => Self::Trusted,
            3 => Self::Hash,
            _ => Self::Other,
        }
    }
}

/// Whether Python would use this byte code for a source of this `mtime` in seconds and `size`,
/// without a look at the source's content.
pub fn is_used_byte_code(path: &Path, source: [u32; 2]) -> bool {
    match Header::of(path) {
        Header::Time(stands_for) => stands_for == source,
        Header::Trusted => true,
        Header::Hash | Header::Other => false,
    }
}

/// Digest of where a symbolic link points to; `None` if it is none.
fn link_target(path: &Path) -> Option<[u8; 32]> {
    let target = fs::read_link(path).ok()?;
    Some(*blake3::hash(target.as_os_str().as_bytes()).as_bytes())
}

/// Digest of a file's content.
fn digest(path: &Path) -> io::Result<[u8; 32]> {
    Ok(*blake3::hash(&fs::read(path)?).as_bytes())
}

/// How long a file may be missing or too short before that is taken for what it is: who saves one
/// puts it aside, or empties it first. An empty one is waited for longer, as hardly anybody means that,
/// and who has emptied it may have to wait for a processor (seen with four tests at a time on four processors).
const SAVING: Duration = Duration::from_millis(20);
const EMPTIED: Duration = Duration::from_millis(250);

/// Whether this file, or what lies beside it if it is gone, has changed just now.
fn is_being_saved(path: &Path, now: i128) -> bool {
    let file = Signature::of(path);
    let is_empty = file.is_some_and(|file| file.size == 0);
    let patience = if is_empty { EMPTIED } else { SAVING };
    let there = file.or_else(|| Signature::of(path.parent()?));
    let since = there.map(|there| now - there.ctime_ns);
    since.is_some_and(|since| since < patience.as_nanos() as i128)
}

/// Digest of its first bytes, if there are so many.
fn digest_of_head(path: &Path, length: u64) -> io::Result<[u8; 32]> {
    let text = fs::read(path)?;
    let head = usize::try_from(length)
        .ok()
        .and_then(|length| text.get(..length));
    let head = head.ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(*blake3::hash(head).as_bytes())
}

/// Nanoseconds since the epoch, by the clock that stamps files.
pub fn now_ns() -> i128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_nanos() as i128)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("input");
        fs::write(&path, text).unwrap();
        (dir, path)
    }

    #[test]
    fn an_unchanged_file_holds() {
        let (_dir, path) = file("one");
        let mut input = FileInput::take(path, Role::Content);
        assert_eq!(input.check(now_ns()), Ok(()));
    }

    #[test]
    fn a_rewrite_of_the_same_size_and_time_is_seen() {
        let (_dir, path) = file("one");
        let mut input = FileInput::take(path.clone(), Role::Content);
        let when = fs::metadata(&path).unwrap().modified().unwrap();
        fs::write(&path, "two").unwrap();
        fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(when)
            .unwrap();
        assert!(input.check(now_ns()).is_err());
    }

    #[test]
    fn a_young_file_is_compared_by_content_until_it_is_old() {
        let (_dir, path) = file("one");
        let mut input = FileInput::take(path.clone(), Role::Content);
        assert!(input.content.is_some());
        assert_eq!(input.check(now_ns() + 3 * YOUNG_NS), Ok(()));
        assert!(input.content.is_none());
    }

    #[test]
    fn of_a_head_only_its_own_bytes_count() {
        let (_dir, path) = file("import one\nX = 1\n");
        let mut input = FileInput::take(path.clone(), Role::Head { length: 11 });
        for holds in ["import one\nX = 22\n", "import one\n"] {
            fs::write(&path, holds).unwrap();
            assert_eq!(input.check(now_ns()), Ok(()), "{holds}");
        }
        for other in ["import two\nX = 1\n", "import one"] {
            fs::write(&path, other).unwrap();
            assert!(input.check(now_ns()).is_err(), "{other}");
        }
        // What is being saved is emptied first, or put aside.
        let what_it_is = |input: &mut FileInput, later: Duration| {
            let then = Signature::of(&path).or_else(|| Signature::of(path.parent()?));
            input.check(then.unwrap().ctime_ns + later.as_nanos() as i128)
        };
        let is_unsettled = |found| matches!(found, Err(Mismatch::Unsettled(_)));
        let is_stale = |found| matches!(found, Err(Mismatch::Stale(_)));
        fs::write(&path, "").unwrap();
        assert!(is_unsettled(what_it_is(&mut input, EMPTIED / 2)));
        assert!(is_stale(what_it_is(&mut input, EMPTIED)));
        fs::write(&path, "import one\nX = 3\n").unwrap();
        assert_eq!(what_it_is(&mut input, Duration::ZERO), Ok(()));
        fs::remove_file(&path).unwrap();
        assert!(is_unsettled(what_it_is(&mut input, SAVING / 2)));
        assert!(is_stale(what_it_is(&mut input, SAVING)));
    }

    #[test]
    fn an_unrelated_entry_does_not_matter_and_a_shadowing_one_does() {
        let dir = tempfile::tempdir().unwrap();
        let interest = Interest::Names {
            names: ["numpy".to_string()].into(),
            dists: true,
        };
        let mut input = DirInput::take(dir.path().into(), interest);
        fs::write(dir.path().join("other.py"), "").unwrap();
        assert_eq!(input.check(now_ns()), Ok(()));
        std::thread::sleep(Duration::from_millis(1));
        fs::write(dir.path().join("numpy.py"), "").unwrap();
        assert!(input.check(now_ns()).is_err());
    }

    #[test]
    fn a_new_distribution_matters() {
        let dir = tempfile::tempdir().unwrap();
        let interest = Interest::Names {
            names: BTreeSet::new(),
            dists: true,
        };
        let mut input = DirInput::take(dir.path().into(), interest);
        fs::create_dir(dir.path().join("x-1.0.dist-info")).unwrap();
        assert!(input.check(now_ns()).is_err());
    }

    #[test]
    fn byte_code_may_appear_for_the_source_that_was_compiled() {
        let (_dir, path) = file("");
        fs::remove_file(&path).unwrap();
        let role = Role::UnusedByteCode { source: [7, 9] };
        let mut input = FileInput::take(path.clone(), role);
        assert_eq!(input.check(now_ns()), Ok(()));
        let pyc = |flags: u8, mtime: u32, size: u32| {
            let mut bytes = vec![1, 2, 3, 4, flags, 0, 0, 0];
            bytes.extend(mtime.to_le_bytes());
            bytes.extend(size.to_le_bytes());
            bytes
        };
        // Outdated, compared by a hash, and gone again: the source is compiled each time.
        for bytes in [pyc(0, 7, 8), pyc(3, 1, 2), Vec::new()] {
            fs::write(&path, bytes).unwrap();
            assert_eq!(input.check(now_ns()), Ok(()));
        }
        fs::write(&path, pyc(1, 1, 2)).unwrap();
        assert!(input.check(now_ns()).is_err());
        fs::write(&path, pyc(0, 7, 9)).unwrap();
        assert_eq!(input.check(now_ns()), Ok(()));
        // From here on it is used.
        fs::write(&path, pyc(0, 7, 8)).unwrap();
        assert!(input.check(now_ns()).is_err());
    }
}
