//! Pyseidon keeps Python processes that have already imported what a pytest run needs, and forks
//! one for each run.
//!
//! ```text
//!  pyseidon-test ──Run──▶ pyseidon-daemon ──Order──▶ zygote (the user's python) ──fork──▶ worker
//!       ▲                        │                      │  ▲                                │
//!       │                        └── trace, watcher     │  └── fork ── deeper zygote        │
//!       └────────── Started, Stopped, Ended ────────────┴────────────────────────────────────┘
//! ```
//!
//! The client and the daemon hold no Python; only a zygote does (the crate in `src/zygote`, with
//! its Python half in `pytest_plugin/pyseidon`). They start each other as processes and share
//! this library's lower modules:
//!
//! - [`error`]: what a user reads, exit statuses
//! - [`trace`]: what a checkpoint was built from, and the check of it
//! - [`protocol`]: every message
//! - [`transport`]: frames and descriptors over Unix sockets
//! - [`process`]: signals to processes, and what tells of their ends
//! - [`project`]: which project, which Python, where the socket lives
//! - [`reach`]: connecting to a daemon, starting one
//! - [`client`]: hands a run over, relays signals, ends as the run ended; or runs plain pytest
//! - [`daemon`]: owns the checkpoints, checks them, chooses
//!
//! A module uses only those above it; `client` and `daemon` do not know each other.
//!
//! All that is for Linux. On other systems `pyseidon-test` is plain pytest: `client`, `daemon` and
//! `project` are small files there, five modules are missing. `--cfg pyseidon_portable` (see the
//! Makefile) has Linux compile just that.

#[cfg(not(unix))]
compile_error!("Pyseidon is for Unix: use plain pytest here");

#[cfg_attr(
    not(all(target_os = "linux", not(pyseidon_portable))),
    path = "client/elsewhere.rs"
)]
pub mod client;
#[cfg_attr(
    not(all(target_os = "linux", not(pyseidon_portable))),
    path = "daemon/elsewhere.rs"
)]
pub mod daemon;
pub mod error;
#[cfg(all(target_os = "linux", not(pyseidon_portable)))]
pub mod process;
#[cfg_attr(
    not(all(target_os = "linux", not(pyseidon_portable))),
    path = "project/script.rs"
)]
pub mod project;
#[cfg(all(target_os = "linux", not(pyseidon_portable)))]
pub mod protocol;
#[cfg(all(target_os = "linux", not(pyseidon_portable)))]
pub mod reach;
#[cfg(all(target_os = "linux", not(pyseidon_portable)))]
pub mod trace;
#[cfg(all(target_os = "linux", not(pyseidon_portable)))]
pub mod transport;
