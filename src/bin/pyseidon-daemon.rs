//! Looks after the daemons: starts and stops them, says what they do; and is the daemon itself.

fn main() {
    std::process::exit(pyseidon::daemon::main());
}
