//! The client: hands a run over and becomes, to whoever watches it, the process that runs pytest.
//!
//! ```text
//!  capture what was inherited ─▶ connect (or start a daemon) ─▶ send the run
//!        │ asked for plain            │ fails                     │ Plain, silence, EOF
//!        ▼                            ▼                           ▼
//!      exec of the real `pytest`: the same process, as if we had never been
//!                                                                 │ Started
//!                                                                 ▼
//!                                        relay signals until Ended, end in the same way
//! ```
//!
//! - this file: the order of things, for `pyseidon-test` and for `pyseidon`
//! - [`start`]: what every run begins with: which `pytest`, and is it wanted warm
//! - [`inherit`]: what a process inherits
//! - [`relay`]: the conversation of one run, and signals meanwhile
//! - [`fallback`]: plain pytest
//! - `elsewhere`: stands in for this file on other systems than Linux
//!
//! Nothing is written to stdout, and no signal disposition, mask, descriptor or limit of this
//! process is different when plain pytest takes over.

use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Result, exit};
use crate::project::{Attributes, Caller, Environment, Place, key, runtime_dir};
use crate::reach::{Daemon, dial};
use fallback::say;
use inherit::Inherited;
use relay::Outcome;

mod fallback;
mod inherit;
mod relay;
mod start;

pub use start::arguments;

/// `pyseidon-test`: runs the environment's pytest warm, or plainly. Returns the exit status.
pub fn run_pytest(args: Vec<Vec<u8>>) -> i32 {
    start::run(&args, |caller, plain| {
        if caller.cwd.as_os_str().is_empty() {
            // Removed under the shell: pytest says so itself.
            return plain.exec(None);
        }
        let outcome = Environment::of(plain.script.clone(), caller)
            .map_err(Error::Other)
            .and_then(|environment| warm(&environment, caller, plain.argv));
        match outcome {
            Ok(Outcome::Plain(reason)) => plain.exec(reason.as_deref()),
            Ok(Outcome::Ended(status)) => end_as(status),
            Ok(Outcome::Lost) => lost("`pyseidon-daemon log` may say why"),
            Err(error) => plain.exec(Some(&error.to_string())),
        }
    })
}

/// `pyseidon`: runs something on the general server. Returns the exit status.
pub fn run_general(args: Vec<Vec<u8>>) -> i32 {
    let argv = args.get(1..).unwrap_or_default();
    let named = ["PYSEIDON_SOCKET", "POSEIDON_SOCK"]
        .iter()
        .find_map(|name| std::env::var_os(name).filter(|path| !path.is_empty()));
    let socket = match named {
        Some(path) => Ok(PathBuf::from(path)),
        None => {
            runtime_dir(&|name: &str| std::env::var_os(name)).map(|dir| dir.join("default.sock"))
        }
    };
    let outcome = socket.and_then(|socket| {
        let inherited = Inherited::capture(&Attributes::read()?)?;
        let cwd = std::env::current_dir().doing(|| "looking up the working directory".into())?;
        let Some(server) = dial(&socket)? else {
            let path = socket.display();
            return Err(Error::Other(format!(
                "no server listens on `{path}`\n\nhint: start one, or name its socket in `PYSEIDON_SOCKET`\nhint: to run tests, use `pyseidon-test`"
            )));
        };
        let run = inherited.run(None, argv, &cwd);
        let retired = || Error::Other("the server is stopping".into());
        relay::converse(server, run, &inherited)?.ok_or_else(retired)
    });
    match outcome {
        Ok(Outcome::Ended(status)) => end_as(status),
        Ok(Outcome::Lost) => lost("the server was stopped, or it crashed"),
        Ok(Outcome::Plain(reason)) => {
            let reason = reason.unwrap_or_else(|| "it gave no reason".into());
            say(&format!("error: the server refused the run: {reason}"));
            exit::FAILED
        }
        Err(error) => {
            say(&format!("error: {error}"));
            exit::FAILED
        }
    }
}

fn warm(environment: &Environment, caller: &Caller<'_>, argv: &[Vec<u8>]) -> Result<Outcome> {
    let attributes = Attributes::read()?;
    let inherited = Inherited::capture(&attributes)?;
    let cwd = caller.cwd;
    let binaries = caller.exe.parent().unwrap_or(Path::new("/"));
    let key = key(environment, cwd, binaries, &attributes);
    let place = Place::of(&key, caller.env)?;
    let daemon = Daemon {
        environment,
        key: &key,
        socket: &place.socket,
        script: cwd.join(&environment.script),
        program: binaries.join("pyseidon-daemon"),
    };
    // A daemon of another build retires and is gone then; the next one cannot be.
    for _ in 0..2 {
        let connection = match dial(daemon.socket)? {
            Some(connection) => connection,
            None => daemon.start()?,
        };
        let run = inherited.run(Some(environment), argv, cwd);
        if let Some(outcome) = relay::converse(connection, run, &inherited)? {
            return Ok(outcome);
        }
    }
    Err(Error::Other("the new daemon retired at once".into()))
}

/// Ends as the run ended: `status` is what `waitpid` said of it.
fn end_as(status: i32) -> i32 {
    if libc::WIFSIGNALED(status) {
        crate::process::die_by(libc::WTERMSIG(status));
    }
    libc::WEXITSTATUS(status)
}

/// The run began, and nobody is left who could say how it ended. It is never started again: it
/// may have done half of its work.
fn lost(hint: &str) -> i32 {
    say(&format!(
        "error: the run was cut off: the process that ran it is gone\n\nhint: {hint}"
    ));
    exit::FAILED
}
