//! A Z0 that nothing is wanted of ends; what depends on it comes about none the less.

use std::time::Duration;

use super::fakes::{NOBODY, run};
use super::harness::Bench;
use super::with_argv;
use crate::daemon::level::Level;
use crate::protocol::Run;

const KEEP: Duration = Duration::from_secs(31);

/// A bench with a P0 whose Z0 has retired.
fn retired(bench: &mut Bench) {
    bench.warm_up();
    bench.ahead += KEEP;
    bench.until("the end of the Z0", |b| b.ready("Z0") == 0);
}

fn with_mode(mode: &str) -> Run {
    let mut run = run();
    run.env.push(format!("MODE={mode}").into_bytes());
    run
}

fn started(bench: &Bench) -> u32 {
    *bench.fakes.started.lock().unwrap()
}

fn last_why(bench: &Bench) -> Option<String> {
    let record = bench.server.dispatcher.history.records().last().unwrap();
    record.why.clone()
}

#[test]
fn what_was_grown_from_it_serves_on() {
    let mut bench = Bench::new();
    retired(&mut bench);
    for _ in 0..3 {
        assert!(bench.run_through(run()));
        assert_eq!(bench.last_checkpoint().as_deref(), Some("P0"));
    }
    assert_eq!((started(&bench), bench.ready("P0")), (1, 1));
}

#[test]
fn other_options_have_another_built_that_is_kept_for_longer() {
    let mut bench = Bench::new();
    bench.fakes.manner(|m| m.refuses_others = true);
    bench.warm_up();
    assert!(bench.run_through(run()));
    bench.ahead += KEEP;
    bench.until("the end of the Z0", |b| b.ready("Z0") == 0);
    let other = with_argv(&["-p", "no:cacheprovider"]);
    assert!(!bench.run_through(other.clone()));
    let why = last_why(&bench).unwrap();
    assert!(why.starts_with("not prepared yet"), "{why}");
    bench.until("both P0s", |b| b.ready("P0") == 2 && b.ready("Z0") == 1);
    for run in [other, run()] {
        assert!(bench.run_through(run));
        assert_eq!(bench.last_checkpoint().as_deref(), Some("P0"));
    }
    assert_eq!(started(&bench), 2);
    bench.ahead += KEEP;
    bench.turn_soon();
    assert_eq!(bench.ready("Z0"), 1);
    bench.ahead += KEEP;
    bench.until("the end of the Z0", |b| b.ready("Z0") == 0);
}

#[test]
fn an_edit_of_what_all_have_read_has_all_built_anew() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("pytest.ini");
    std::fs::write(&input, "one").unwrap();
    let mut bench = Bench::new();
    bench.fakes.manner(|m| m.reads = Some(input.clone()));
    retired(&mut bench);
    std::fs::write(&input, "another").unwrap();
    assert!(!bench.run_through(run()));
    bench.until("another P0", |b| b.ready("P0") == 1);
    assert!(bench.run_through(run()));
    assert_eq!(started(&bench), 2);
}

#[test]
fn a_p0_that_dies_is_replaced() {
    let mut bench = Bench::new();
    retired(&mut bench);
    bench.fakes.manner(|m| m.dies = true);
    let mut caller = bench.send(run());
    assert_eq!(bench.reply(&mut caller), None);
    bench.fakes.manner(|m| m.dies = false);
    bench.end_plains();
    bench.until("another P0", |b| b.ready("P0") == 1);
    assert!(bench.run_through(run()));
    assert_eq!(started(&bench), 2);
}

#[test]
fn a_run_that_it_did_not_stand_for_gets_another_root() {
    let mut bench = Bench::new();
    bench.fakes.manner(|m| m.reads_env = vec!["MODE".into()]);
    assert!(!bench.run_through(with_mode("a")));
    bench.until("a P0", |b| b.ready("P0") == 1);
    bench.ahead += KEEP;
    bench.until("the end of the Z0", |b| b.ready("Z0") == 0);
    assert!(!bench.run_through(with_mode("b")));
    let why = last_why(&bench).unwrap();
    assert_eq!(why, "`MODE` has another value in the environment");
    bench.until("another P0", |b| b.ready("P0") == 2);
    for mode in ["a", "b", "a"] {
        assert!(bench.run_through(with_mode(mode)), "{mode}");
    }
}

#[test]
fn of_several_standbys_the_latest_stays() {
    let mut bench = Bench::new();
    bench.fakes.manner(|m| {
        m.goes_deeper = true;
        m.waits = Some(std::process::id() as i32);
    });
    let other = with_argv(&["elsewhere"]);
    bench.warm_up();
    bench.until("a Z2", |b| b.ready("Z2") == 1);
    assert!(bench.run_through(other));
    bench.until("two Z2s", |b| b.ready("Z2") == 2);
    let waiting = |b: &mut Bench| {
        let zygotes = b.server.dispatcher.zygotes.values();
        let with = zygotes.filter(|zygote| zygote.standby.is_some());
        with.map(|zygote| zygote.used).collect::<Vec<_>>()
    };
    bench.ahead += KEEP;
    bench.turn_soon();
    assert!(waiting(&mut bench).len() > 1);
    bench.ahead += KEEP;
    bench.until("one standby", |b| waiting(b) == [2]);
    assert_eq!(bench.ready("Z2"), 2);

    bench.ahead += 20 * KEEP;
    bench.until("one Z2", |b| b.ready("Z2") == 1);
    assert!(bench.run_through(run()));
    assert_eq!(bench.last_checkpoint().as_deref(), Some("P0"));
    let level = Level::all(&run()).pop().unwrap();
    bench.until("its Z2 again, in place of the other", |b| {
        let zygotes = b.server.dispatcher.zygotes.values();
        let levels: Vec<_> = zygotes
            .filter(|zygote| zygote.is_ready() && zygote.level.depth() == 2)
            .map(|zygote| zygote.level.clone())
            .collect();
        levels == [level.clone()]
    });
    assert!(bench.run_through(run()));
    assert_eq!(bench.last_checkpoint().as_deref(), Some("Z2"));
}

#[test]
fn it_stays_while_it_serves() {
    let mut bench = Bench::new();
    bench.fakes.manner(|m| {
        m.refuses_others = true;
        m.lingers = true;
        m.worker = Some(NOBODY);
    });
    bench.warm_up();
    let caller = bench.begin(with_argv(&["--help"]));
    assert_eq!(bench.last_checkpoint().as_deref(), Some("Z0"));
    bench.ahead += KEEP;
    bench.turn_soon();
    assert_eq!(bench.ready("Z0"), 1);
    bench.fakes.end(2);
    bench.until("the end of the Z0", |b| b.ready("Z0") == 0);
    drop(caller);
}
