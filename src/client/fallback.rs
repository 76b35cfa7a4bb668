//! Plain pytest: this process becomes it.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::error::exit;

pub(super) struct Plain<'a> {
    pub(super) script: PathBuf,
    pub(super) argv: &'a [Vec<u8>],
}

impl Plain<'_> {
    /// Runs the script as a shell would. Returns only if that fails: the exit status.
    pub(super) fn exec(&self, reason: Option<&str>) -> i32 {
        if let Some(reason) = reason {
            say(&format!("running plain pytest: {}", one_line(reason)));
        }
        let script = self.script.as_os_str().as_bytes();
        let words: Result<Vec<CString>, _> = std::iter::once(script)
            .chain(self.argv.iter().map(Vec::as_slice))
            .map(CString::new)
            .collect();
        // They came as C strings.
        let words = words.expect("arguments hold no zero byte");
        let Err(error) = nix::unistd::execv(&words[0], &words);
        say(&format!(
            "error: cannot run `{}`: {}",
            self.script.display(),
            std::io::Error::from(error)
        ));
        match error {
            nix::Error::ENOENT => exit::NOT_FOUND,
            _ => exit::FAILED,
        }
    }
}

/// Whatever somebody else's reason holds.
fn one_line(reason: &str) -> String {
    let joined = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    match reason.split_once("\n\nhint: ") {
        Some((why, hint)) => format!("{} (hint: {})", joined(why), joined(hint)),
        None => joined(reason),
    }
}

/// Writes a line to stderr: silently nothing, if nobody can read it.
pub(super) fn say(text: &str) {
    let line = format!("pyseidon: {text}\n");
    // A reader that is gone would end us by SIGPIPE, where plain pytest, whose Python ignores it,
    // goes on. Ours is taken away again so that pytest does not find it pending.
    // SAFETY: all calls get valid pointers to locals; the mask is put back.
    unsafe {
        let mut pipe: libc::sigset_t = std::mem::zeroed();
        let mut before = pipe;
        let mut pending = pipe;
        libc::sigemptyset(&mut pipe);
        libc::sigaddset(&mut pipe, libc::SIGPIPE);
        libc::sigpending(&mut pending);
        libc::sigprocmask(libc::SIG_BLOCK, &pipe, &mut before);
        let mut rest = line.as_bytes();
        while !rest.is_empty() {
            match libc::write(2, rest.as_ptr().cast(), rest.len()) {
                count if count > 0 => rest = &rest[count as usize..],
                -1 if nix::Error::last() == nix::Error::EINTR => {}
                _ => break,
            }
        }
        let ours = libc::sigismember(&pending, libc::SIGPIPE) == 0;
        libc::sigpending(&mut pending);
        if ours && libc::sigismember(&pending, libc::SIGPIPE) == 1 {
            libc::sigwait(&pipe, &mut 0);
        }
        libc::sigprocmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
    }
}
