//! What is told of checkpoints, and that asking for it changes nothing.

use std::time::Instant;

use serde_json::Value;

use super::fakes::run;
use super::harness::Bench;
use super::with_argv;
use crate::daemon::history::Kind;
use crate::protocol::{Asked, Distrust, Question, Run};

fn explained(bench: &mut Bench, of: Option<&Run>) -> Value {
    let of = of.map(|run| Asked {
        argv: run.argv.clone(),
        env: run.env.clone(),
        cwd: run.cwd.clone(),
        tty: [false; 3],
    });
    let question = Question { loads: 10, of };
    let now = Instant::now() + bench.ahead;
    let text = bench.server.dispatcher.explanation(&question, now);
    serde_json::from_str(&text).unwrap()
}

fn incidents(bench: &Bench) -> Vec<(Kind, String, String)> {
    let records = bench.server.dispatcher.roots[0].incidents.records();
    records
        .map(|it| (it.kind, it.level.clone(), it.why.clone()))
        .collect()
}

fn deep() -> Bench {
    let mut bench = Bench::new();
    bench.fakes.manner(|m| m.goes_deeper = true);
    bench.warm_up();
    bench.until("a Z2", |b| b.ready("Z2") == 1);
    bench
}

#[test]
fn the_tree_has_each_level_below_the_one_it_was_forked_from() {
    let mut bench = deep();
    let document = explained(&mut bench, None);
    let mut at = &document["roots"][0]["checkpoints"];
    for level in ["Z0", "P0", "Z2"] {
        assert_eq!(at.as_array().unwrap().len(), 1);
        assert_eq!(at[0]["level"], level);
        at = &at[0]["deeper"];
    }
    assert_eq!(at.as_array().unwrap().len(), 0);
}

#[test]
fn what_would_serve_is_what_then_does() {
    let mut bench = deep();
    for argv in [&[] as &[&str], &["elsewhere"], &["-x"], &["-p", "x"]] {
        let run = with_argv(argv);
        let runs = bench.server.dispatcher.last_run;
        let asked = explained(&mut bench, Some(&run))["asked"].clone();
        assert_eq!(bench.server.dispatcher.last_run, runs);
        bench.run_through(run);
        assert_eq!(
            asked["checkpoint"].as_str(),
            bench.last_checkpoint().as_deref()
        );
        let why = bench.server.dispatcher.history.records().last().unwrap();
        assert_eq!(
            asked["why"].as_str().is_some(),
            why.why.is_some(),
            "{argv:?}"
        );
    }
}

#[test]
fn asking_for_what_is_unknown_makes_nothing_of_it() {
    let mut bench = deep();
    let mut other = run();
    other.env.push(b"PYTHONPATH=/elsewhere".to_vec());
    let document = explained(&mut bench, Some(&other));
    assert_eq!(document["asked"]["checkpoint"], Value::Null);
    assert_eq!(document["roots"].as_array().unwrap().len(), 0);
    assert_eq!(bench.server.dispatcher.roots.len(), 1);
    let kinds = bench.server.dispatcher.roots[0].records.len();
    explained(&mut bench, Some(&with_argv(&["-p", "new"])));
    assert_eq!(bench.server.dispatcher.roots[0].records.len(), kinds);
}

#[test]
fn a_changed_input_is_told_with_what_it_ended() {
    let dir = tempfile::tempdir().unwrap();
    let conftest = dir.path().join("conftest.py");
    let pytest = dir.path().join("pytest.py");
    for path in [&conftest, &pytest] {
        std::fs::write(path, "one").unwrap();
    }
    let mut bench = Bench::new();
    bench.fakes.manner(|m| {
        m.goes_deeper = true;
        m.reads = Some(pytest.clone());
        m.z2_reads = Some(conftest.clone());
    });
    bench.warm_up();
    bench.until("a Z2", |b| b.ready("Z2") == 1);
    std::fs::write(&conftest, "another").unwrap();
    // Asking finds it out and leaves it at that.
    let asked = explained(&mut bench, Some(&run()))["asked"].clone();
    let changed = |path: &std::path::Path| format!("`{}` changed", path.display());
    assert_eq!(
        (&asked["checkpoint"], &asked["why"]),
        (&"P0".into(), &changed(&conftest).into())
    );
    assert!(bench.ready("Z2") == 1 && incidents(&bench).is_empty());
    bench.run_through(run());
    let stale = |level: &str, path| (Kind::Stale, level.to_owned(), changed(path));
    assert_eq!(incidents(&bench), [stale("Z2", &conftest)]);

    bench.until("another Z2", |b| b.ready("Z2") == 1);
    std::fs::write(&pytest, "another").unwrap();
    assert!(!bench.run_through(run()));
    assert_eq!(
        incidents(&bench),
        [stale("Z2", &conftest), stale("Z0", &pytest)]
    );
    let records = bench.server.dispatcher.roots[0].incidents.records();
    assert_eq!(records.last().unwrap().along, ["P0", "Z2"]);
}

#[test]
fn a_refusal_is_told() {
    let mut bench = Bench::new();
    bench.fakes.manner(|m| m.refuses_others = true);
    bench.warm_up();
    bench.run_through(with_argv(&["-x"]));
    let refused = (Kind::Refused, "P0".to_owned(), "other arguments".to_owned());
    assert!(
        incidents(&bench).contains(&refused),
        "{:?}",
        incidents(&bench)
    );
}

#[test]
fn what_is_distrusted_has_everything_built_anew() {
    let mut bench = deep();
    let ask = |bench: &mut Bench, module: &str, undo| {
        let module = Some(module.to_owned());
        let now = Instant::now() + bench.ahead;
        let request = Distrust { module, undo };
        bench.server.dispatcher.on_distrust(&request, now)
    };
    let names = vec!["app".to_owned()];
    assert_eq!(ask(&mut bench, "app", false), (true, names.clone()));
    for level in ["Z0", "P0", "Z2"] {
        assert_eq!(bench.ready(level), 0);
    }
    let why = "`app` is distrusted".to_owned();
    let dropped = (Kind::Distrusted, "Z0".to_owned(), why);
    assert_eq!(incidents(&bench), [dropped]);
    bench.until("another Z2", |b| b.ready("Z2") == 1);
    assert_eq!(*bench.fakes.distrusted.lock().unwrap(), names);
    // Again: nothing changes, and nothing goes.
    assert_eq!(ask(&mut bench, "app", false), (false, names));
    assert_eq!(bench.ready("Z2"), 1);
    assert_eq!(ask(&mut bench, "app", true), (true, Vec::new()));
    assert_eq!(bench.ready("Z2"), 0);
    bench.until("a third Z2", |b| b.ready("Z2") == 1);
    assert!(bench.fakes.distrusted.lock().unwrap().is_empty());
}
