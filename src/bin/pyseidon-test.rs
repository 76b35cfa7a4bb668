//! Runs the environment's pytest, warm where that gives the same answer.
#![no_main]

use std::ffi::{c_char, c_int};

#[unsafe(no_mangle)]
extern "C" fn main(argc: c_int, argv: *const *const c_char) -> c_int {
    // SAFETY: this is `main`.
    let args = unsafe { pyseidon::client::arguments(argc, argv) };
    pyseidon::client::run_pytest(args)
}
