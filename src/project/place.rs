//! Where a daemon's socket, lock and log live, and making that place safely.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Result};

/// The longest path that fits into a Unix socket's address with its final zero byte (`unix(7)`).
const SOCKET_PATH_LIMIT: usize = 107;

/// A socket's name below the runtime directory: a separator, 32 hex digits, `.sock`.
const SOCKET_NAME: usize = 1 + 32 + 5;

/// The files of one daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub socket: PathBuf,
    pub lock: PathBuf,
    /// Without a cache directory there is neither log nor memory of what was learned.
    pub log: Option<PathBuf>,
    pub learned: Option<PathBuf>,
}

impl Place {
    /// The files of the daemon with this key. Makes the runtime directory, not the cache.
    pub fn of(key: &str, env: &dyn Fn(&str) -> Option<OsString>) -> Result<Self> {
        let runtime = runtime_dir(env)?;
        let cache = cache_dir(env);
        let cached = |suffix: &str| Some(cache.as_ref()?.join(format!("{key}.{suffix}")));
        Ok(Self {
            socket: runtime.join(format!("{key}.sock")),
            lock: runtime.join(format!("{key}.lock")),
            log: cached("log"),
            learned: cached("json"),
        })
    }
}

/// The directory of the sockets, made if it is not there, and safe to use.
pub fn runtime_dir(env: &dyn Fn(&str) -> Option<OsString>) -> Result<PathBuf> {
    let user = nix::unistd::geteuid().as_raw();
    let dir =
        session_dir(env, user).unwrap_or_else(|| PathBuf::from(format!("/tmp/pyseidon-{user}")));
    make_private(&dir, user)?;
    Ok(dir)
}

/// `$XDG_RUNTIME_DIR/pyseidon`, if the variable names a directory of this user: after `su` or in
/// a container it often names another user's, or none. And if a socket's path below it fits.
fn session_dir(env: &dyn Fn(&str) -> Option<OsString>, user: u32) -> Option<PathBuf> {
    let base = PathBuf::from(env("XDG_RUNTIME_DIR")?);
    let found = fs::metadata(&base).ok()?;
    let dir = base.join("pyseidon");
    (base.is_absolute()
        && found.is_dir()
        && found.uid() == user
        && dir.as_os_str().as_bytes().len() + SOCKET_NAME <= SOCKET_PATH_LIMIT)
        .then_some(dir)
}

/// Sees to it that `dir` is a directory of ours that nobody else may enter.
///
/// In `/tmp` everybody can make something of that name first. Once it is ours, the sticky bit
/// keeps others from replacing it, so looking before each use is enough.
fn make_private(dir: &Path, user: u32) -> Result<()> {
    let found = match fs::symlink_metadata(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            match DirBuilder::new().mode(0o700).create(dir) {
                // The caller's umask may have taken bits that we need ourselves.
                Ok(()) => fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
                    .doing(|| format!("opening `{}` to its owner", dir.display()))?,
                // Somebody was faster: it must stand the same test.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(error).doing(|| format!("cannot make `{}`", dir.display()));
                }
            }
            fs::symlink_metadata(dir)
        }
        other => other,
    }
    .doing(|| format!("cannot look at `{}`", dir.display()))?;
    let elsewhere = "remove it, or name another directory of yours in `XDG_RUNTIME_DIR`";
    let (why, hint) = if !found.is_dir() {
        ("it is not a directory".to_string(), elsewhere.to_string())
    } else if found.uid() != user {
        let owner = found.uid();
        (format!("it belongs to user `{owner}`"), elsewhere.into())
    } else if found.mode() & 0o777 != 0o700 {
        let mode = found.mode() & 0o777;
        (
            format!("its mode is `{mode:03o}`, not `700`"),
            format!("`chmod 700 {}`", dir.display()),
        )
    } else {
        return Ok(());
    };
    Err(Error::Unsafe {
        path: dir.into(),
        why,
        hint,
    })
}

/// `$XDG_CACHE_HOME/pyseidon` or `~/.cache/pyseidon`; `None` without a home. Not made here.
pub fn cache_dir(env: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let absolute = |name: &str| {
        env(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(base.join("pyseidon"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn me() -> u32 {
        nix::unistd::geteuid().as_raw()
    }

    fn why(dir: &Path) -> String {
        make_private(dir, me()).unwrap_err().to_string()
    }

    #[test]
    fn a_new_directory_is_private_and_stays_usable() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("new");
        make_private(&dir, me()).unwrap();
        assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o7777, 0o700);
        make_private(&dir, me()).unwrap();
    }

    #[test]
    fn a_symlink_is_not_followed() {
        let base = tempfile::tempdir().unwrap();
        let target = base.path().join("target");
        make_private(&target, me()).unwrap();
        let link = base.path().join("link");
        symlink(&target, &link).unwrap();
        assert!(why(&link).contains("not a directory"));
    }

    #[test]
    fn a_wrong_mode_or_owner_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("open");
        make_private(&dir, me()).unwrap();
        let refused = make_private(&dir, me() + 1).unwrap_err().to_string();
        assert!(refused.contains("belongs to user"), "{refused}");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o750)).unwrap();
        assert!(why(&dir).contains("its mode is `750`"));
        let hint = format!("\n\nhint: `chmod 700 {}`", dir.display());
        assert!(why(&dir).ends_with(&hint));
        assert!(refused.contains("hint: remove it, or"), "{refused}");
        let file = base.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(why(&file).contains("not a directory"));
    }

    #[test]
    fn only_a_session_directory_of_ours_is_used() {
        let base = tempfile::tempdir().unwrap();
        let within = |path: PathBuf, user| session_dir(&|_: &str| Some(path.clone().into()), user);
        let ours = within(base.path().into(), me());
        assert_eq!(ours, Some(base.path().join("pyseidon")));
        assert_eq!(within(base.path().into(), me() + 1), None);
        assert_eq!(within(base.path().join("gone"), me()), None);
        assert_eq!(within(".".into(), me()), None);
        let long = base.path().join("a".repeat(90));
        fs::create_dir(&long).unwrap();
        assert_eq!(within(long, me()), None);
    }

    #[test]
    fn relative_cache_directories_are_ignored() {
        let env = |name: &str| match name {
            "XDG_CACHE_HOME" => Some("cache".into()),
            "HOME" => Some("/home/me".into()),
            _ => None,
        };
        assert_eq!(cache_dir(&env), Some("/home/me/.cache/pyseidon".into()));
        assert_eq!(cache_dir(&|_: &str| None), None);
    }
}
