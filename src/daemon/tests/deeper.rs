//! Checkpoints below a P0.

use super::fakes::run;
use super::harness::Bench;
use super::with_argv;
use crate::daemon::level::Level;

#[test]
fn the_deepest_serves_and_after_an_edit_the_next_above() {
    let dir = tempfile::tempdir().unwrap();
    let conftest = dir.path().join("conftest.py");
    std::fs::write(&conftest, "one").unwrap();
    let mut bench = Bench::new();
    bench.fakes.manner(|m| {
        m.goes_deeper = true;
        m.z2_reads = Some(conftest.clone());
    });
    bench.warm_up();
    bench.until("a Z2", |b| b.ready("Z2") == 1);
    assert!(bench.run_through(run()));
    assert_eq!(bench.last_checkpoint().as_deref(), Some("Z2"));

    std::fs::write(&conftest, "another").unwrap();
    assert!(bench.run_through(run()));
    assert_eq!(bench.last_checkpoint().as_deref(), Some("P0"));
    let record = bench.server.dispatcher.history.records().last().unwrap();
    assert!(record.why.as_ref().unwrap().contains("not prepared yet"));
    bench.until("another Z2", |b| b.ready("Z2") == 1);
    assert!(bench.run_through(run()));
    assert_eq!(bench.last_checkpoint().as_deref(), Some("Z2"));
}

#[test]
fn runs_with_other_conftests_get_another() {
    let mut bench = Bench::new();
    bench.fakes.manner(|m| m.goes_deeper = true);
    bench.warm_up();
    bench.until("a Z2", |b| b.ready("Z2") == 1);
    let other = with_argv(&["elsewhere"]);
    assert!(bench.run_through(other.clone()));
    assert_eq!(bench.last_checkpoint().as_deref(), Some("P0"));
    bench.until("a second Z2", |b| b.ready("Z2") == 2);
    for run in [other, run()] {
        assert!(bench.run_through(run));
        assert_eq!(bench.last_checkpoint().as_deref(), Some("Z2"));
    }
}

#[test]
fn what_cannot_go_deeper_is_served_from_above_and_says_why() {
    let mut bench = Bench::new();
    bench.warm_up();
    let level = Level::all(&run()).pop().unwrap();
    bench.until("a failure", |b| {
        let record = &b.server.dispatcher.roots[0].records[&level];
        record.failure.is_some()
    });
    assert!(bench.run_through(run()));
    assert_eq!(bench.last_checkpoint().as_deref(), Some("P0"));
    let record = bench.server.dispatcher.history.records().last().unwrap();
    assert_eq!(record.why.as_deref(), Some("nothing goes deeper"));
}
