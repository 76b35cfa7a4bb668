//! The client where there are no warm processes: `pyseidon-test` is plain pytest.

use crate::error::{ONLY_LINUX, exit};
use fallback::say;

mod fallback;
mod start;

pub use start::arguments;

/// `pyseidon-test`: runs the environment's pytest. Returns only if that fails: the exit status.
pub fn run_pytest(args: Vec<Vec<u8>>) -> i32 {
    start::run(&args, |_, plain| plain.exec(Some(ONLY_LINUX)))
}

/// `pyseidon`: there is no general server. Returns the exit status.
pub fn run_general(_: Vec<Vec<u8>>) -> i32 {
    say(&format!("error: {ONLY_LINUX}"));
    exit::FAILED
}
