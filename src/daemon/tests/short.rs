//! What goes when memory is short, and what comes again.

use std::path::Path;
use std::time::{Duration, Instant};

use super::fakes::run;
use super::harness::Bench;
use crate::daemon::pressure::Gauge;

/// A machine with 1000 MiB, of which as many are available as is said.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        machine.has(900);
        machine
    }

    fn has(&self, mib: u64) {
        let (whole, available) = (1000 << 10, mib << 10);
        let text = format!("MemTotal: {whole} kB\nMemAvailable: {available} kB\n");
        std::fs::write(self.0.path().join("meminfo"), text).unwrap();
    }

    fn bench(&self) -> Bench {
        let bench = Bench::with(None, Gauge::at(self.0.path(), Path::new("/nowhere")));
        bench.fakes.manner(|m| {
            m.goes_deeper = true;
            m.waits = Some(std::process::id() as i32);
        });
        bench
    }
}

fn ready(bench: &Bench) -> Vec<&'static str> {
    ["Z0", "P0", "Z2"]
        .into_iter()
        .filter(|level| bench.ready(level) > 0)
        .collect()
}

fn rested(bench: &Bench) -> u32 {
    *bench.fakes.rested.lock().unwrap()
}

fn document(bench: &Bench) -> serde_json::Value {
    let text = bench.server.dispatcher.document(Instant::now());
    serde_json::from_str(&text).unwrap()
}

/// Time for one more look.
fn later(bench: &mut Bench) {
    bench.ahead += Duration::from_secs(6);
    bench.turn_soon();
}

#[test]
fn where_there_is_enough_nothing_happens() {
    let machine = Machine::new();
    let mut bench = machine.bench();
    bench.warm_up();
    bench.until("a Z2", |b| b.ready("Z2") == 1);
    for available in [900, 400, 110] {
        machine.has(available);
        later(&mut bench);
    }
    assert_eq!((ready(&bench), rested(&bench)), (vec!["Z0", "P0", "Z2"], 0));
    assert!(document(&bench)["memory_short"].is_null());
}

#[test]
fn standbys_go_first_and_runs_go_on() {
    let machine = Machine::new();
    let mut bench = machine.bench();
    bench.warm_up();
    bench.until("a Z2", |b| b.ready("Z2") == 1);
    machine.has(90);
    later(&mut bench);
    bench.until("rest", |b| rested(b) == 3);
    for _ in 0..3 {
        later(&mut bench);
    }
    assert_eq!(ready(&bench), ["Z0", "P0", "Z2"]);
    assert!(bench.run_through(run()));
    let shown = document(&bench);
    assert_eq!(
        shown["memory_short"],
        "memory is short: 90 of 1000 MiB of the machine are available"
    );
    assert_eq!(shown["gone"][0]["what"], "the standbys");
}

#[test]
fn then_roots_that_were_not_used_lately() {
    let machine = Machine::new();
    let mut bench = machine.bench();
    bench.fakes.manner(|m| m.waits = None);
    bench.warm_up();
    let mut other = run();
    other.env.push(b"LANG=xx".to_vec());
    assert!(!bench.run_through(other.clone()));
    bench.until("another root", |b| b.ready("Z2") == 2);
    machine.has(60);
    later(&mut bench);
    bench.until("the end of one root", |b| {
        b.server.dispatcher.roots.len() == 1 && b.ready("Z2") == 1
    });
    for _ in 0..3 {
        later(&mut bench);
    }
    assert_eq!(ready(&bench), ["Z0", "P0", "Z2"]);
    assert!(bench.run_through(other));
}

#[test]
fn of_the_last_root_the_deepest_goes_last_and_all_comes_again() {
    let machine = Machine::new();
    let mut bench = machine.bench();
    bench.fakes.manner(|m| m.waits = None);
    bench.warm_up();
    bench.until("a Z2", |b| b.ready("Z2") == 1);
    machine.has(30);
    let all = ["Z0", "P0", "Z2"];
    for left in 1..3 {
        later(&mut bench);
        assert_eq!(ready(&bench), all[left..]);
        assert!(bench.run_through(run()));
        assert_eq!(bench.last_checkpoint().as_deref(), Some("Z2"));
    }
    later(&mut bench);
    assert!(ready(&bench).is_empty());
    assert!(!bench.run_through(run()));
    let record = bench.server.dispatcher.history.records().last().unwrap();
    let why = record.why.clone().unwrap();
    assert!(why.starts_with("memory is short: 30 of 1000 MiB"), "{why}");
    for _ in 0..3 {
        later(&mut bench);
    }
    assert_eq!(
        *bench.fakes.started.lock().unwrap(),
        1,
        "nothing is built meanwhile"
    );
    machine.has(120);
    later(&mut bench);
    assert!(ready(&bench).is_empty(), "it would be ended again");
    machine.has(900);
    later(&mut bench);
    bench.until("all of it", |b| ready(b) == all);
    assert!(bench.run_through(run()));
}
