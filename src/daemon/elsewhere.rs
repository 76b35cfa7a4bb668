//! The daemon where there are no warm processes.

use crate::error::ONLY_LINUX;

/// `pyseidon-daemon`: there is nothing to look after. Returns the exit status.
pub fn main() -> i32 {
    eprintln!("error: {ONLY_LINUX}");
    1
}
