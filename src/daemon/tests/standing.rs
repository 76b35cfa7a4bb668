//! Which checkpoint stands for which run, when inputs and environments differ.

use std::time::Duration;

use super::fakes::run;
use super::harness::Bench;
use crate::protocol::Run;

fn with_mode(mode: &str) -> Run {
    let mut run = run();
    run.env.push(format!("MODE={mode}").into_bytes());
    run
}

/// A bench whose checkpoints look at `MODE`.
fn moody() -> Bench {
    let bench = Bench::new();
    bench.fakes.manner(|m| m.reads_env = vec!["MODE".into()]);
    bench
}

fn started(bench: &Bench) -> u32 {
    *bench.fakes.started.lock().unwrap()
}

#[test]
fn an_environment_that_no_z0_stands_for_gets_one_of_its_own() {
    let mut bench = moody();
    assert!(!bench.run_through(with_mode("a")));
    bench.until("a P0", |b| b.ready("P0") == 1);
    assert!(!bench.run_through(with_mode("b")));
    let record = bench.server.dispatcher.history.records().last().unwrap();
    assert_eq!(
        record.why.as_deref(),
        Some("`MODE` has another value in the environment")
    );
    bench.until("another P0", |b| b.ready("P0") == 2);
    for mode in ["b", "a", "b"] {
        assert!(bench.run_through(with_mode(mode)), "{mode}");
        assert_eq!(bench.last_checkpoint().as_deref(), Some("P0"));
    }
    assert_eq!((started(&bench), bench.ready("Z0")), (2, 2));
    assert_eq!(*bench.fakes.grown.lock().unwrap(), 2);
}

#[test]
fn a_p0_is_grown_only_for_runs_that_its_z0_stands_for() {
    let mut bench = moody();
    assert!(!bench.run_through(with_mode("a")));
    bench.until("a Z0", |b| b.ready("Z0") == 1);
    // The same shape, before the P0 is grown.
    assert!(!bench.run_through(with_mode("b")));
    bench.until("both P0s", |b| b.ready("P0") == 2);
    for mode in ["a", "b"] {
        assert!(bench.run_through(with_mode(mode)), "{mode}");
        assert_eq!(bench.last_checkpoint().as_deref(), Some("P0"));
    }
}

#[test]
fn a_p0_for_another_environment_is_announced_and_tried_first_when_it_fits() {
    let mut bench = Bench::new();
    bench.fakes.manner(|m| m.p0_reads_env = vec!["MODE".into()]);
    assert!(!bench.run_through(with_mode("a")));
    bench.until("a P0", |b| b.ready("P0") == 1);
    assert!(bench.run_through(with_mode("b")));
    assert_eq!(bench.last_checkpoint().as_deref(), Some("Z0"));
    let unprepared = |b: &mut Bench| {
        let document = b.server.dispatcher.document(std::time::Instant::now());
        let value: serde_json::Value = serde_json::from_str(&document).unwrap();
        value["roots"][0]["unprepared"].clone()
    };
    let shown = unprepared(&mut bench);
    assert!(
        shown[0]["why"]
            .as_str()
            .unwrap()
            .starts_with("not prepared yet"),
        "{shown}"
    );
    bench.until("another P0", |b| b.ready("P0") == 2);
    let shown = unprepared(&mut bench);
    let mut shown = shown.as_array().unwrap().iter();
    assert!(shown.all(|kind| kind["level"] == "Z2"), "{shown:?}");
    // Neither has served: that the first looks at another environment says so for free.
    for mode in ["a", "b"] {
        assert!(bench.run_through(with_mode(mode)), "{mode}");
        assert_eq!(bench.last_checkpoint().as_deref(), Some("P0"), "{mode}");
    }
}

#[test]
fn a_run_that_comes_before_it_is_known_what_the_z0_looks_at_gets_its_own_later() {
    let mut bench = moody();
    bench.fakes.manner(|m| m.slow = true);
    assert!(!bench.run_through(with_mode("a")));
    bench.until("a start", |b| started(b) == 1);
    assert!(!bench.run_through(with_mode("b")));
    bench.fakes.manner(|m| m.slow = false);
    bench.fakes.let_go();
    bench.until("a P0", |b| b.ready("P0") == 1);
    assert!(!bench.run_through(with_mode("b")));
    bench.until("both P0s", |b| b.ready("P0") == 2);
    assert!(bench.run_through(with_mode("a")) && bench.run_through(with_mode("b")));
}

#[test]
fn a_value_that_never_comes_again_does_not_keep_the_machine_busy() {
    let mut bench = moody();
    for mode in 0..6 {
        assert!(!bench.run_through(with_mode(&mode.to_string())));
        bench.until("it is quiet", |b| {
            let roots = &b.server.dispatcher.roots;
            roots.iter().all(|root| root.current.is_some()) && b.ready("P0") == roots.len()
        });
    }
    assert_eq!(started(&bench), 2);
    bench.ahead += Duration::from_secs(61);
    assert!(!bench.run_through(with_mode("new")));
    bench.until("another try", |b| started(b) == 3);
    bench.until("a P0", |b| b.ready("P0") == 2);
    assert!(bench.run_through(with_mode("new")));
}

#[test]
fn no_p0_is_grown_from_a_z0_that_an_edit_made_stale() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("sitecustomize.py");
    std::fs::write(&input, "one").unwrap();
    let mut bench = Bench::new();
    bench.fakes.manner(|m| m.reads = Some(input.clone()));
    assert!(!bench.run_through(run()));
    bench.until("a Z0", |b| b.ready("Z0") == 1);
    assert_eq!(*bench.fakes.grown.lock().unwrap(), 0);
    std::fs::write(&input, "two").unwrap();
    bench.until("a P0", |b| b.ready("P0") == 1);
    assert_eq!(
        (started(&bench), *bench.fakes.grown.lock().unwrap()),
        (2, 1)
    );
    assert!(bench.run_through(run()));
}

#[test]
fn an_edit_while_a_p0_is_grown_is_seen_when_it_parks() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("sitecustomize.py");
    std::fs::write(&input, "one").unwrap();
    let mut bench = Bench::new();
    bench.fakes.manner(|m| m.reads = Some(input.clone()));
    assert!(!bench.run_through(run()));
    bench.until("a Z0", |b| b.ready("Z0") == 1);
    bench.fakes.manner(|m| {
        m.slow = true;
        // It has this from its Z0, and does not read it again.
        m.reads = None;
    });
    bench.until("growth", |b| {
        let zygotes = &b.server.dispatcher.zygotes;
        zygotes
            .values()
            .any(|z| z.name() == "P0" && z.pid.is_some())
    });
    std::fs::write(&input, "two").unwrap();
    bench.fakes.manner(|m| {
        m.slow = false;
        m.reads = Some(input.clone());
    });
    std::thread::sleep(Duration::from_millis(20));
    bench.fakes.let_go();
    bench.until("the next generation", |b| {
        started(b) == 2 && b.ready("P0") == 1
    });
    assert!(bench.run_through(run()));
}
