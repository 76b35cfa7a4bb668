//! Every message between the processes, and who says it when.
//!
//! ```text
//!  client                        daemon                        zygote                  worker
//!    │──── connect ────────────────▶│                             │                       │
//!    │                              │◀─── Notice::Waiting ────────│──── fork ────────────▶│
//!    │◀─── Hello ───────────────────│                             │                       │
//!    │──── Request::Run + fds ─────▶│ check traces, choose        │                       │
//!    │                              │──── Order::Serve + fds ────▶│─ Order::Serve + fds ─▶│
//!    │◀─── Reply::Started ──────────┼─────────────────────────────┼───────────────────────│ enters pytest
//!    │                              │◀─── Notice::Entered ────────│                       │
//!    │──── Relay::Signal ───────────┼────────────────────────────▶│──── kill(-pgid) ─────▶│
//!    │◀─── Reply::Stopped ──────────┼─────────────────────────────│◀─── stopped ──────────│
//!    │◀─── Reply::Ended ────────────┼─────────────────────────────│◀─── waitid ───────────│
//!    │                              │◀─── Notice::Ended ──────────│                       │
//! ```
//!
//! The descriptors of `Run` are the connection itself (added by the daemon), the caller's working
//! directory, then the caller's own descriptors. With them the zygote speaks to the client by
//! itself, so a daemon that dies does not hurt a run that has begun. `Started` is written by the
//! worker, as the last thing before it enters pytest: a client that has not read it may fall back
//! to plain pytest, a client that has read it may not.
//!
//! Instead of `Started` the daemon may answer `Plain` (run pytest yourself) or `Retire` (this
//! daemon is of another build and is going: start a new one).
//!
//! On the wire a message is a frame: its length as a little-endian `u32`, the number of its
//! descriptors as a little-endian `u32`, and its body in postcard. Descriptors travel with the
//! first byte of the frame.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::trace::Trace;

/// Changes with any change of a message.
pub const VERSION: u32 = 1;

/// The largest body. Linux lets arguments and environment take 6 MiB together (`execve(2)`).
pub const BODY_LIMIT: usize = 16 << 20;

/// The most descriptors in one frame: `SCM_MAX_FD` of the kernel.
pub const FDS_LIMIT: usize = 253;

/// The first thing a daemon says on every connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub version: u32,
    pub pid: i32,
}

/// All that a process inherits, as the caller would have handed it to pytest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The `pytest` script: `sys.argv[0]`.
    pub script: Vec<u8>,
    /// The interpreter that the script's first line names, and the options there.
    pub python: Vec<u8>,
    pub python_options: Vec<Vec<u8>>,
    /// Arguments after the script.
    pub argv: Vec<Vec<u8>>,
    /// `NAME=value`, in the caller's order.
    pub env: Vec<Vec<u8>>,
    pub cwd: Vec<u8>,
    /// The numbers of the caller's descriptors, in the order in which they are sent.
    pub fds: Vec<i32>,
    pub umask: u32,
    /// `(resource, soft, hard)`.
    pub rlimits: Vec<(u32, u64, u64)>,
    /// The CPUs the caller may use, as `sched_getaffinity` gives them.
    pub affinity: Vec<u8>,
    /// Signals that the caller ignores, and those it blocks: bit `n - 1` stands for signal `n`.
    pub ignored: u64,
    pub blocked: u64,
    /// The caller leads its session: so must the worker.
    pub session_leader: bool,
}

impl Run {
    /// The value of an environment variable: the first of that name, as `getenv` has it.
    pub fn getenv(&self, name: &[u8]) -> Option<&[u8]> {
        self.env.iter().find_map(|entry| {
            let rest = entry.strip_prefix(name)?;
            rest.strip_prefix(b"=")
        })
    }
}

/// Client to daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Descriptors: the working directory, then `Run::fds`.
    Run(Box<Run>),
    /// Answered by `Reply::Status`.
    Status,
    /// Answered by `Reply::Explained`.
    Explain(Box<Question>),
    /// Answered by `Reply::Distrusted`.
    Distrust(Distrust),
    /// Take nothing new, let go of what waits, exit. Answered by `Reply::Done` as the last thing:
    /// what has not to see a run to its end is gone then.
    Stop,
}

/// Client to zygote, once the run has started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Relay {
    /// To be sent to the worker's process group.
    Signal(i32),
}

/// To the client, from the daemon, the worker or the zygote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Run plain pytest; say why if there is something to say.
    Plain {
        reason: Option<String>,
    },
    /// This daemon belongs to another build and takes no more runs.
    Retire,
    /// From the worker: it enters pytest now.
    Started {
        pid: i32,
    },
    /// The worker was stopped by this signal, when so many of [`Relay`] had been passed on to it.
    Stopped {
        signal: i32,
        relayed: u64,
    },
    /// The run is over: the raw wait status.
    Ended {
        status: i32,
    },
    /// A JSON document (see [`crate::daemon::status`]).
    Status(String),
    /// A JSON document as well.
    Explained(String),
    /// Whether anything has changed, and all modules that are distrusted.
    Distrusted(bool, Vec<String>),
    Done,
}

/// A module that no checkpoint is to hold; or, undone, may hold again. Without one it is only asked
/// which there are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Distrust {
    pub module: Option<String>,
    pub undo: bool,
}

/// What is to be explained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The most expensive loads that are wanted of each checkpoint.
    pub loads: u32,
    /// Not everything, but what runs with these arguments are served from.
    pub of: Option<Asked>,
}

/// A run as far as it decides which checkpoint serves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    pub argv: Vec<Vec<u8>>,
    pub env: Vec<Vec<u8>>,
    pub cwd: Vec<u8>,
    /// Whether descriptors 0, 1, 2 are terminals.
    pub tty: [bool; 3],
}

/// Daemon to zygote; `Serve` from there to the standby.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Become a zygote that starts as this run does. Neither it nor what is forked from it may hold
    /// a module that is distrusted.
    Begin {
        run: Box<Run>,
        distrusted: Vec<String>,
    },
    /// Have a child become the worker of this run.
    /// Descriptors: the client's connection, the working directory, `Run::fds`.
    Serve { id: u64, run: Box<Run> },
    /// Fork a deeper checkpoint that goes on as this run would.
    /// Descriptors: its control channel, the file for its output, the working directory.
    Grow {
        run: Box<Run>,
        /// That of the deeper one: one that is parked in the midst of conftests may be asked to go
        /// on to their end, or for what can only be grown from there.
        level: String,
        /// To park here instead of at the usual place.
        before: Option<Before>,
    },
    /// Keep no standby before the next run.
    Rest,
}

/// Where a checkpoint is to park, as what follows cannot be part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    /// As in [`Culprit`].
    pub what: String,
    pub reason: String,
}

/// Up to where a checkpoint may be grown that could not be grown all the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Culprit {
    /// Of a P0: the name of the entry point that was being loaded. Of a Z2: the last place before
    /// the barrier at which it can park, as `stops.py` calls it; or [`UNKNOWN`].
    pub what: String,
    /// If one of these changes, it may be grown further.
    pub files: Vec<PathBuf>,
}

/// Of a [`Culprit`]: a checkpoint that is to park here looks at each place whether what the former
/// one has found at the end is there already, and fails with the place before.
pub const UNKNOWN: &str = "?";

/// The reason of a [`Notice::Failed`] that is as it should be: of `--version`, of wrong usage.
pub const ENDED_EARLY: &str = "pytest ended before it could be parked";

/// Zygote to daemon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Notice {
    /// The first word of a process that builds: who is to be ended if it never parks.
    Building {
        pid: i32,
    },
    /// Ready to fork.
    Parked(Box<Parked>),
    /// Could not get to where it was to park. The trace says what to wait for.
    Failed {
        reason: String,
        culprit: Option<Culprit>,
        trace: Box<Trace>,
    },
    /// A child was forked ahead, for the next run.
    Waiting {
        pid: i32,
    },
    /// This run has a worker: one that waited, or one that was forked for it.
    Forked {
        id: u64,
        pid: i32,
    },
    /// The worker of this run has entered pytest.
    Entered {
        id: u64,
        pid: i32,
    },
    /// The worker found that this checkpoint does not stand for the run; nothing was run.
    Refused {
        id: u64,
        reason: String,
    },
    /// There is no worker, or it ended before it entered pytest, through no fault of the
    /// checkpoint: its client left, it was killed, the machine could not fork, a file that it was to
    /// go on in cannot be compiled.
    Died {
        id: u64,
        reason: String,
    },
    Ended(Box<Ended>),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Parked {
    pub pid: i32,
    /// What it holds, in words: `pytest 8.3.4`, `6 plugins: …`.
    pub holds: String,
    pub trace: Trace,
    /// An input changed while it was being read: not to be used, build again.
    pub unsettled: Option<String>,
    /// Why it is not deeper, if it could have been.
    pub shallow: Option<String>,
    /// Of a Z2: files of the project that it has executed, in order, and the place before each (of a
    /// conftest: behind its last import) at which another one can be parked.
    pub places: Vec<(PathBuf, String)>,
    /// Of a Z2: the place in its midst at which one serves best after an edit of whichever file,
    /// and the seconds that it is expected to spare then.
    pub opening: Option<(String, f64)>,
    /// Seconds from its start to here.
    pub seconds: f64,
    /// How many modules are in `sys.modules`.
    pub modules: u32,
    pub loads: Loads,
}

/// What a build loaded, module by module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loads {
    /// Whether anybody looked: the build of a Z0 is not watched so closely.
    pub watched: bool,
    /// In the order in which they began.
    pub made: Vec<Load>,
    /// The cheapest ones, of which only the number is known, and the microseconds that they took
    /// without what they loaded in turn.
    pub left_out: u32,
    pub left_out_own: u64,
}

/// The loading of one module. Times are microseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    pub name: String,
    /// How many others were being loaded at that moment.
    pub depth: u16,
    /// Since the build's start.
    pub start: u32,
    /// With what it loaded in turn, and without.
    pub took: u32,
    pub own: u32,
    pub end: LoadEnd,
}

/// What became of a module that was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LoadEnd {
    /// It is in `sys.modules`.
    Held,
    /// It was, and somebody has taken it away: its own code, or we, to hide it until a run asks.
    Away,
    /// It was not found, or its code raised.
    Failed,
}

impl Loads {
    /// What all of them took, without counting anything twice.
    pub fn own_micros(&self) -> u64 {
        let made = self.made.iter().map(|load| u64::from(load.own));
        made.sum::<u64>() + self.left_out_own
    }

    /// Leaves out all but the `most` that took longest. As nothing takes longer than what has
    /// loaded it, what is left is a tree as before.
    pub fn keep(&mut self, most: usize) {
        if self.made.len() <= most {
            return;
        }
        let mut longest: Vec<usize> = (0..self.made.len()).collect();
        // Of equals the outer one, which began first, stays.
        longest.sort_by_key(|at| (std::cmp::Reverse(self.made[*at].took), *at));
        let mut is_kept = vec![false; self.made.len()];
        for at in &longest[..most] {
            is_kept[*at] = true;
        }
        let mut at = 0;
        self.made.retain(|load| {
            let kept = is_kept[at];
            at += 1;
            if !kept {
                self.left_out += 1;
                self.left_out_own += u64::from(load.own);
            }
            kept
        });
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    pub id: u64,
    pub status: i32,
    /// How the interpreter was left: see [`ExitPath`].
    pub exit: ExitPath,
    /// Seconds from the order until the worker is the caller's process, from there through pytest
    /// (its reading of the arguments included), and from there to the end.
    pub seconds: [f64; 3],
    /// What the run imported, in order: module names.
    pub imports: Vec<String>,
    pub ahead: Ahead,
}

/// What became of an import that was made before the fork.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ahead {
    /// There was none, or the run did not come to it.
    Nothing,
    Adopted,
    /// The run made it itself: why.
    Natural(String),
}

/// How a worker left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitPath {
    /// Thread shutdown, atexit handlers, flush, `exit`.
    Short,
    /// Full finalisation of the interpreter.
    Full,
    /// It did not come to an orderly end (`os._exit`, a signal, `exec`).
    Abrupt,
}

/// The daemon's first and only word to the process that started it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Readiness {
    /// It listens.
    Ready,
    /// Another daemon holds this project.
    AlreadyRunning,
    /// It could not start: why.
    Failed(String),
}

/// Encodes a message's body.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    postcard::to_stdvec(message).expect("messages hold only what postcard can encode")
}

/// Decodes a message's body.
pub fn decode<'a, T: Deserialize<'a>>(body: &'a [u8]) -> crate::error::Result<T> {
    postcard::from_bytes(body).map_err(|_| crate::error::Error::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(name: &str, depth: u16, took: u32, own: u32) -> Load {
        Load {
            name: name.into(),
            depth,
            start: 0,
            took,
            own,
            end: LoadEnd::Held,
        }
    }

    #[test]
    fn what_is_left_of_loads_is_a_tree_and_the_rest_is_counted() {
        let mut loads = Loads {
            watched: true,
            made: vec![
                load("a", 0, 50, 10),
                load("a.b", 1, 40, 40),
                load("c", 0, 20, 5),
                load("d", 1, 15, 0),
                load("e", 2, 15, 15),
            ],
            ..Loads::default()
        };
        let all = loads.own_micros();
        for most in [5, 4, 2, 0] {
            loads.keep(most);
            assert_eq!(loads.made.len(), most);
            assert_eq!(loads.left_out as usize, 5 - most);
            assert_eq!(loads.own_micros(), all);
            let mut depth = -1;
            for it in &loads.made {
                assert!(i32::from(it.depth) <= depth + 1, "{most}: {:?}", loads.made);
                depth = i32::from(it.depth);
            }
        }
    }
}
