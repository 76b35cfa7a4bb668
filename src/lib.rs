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
//! - [`process`]: signals to process groups, reaping
//! - [`project`]: which project, which Python, where the socket lives
//! - [`client`]: hands a run over, relays signals, ends as the run ended; or runs plain pytest
//! - [`daemon`]: owns the checkpoints, checks them, chooses
//!
//! A module uses only those above it; `client` and `daemon` do not know each other.

pub mod client;
pub mod daemon;
pub mod error;
pub mod process;
pub mod project;
pub mod protocol;
pub mod trace;
pub mod transport;
