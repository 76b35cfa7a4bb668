//! What dies, hangs or says nothing, and who must not suffer from it.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use super::super::dispatcher::Event;
use super::fakes::{Manner, run};
use super::harness::{Bench, Caller, ReceiveNow};
use crate::protocol::{Reply, Request};

/// A process in a group of its own, to stand for a zygote or a worker.
fn process() -> Child {
    let mut command = Command::new("sleep");
    command.arg("100").process_group(0).spawn().unwrap()
}

fn was_killed(child: &mut Child) -> bool {
    use std::os::unix::process::ExitStatusExt;
    child.wait().unwrap().signal() == Some(libc::SIGKILL)
}

#[test]
fn a_zygote_that_dies_with_an_order_cannot_start_the_run_any_more() {
    let mut bench = Bench::new();
    bench.warm_up();
    bench.fakes.manner(|m| m.dies = true);
    let mut caller = bench.send(run());
    assert_eq!(
        bench.reply(&mut caller),
        None,
        "the client sees the end and runs plain pytest"
    );
    bench.fakes.manner(|m| *m = Manner::default());
    bench.end_plains();
    bench.until("it is replaced", |b| b.ready("P0") == 1);
    assert!(bench.run_through(run()));
}

#[test]
fn a_worker_whose_zygote_died_is_ended() {
    let mut worker = process();
    let mut bench = Bench::new();
    bench.warm_up();
    bench.fakes.manner(|m| {
        m.worker = Some(worker.id() as i32);
        m.dies_late = true;
    });
    let mut caller = bench.begin(run());
    assert_eq!(
        bench.reply(&mut caller),
        None,
        "the client sees that it was cut off"
    );
    bench.until("the daemon knows", |b| b.server.dispatcher.runs.is_empty());
    assert!(!worker.wait().unwrap().success());
}

#[test]
fn a_worker_is_ended_whose_zygote_died_before_it_could_tell_of_it() {
    let mut worker = process();
    let mut bench = Bench::new();
    bench.warm_up();
    bench.fakes.manner(|m| {
        m.worker = Some(worker.id() as i32);
        m.dies_between = true;
    });
    let mut caller = bench.begin(run());
    assert_eq!(bench.reply(&mut caller), None);
    bench.until("the daemon knows", |b| b.server.dispatcher.runs.is_empty());
    assert!(was_killed(&mut worker));
}

#[test]
fn a_worker_that_is_killed_early_does_not_speak_against_its_checkpoint() {
    let mut bench = Bench::new();
    bench.warm_up();
    bench.fakes.manner(|m| m.loses_worker = true);
    let mut caller = bench.send(run());
    let plain = Reply::Plain {
        reason: Some("it was killed".into()),
    };
    assert_eq!(bench.reply(&mut caller), Some(plain), "neither P0 nor Z0");
    bench.fakes.manner(|m| *m = Manner::default());
    bench.end_plains();
    bench.ahead += Duration::from_secs(20);
    bench.turn_soon();
    bench.turn_soon();
    assert!(bench.run_through(run()));
    assert_eq!(bench.last_checkpoint().as_deref(), Some("P0"));
    assert_eq!(*bench.fakes.grown.lock().unwrap(), 1);
    assert_eq!(*bench.fakes.started.lock().unwrap(), 1);
}

#[test]
fn a_run_whose_client_left_is_not_tried_again() {
    let mut bench = Bench::new();
    bench.warm_up();
    bench.fakes.manner(|m| m.mute = true);
    let caller = bench.send(run());
    bench.until("the order", |b| b.server.dispatcher.runs.len() == 1);
    drop(caller);
    bench.fakes.manner(|m| *m = Manner::default());
    let (&id, run_then) = bench.server.dispatcher.runs.first_key_value().unwrap();
    let super::super::runs::Stage::Serving { zygote, parcel, .. } = &run_then.stage else {
        panic!("{:?}", run_then.stage);
    };
    // Another test's child has a copy of the client's end between its fork and its exec.
    while !super::super::clients::has_hung_up(&parcel.client) {
        std::thread::yield_now();
    }
    let zygote = *zygote;
    let now = Instant::now();
    let dispatcher = &mut bench.server.dispatcher;
    dispatcher.on_died(zygote, id, "killed".into(), now);
    assert!(dispatcher.runs.is_empty() && dispatcher.plains.is_empty());
    let record = dispatcher.history.records().last().unwrap();
    assert_eq!(record.why.as_deref(), Some("its client went away"));
    assert!(bench.run_through(run()));
    assert_eq!(bench.last_checkpoint().as_deref(), Some("P0"));
}

#[test]
fn a_zygote_that_says_nothing_is_ended_with_its_workers() {
    let (mut zygote, mut worker) = (process(), process());
    let mut bench = Bench::new();
    assert!(!bench.run_through(run()));
    bench.until("a Z0", |b| b.ready("Z0") == 1);
    bench.fakes.manner(|m| {
        m.process = Some(zygote.id() as i32);
        m.worker = Some(worker.id() as i32);
        m.lingers = true;
    });
    bench.until("a P0", |b| b.ready("P0") == 1);
    let _neighbour = bench.begin(run());
    bench.fakes.manner(|m| {
        *m = Manner::default();
        m.mute = true;
    });
    let mut caller = bench.send(run());
    bench.until("the order", |b| b.server.dispatcher.runs.len() == 2);
    bench.ahead += Duration::from_secs(16);
    assert_eq!(bench.reply(&mut caller), None, "it runs plain pytest");
    assert!(was_killed(&mut zygote) && was_killed(&mut worker));
    bench.fakes.manner(|m| *m = Manner::default());
    bench.end_plains();
    bench.until("another P0", |b| b.ready("P0") == 1);
    assert!(bench.run_through(run()));
}

#[test]
fn nobody_goes_on_building_when_the_daemon_goes() {
    let mut zygote = process();
    let mut bench = Bench::new();
    bench.fakes.manner(|m| m.process = Some(zygote.id() as i32));
    bench.build_slowly();
    let mut asking = Caller(bench.connect());
    asking.0.send(&Request::Stop, &[]).unwrap();
    asking.0.set_nonblocking(true).unwrap();
    bench.turn_soon();
    // This one's channel does not end with its process.
    bench.ahead += Duration::from_secs(7);
    assert_eq!(bench.reply(&mut asking), Some(Reply::Done));
    assert!(bench.done && was_killed(&mut zygote));
}

#[test]
fn what_hangs_while_it_builds_is_ended() {
    let mut zygote = process();
    let mut bench = Bench::new();
    assert!(!bench.run_through(run()));
    bench.until("a Z0", |b| b.ready("Z0") == 1);
    bench.fakes.manner(|m| {
        m.slow = true;
        m.process = Some(zygote.id() as i32);
    });
    bench.until("it is known", |b| {
        let mut zygotes = b.server.dispatcher.zygotes.values();
        zygotes.any(|z| z.name() == "P0" && z.pid.is_some())
    });
    bench.ahead += Duration::from_secs(121);
    bench.turn_soon();
    assert!(was_killed(&mut zygote));
    assert!(bench.run_through(run()), "its Z0 is still there");
}

#[test]
fn a_daemon_that_goes_waits_without_spinning() {
    let mut bench = Bench::new();
    bench.ahead += Duration::from_secs(3600);
    let _silent = bench.connect();
    bench.event(Event::Quit(15));
    bench.turn_soon();
    let now = Instant::now() + bench.ahead;
    assert!(bench.server.dispatcher.deadline() > now);
    assert!(!bench.server.dispatcher.is_done(now));
}

#[test]
fn a_refused_run_does_not_wait_when_the_daemon_goes() {
    let mut bench = Bench::new();
    bench.warm_up();
    bench.fakes.manner(|m| m.mute = true);
    let mut caller = bench.send(run());
    bench.until("the order", |b| b.server.dispatcher.runs.len() == 1);
    bench.event(Event::Quit(15));
    let dispatcher = &mut bench.server.dispatcher;
    // As if all were being replaced at that moment.
    let root = &mut dispatcher.roots[0];
    root.next = root.current.take();
    let zygotes: Vec<_> = dispatcher.zygotes.keys().copied().collect();
    for zygote in zygotes {
        dispatcher.on_refused(zygote, 2, "no".into(), Instant::now());
    }
    assert!(dispatcher.runs.is_empty());
    assert!(matches!(
        caller.0.receive_now().unwrap().unwrap().decode(),
        Ok(Reply::Plain { .. })
    ));
}
