//! Runs something on the general server: all arguments are the server's, but for a lone `--help`
//! or `--version`.
#![no_main]

use std::ffi::{c_char, c_int};
use std::io::Write;

const HELP: &str = "\
usage: pyseidon [ARGUMENT]...

Not for running tests: that is `pyseidon-test`. This is the client of the general server, which
comes with a later release.

Has a warm process of the general server handle ARGUMENTS, and ends as that process ends.

The server's socket is `$PYSEIDON_SOCKET`, else `$POSEIDON_SOCK`, else `default.sock` in the
runtime directory. To hand a lone `--help` or `--version` to the server, put `--` before it.
";

#[unsafe(no_mangle)]
extern "C" fn main(argc: c_int, argv: *const *const c_char) -> c_int {
    // SAFETY: this is `main`.
    let mut args = unsafe { pyseidon::client::arguments(argc, argv) };
    let answer = match args.get(1..).unwrap_or_default() {
        [only] if only == b"--help" => HELP.to_owned(),
        [only] if only == b"--version" => {
            concat!("pyseidon ", env!("CARGO_PKG_VERSION"), "\n").into()
        }
        [first, word] if first == b"--" && (word == b"--help" || word == b"--version") => {
            args.remove(1);
            return pyseidon::client::run_general(args);
        }
        _ => return pyseidon::client::run_general(args),
    };
    i32::from(std::io::stdout().write_all(answer.as_bytes()).is_err())
}
