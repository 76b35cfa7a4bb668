//! The loop with zygotes that are threads: no Python is needed.
//!
//! - [`fakes`]: zygotes and values
//! - [`harness`]: a daemon without a process, and callers

mod deeper;
mod explaining;
pub(super) mod fakes;
mod harness;
mod healing;
mod retiring;
mod short;
mod standing;

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::dispatcher::Event;
use super::door::{Door, Note, Opening};
use crate::protocol::{Reply, Request, Run};
use crate::transport::Connection;
use fakes::run;
use harness::{Bench, Caller, ReceiveNow};

fn with_argv(argv: &[&str]) -> Run {
    let mut run = run();
    run.argv = argv.iter().map(|a| a.as_bytes().to_vec()).collect();
    run
}

#[test]
fn the_first_run_is_plain_and_the_next_ones_are_warm() {
    let mut bench = Bench::new();
    let mut first = bench.send(run());
    assert_eq!(bench.reply(&mut first), Some(Reply::Plain { reason: None }));
    bench.turn_soon();
    assert_eq!(
        *bench.fakes.started.lock().unwrap(),
        0,
        "it would disturb the run"
    );
    bench.end_plains();
    bench.until("a P0", |b| b.ready("P0") == 1);
    assert!(bench.run_through(run()));
    assert_eq!(bench.last_checkpoint().as_deref(), Some("P0"));
    let record = bench.server.dispatcher.history.records().last().unwrap();
    assert!(record.seconds.is_some() && record.status == Some(0));
    assert_eq!(bench.server.dispatcher.learned.recordings().len(), 1);
}

#[test]
fn a_long_first_run_does_not_keep_others_waiting() {
    let mut bench = Bench::new();
    let mut first = bench.send(run());
    bench.reply(&mut first);
    bench.ahead += Duration::from_secs(11);
    bench.until("a Z0", |b| b.ready("Z0") == 1);
}

#[test]
fn no_run_waits_for_a_z0_that_is_being_built() {
    let mut bench = Bench::new();
    bench.build_slowly();
    assert!(!bench.run_through(run()));
    let record = bench.server.dispatcher.history.records().last();
    let why = record.and_then(|record| record.why.clone());
    assert_eq!(
        why.as_deref(),
        Some("no checkpoint is ready yet (it is being built)")
    );
}

#[test]
fn what_a_p0_refuses_a_z0_serves_and_another_p0_is_grown() {
    let mut bench = Bench::new();
    bench.fakes.manner(|m| m.refuses_others = true);
    bench.warm_up();
    let other = with_argv(&["-p", "no:cacheprovider"]);
    assert!(bench.run_through(other.clone()));
    assert_eq!(bench.last_checkpoint().as_deref(), Some("Z0"));
    bench.until("a second P0", |b| b.ready("P0") == 2);
    assert!(bench.run_through(other));
    assert_eq!(bench.last_checkpoint().as_deref(), Some("P0"));
    assert!(bench.run_through(run()));
    assert_eq!(bench.last_checkpoint().as_deref(), Some("P0"));
}

#[test]
fn few_p0s_are_kept() {
    let mut bench = Bench::new();
    bench.fakes.manner(|m| m.refuses_others = true);
    bench.warm_up();
    for number in 1..=5u32 {
        assert!(bench.run_through(with_argv(&["-W", &number.to_string()])));
        bench.until("one more", |b| *b.fakes.grown.lock().unwrap() == number + 1);
        bench.until("all are parked", |b| {
            !b.server
                .dispatcher
                .zygotes
                .values()
                .any(|z| z.is_starting())
        });
    }
    assert_eq!(bench.ready("P0"), 4);
    // The first one was never used.
    assert!(bench.run_through(run()));
    assert_eq!(bench.last_checkpoint().as_deref(), Some("Z0"));
}

#[test]
fn a_stale_checkpoint_serves_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("plugin.py");
    std::fs::write(&input, "one").unwrap();
    let mut bench = Bench::new();
    bench.fakes.manner(|m| m.reads = Some(input.clone()));
    bench.warm_up();
    assert_eq!(
        *bench.watched.0.lock().unwrap(),
        [dir.path().to_path_buf()].into()
    );
    std::fs::write(&input, "two").unwrap();
    assert!(
        !bench.run_through(run()),
        "it would have been a wrong answer"
    );
    bench.until("the next generation", |b| b.ready("P0") == 1);
    assert_eq!(*bench.fakes.started.lock().unwrap(), 2);
    assert!(bench.run_through(run()));
}

#[test]
fn a_change_is_followed_in_the_background() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("plugin.py");
    std::fs::write(&input, "one").unwrap();
    let mut bench = Bench::new();
    bench.fakes.manner(|m| m.reads = Some(input.clone()));
    bench.warm_up();
    std::fs::write(&input, "two").unwrap();
    bench.event(Event::Changed([dir.path().to_path_buf()].into()));
    bench.until("the next generation", |b| {
        *b.fakes.started.lock().unwrap() == 2 && b.ready("P0") == 1
    });
    assert!(bench.run_through(run()));
    assert_eq!(bench.last_checkpoint().as_deref(), Some("P0"));
}

#[test]
fn a_failed_start_is_remembered_until_an_input_changes() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("site.pth");
    std::fs::write(&input, "one").unwrap();
    let mut bench = Bench::new();
    bench.fakes.manner(|m| {
        m.fails = Some("pytest 4.0 is not known".into());
        m.reads = Some(input.clone());
    });
    assert!(!bench.run_through(run()));
    bench.until("the failure", |b| {
        b.server.dispatcher.roots[0].failure.is_some()
    });
    for _ in 0..3 {
        assert!(!bench.run_through(run()));
    }
    assert_eq!(*bench.fakes.started.lock().unwrap(), 1);
    assert!(
        bench
            .server
            .dispatcher
            .document(Instant::now())
            .contains("pytest 4.0")
    );
    bench.fakes.manner(|m| m.fails = None);
    std::fs::write(&input, "two").unwrap();
    bench.event(Event::Changed([dir.path().to_path_buf()].into()));
    bench.until("a Z0", |b| b.ready("Z0") == 1);
}

#[test]
fn an_input_that_changed_while_it_was_read_means_another_build() {
    let mut bench = Bench::new();
    bench.fakes.manner(|m| m.unsettled = true);
    assert!(!bench.run_through(run()));
    bench.until("a start", |b| *b.fakes.started.lock().unwrap() == 1);
    bench.until("it is discarded", |b| {
        b.server.dispatcher.zygotes.is_empty()
    });
    bench.fakes.manner(|m| m.unsettled = false);
    bench.ahead += Duration::from_secs(2);
    bench.until("a Z0", |b| b.ready("Z0") == 1);
}

#[test]
fn nothing_of_a_client_is_kept_once_its_run_has_begun() {
    let mut bench = Bench::new();
    bench.warm_up();
    bench.fakes.manner(|m| m.lingers = true);
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut one = run();
    one.fds = vec![1];
    let mut caller = bench.send_with(one, &[OwnedFd::from(writer)]);
    assert!(matches!(
        bench.reply(&mut caller),
        Some(Reply::Started { .. })
    ));
    bench.until("the daemon knows", |b| {
        let sources = b.server.dispatcher.runs.values();
        sources
            .filter(|run| format!("{:?}", run.stage).starts_with("Running"))
            .count()
            == 1
    });
    // Would wait for ever if a copy were left.
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    bench.fakes.end(bench.server.dispatcher.last_run);
    assert_eq!(bench.reply(&mut caller), Some(Reply::Ended { status: 0 }));
}

#[test]
fn a_generation_is_replaced_after_its_runs_and_serves_until_then() {
    let mut bench = Bench::new();
    bench.warm_up();
    bench.fakes.manner(|m| m.slow = true);
    for _ in 0..20 {
        assert!(bench.run_through(run()));
    }
    bench.until("the next Z0 starts", |b| {
        *b.fakes.started.lock().unwrap() == 2
    });
    assert!(bench.run_through(run()));
    assert_eq!(bench.last_checkpoint().as_deref(), Some("P0"));
    bench.fakes.let_go();
    bench.until("the next P0 starts", |b| {
        *b.fakes.grown.lock().unwrap() == 2
    });
    assert!(bench.run_through(run()));
    assert_eq!(bench.last_checkpoint().as_deref(), Some("P0"));
    bench.until("it takes over", |b| {
        b.fakes.let_go();
        b.ready("Z0") == 1 && b.ready("P0") == 1 && b.server.dispatcher.zygotes.len() == 2
    });
    assert!(bench.run_through(run()));
    assert_eq!(bench.last_checkpoint().as_deref(), Some("P0"));
}

#[test]
fn a_chosen_hash_seed_is_kept() {
    let mut bench = Bench::new();
    let mut seeded = run();
    seeded.env.push(b"PYTHONHASHSEED=7".to_vec());
    bench.run_through(seeded.clone());
    bench.until("a P0", |b| b.ready("P0") == 1);
    for _ in 0..45 {
        assert!(bench.run_through(seeded.clone()));
    }
    bench.ahead += Duration::from_secs(1000);
    bench.turn_soon();
    assert_eq!(*bench.fakes.started.lock().unwrap(), 1);
}

#[test]
fn another_build_retires_the_daemon() {
    let mut bench = Bench::new();
    bench.warm_up();
    *bench.installed.lock().unwrap() = "newer".into();
    let mut caller = bench.send(run());
    assert_eq!(bench.reply(&mut caller), Some(Reply::Retire));
    bench.until("it goes", |b| b.done);
}

#[test]
fn stopping_takes_the_socket_away_and_leaves_runs_alone() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("k.sock");
    let note = Note {
        key: "k".into(),
        root: "/".into(),
        script: "/env/bin/pytest".into(),
        python: "/env/bin/python".into(),
        pid: 1,
        log: None,
    };
    let Opening::Open(door) = Door::open(&socket, &dir.path().join("k.lock"), &note).unwrap()
    else {
        panic!("taken");
    };
    let mut bench = Bench::with_door(Some(door));
    bench.warm_up();
    bench.fakes.manner(|m| m.lingers = true);
    let mut running = bench.begin(run());
    let mut waiting = Caller(Connection::new(UnixStream::connect(&socket).unwrap()));
    waiting.0.set_nonblocking(true).unwrap();
    let mut asking = Caller(bench.connect());
    asking.0.send(&Request::Stop, &[]).unwrap();
    asking.0.set_nonblocking(true).unwrap();
    // Who stood in the queue is told to look for another daemon.
    bench.until("a greeting", |_| waiting.0.receive_now().is_some());
    assert!(!socket.exists());
    let root = std::fs::File::open("/").unwrap();
    waiting
        .0
        .send(&Request::Run(Box::new(run())), &[root.as_fd()])
        .unwrap();
    assert_eq!(bench.reply(&mut waiting), Some(Reply::Retire));
    assert_eq!(bench.reply(&mut asking), Some(Reply::Done));
    assert!(bench.done);
    let fakes = Arc::clone(&bench.fakes);
    let id = bench.server.dispatcher.last_run;
    drop(bench);
    fakes.end(id);
    running.0.set_nonblocking(false).unwrap();
    let end = running.0.receive().unwrap().decode::<Reply>().unwrap();
    assert_eq!(end, Reply::Ended { status: 0 });
}

#[test]
fn an_idle_daemon_goes() {
    let mut bench = Bench::new();
    bench.warm_up();
    bench.ahead += Duration::from_secs(1799);
    bench.turn_soon();
    assert!(!bench.done);
    bench.ahead += Duration::from_secs(10);
    bench.until("it goes", |b| b.done);
}

#[test]
fn three_roots_are_kept() {
    let mut bench = Bench::new();
    for number in 0..4 {
        let mut run = run();
        run.env.push(format!("LANG={number}").into_bytes());
        bench.run_through(run);
        bench.until("a P0", |b| b.ready("P0") == (number + 1).min(3));
    }
    assert_eq!(bench.server.dispatcher.roots.len(), 3);
    bench.until("the oldest is gone", |b| {
        b.server.dispatcher.zygotes.len() == 6
    });
}

#[test]
fn status_is_a_document() {
    let mut bench = Bench::new();
    bench.warm_up();
    bench.run_through(run());
    let mut asking = Caller(bench.connect());
    asking.0.send(&Request::Status, &[]).unwrap();
    asking.0.set_nonblocking(true).unwrap();
    let Some(Reply::Status(text)) = bench.reply(&mut asking) else {
        panic!("no status");
    };
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["project"], "/");
    assert_eq!(value["roots"][0]["state"], "ready");
    assert_eq!(value["roots"][0]["processes"][1]["level"], "P0");
    assert_eq!(value["runs"][0]["checkpoint"], serde_json::Value::Null);
    assert_eq!(value["runs"][1]["checkpoint"], "P0");
    let document: super::status::Document = serde_json::from_str(&text).unwrap();
    let shown = document.render(false);
    assert!(
        !shown.contains('\x1b') && shown.contains("warm P0"),
        "{shown}"
    );
    assert!(document.render(true).contains('\x1b'));
}
