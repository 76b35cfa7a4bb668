//! Checkpoints below a P0.

use super::fakes::{BEFORE_EDITED, run};
use super::harness::Bench;
use super::with_argv;
use crate::daemon::dispatcher::Event;
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
fn of_many_kinds_of_runs_each_keeps_its_base_and_nothing_is_built_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let edited = dir.path().join("edited.py");
    std::fs::write(&edited, "0").unwrap();
    let mut bench = Bench::new();
    bench.fakes.manner(|m| {
        m.goes_deeper = true;
        m.z2_reads = Some(edited.clone());
    });
    let kinds = ["a", "b", "c", "d"].map(|name| with_argv(&[name]));
    let rests = |b: &mut Bench| {
        let zygotes = &b.server.dispatcher.zygotes;
        let records = b.server.dispatcher.roots[0].records.values();
        zygotes.values().all(|zygote| zygote.is_ready())
            && records.into_iter().all(|record| record.grow.is_none())
    };
    bench.warm_up();
    for run in &kinds {
        assert!(bench.run_through(run.clone()));
        bench.until("its Z2", rests);
    }
    assert_eq!(bench.ready("Z2"), kinds.len());
    for round in ["1", "22", "333"] {
        for run in &kinds {
            assert!(bench.run_through(run.clone()));
            assert_eq!(bench.last_checkpoint().as_deref(), Some("Z2"));
        }
        bench.until("rest", rests);
        let tried = *bench.fakes.tried.lock().unwrap();
        std::fs::write(&edited, round).unwrap();
        bench.event(Event::Changed([dir.path().to_path_buf()].into()));
        bench.until("others", |b| *b.fakes.tried.lock().unwrap() >= tried + 4);
        bench.until("rest", rests);
    }
    let level = |run| Level::all(run).pop().unwrap();
    for run in &kinds {
        let zygotes = bench.server.dispatcher.zygotes.values();
        let (bases, others): (Vec<_>, Vec<_>) = zygotes
            .filter(|zygote| zygote.level == level(run))
            .partition(|zygote| zygote.before.is_some());
        assert_eq!((bases.len(), others.len()), (1, 1));
    }

    // A fifth kind takes the place of the one that was used least recently, and of its base.
    let fifth = with_argv(&["e"]);
    assert!(bench.run_through(fifth.clone()));
    bench.until("its Z2", rests);
    for run in kinds.iter().take(1) {
        let mut zygotes = bench.server.dispatcher.zygotes.values();
        assert!(!zygotes.any(|zygote| zygote.level == level(run)));
    }
    assert!(bench.run_through(fifth));
    assert_eq!(bench.last_checkpoint().as_deref(), Some("Z2"));
}

#[test]
fn what_cannot_go_deeper_than_one_from_a_base_is_not_tried_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let edited = dir.path().join("edited.py");
    let module = dir.path().join("test_a.py");
    std::fs::write(&edited, "0").unwrap();
    std::fs::write(&module, "").unwrap();
    let mut bench = Bench::new();
    bench.fakes.manner(|m| {
        m.goes_deeper = true;
        m.has_no_z3 = true;
        m.z2_reads = Some(edited.clone());
    });
    let run = with_argv(&[module.to_str().unwrap()]);
    bench.warm_up();
    assert!(bench.run_through(run.clone()));
    let z2 = Level::all(&run)[1].clone();
    let from_base = |b: &Bench| {
        let zygotes = &b.server.dispatcher.zygotes;
        let mut ready = zygotes.values().filter(|z| z.is_ready() && z.level == z2);
        ready.any(|z| {
            z.parent
                .and_then(|id| zygotes.get(&id))
                .is_some_and(|p| p.level == z2)
        })
    };
    let is_ready = |b: &Bench| {
        let mut zygotes = b.server.dispatcher.zygotes.values();
        zygotes.any(|z| z.is_ready() && z.level == z2)
    };
    for content in ["1", "22"] {
        bench.until("its Z2", |b| is_ready(b));
        assert!(bench.run_through(run.clone()));
        std::fs::write(&edited, content).unwrap();
        bench.event(Event::Changed([dir.path().to_path_buf()].into()));
        bench.until("its end", |b| !is_ready(b));
    }
    bench.until("one from a base", |b| from_base(b));
    let z3 = Level::all(&run)[2].clone();
    let rests = |b: &mut Bench| {
        let record = &b.server.dispatcher.roots[0].records[&z3];
        record.failure.is_some() && record.grow.is_none()
    };
    bench.until("a try from there", rests);
    let tried = *bench.fakes.tried_z3.lock().unwrap();
    assert!(bench.run_through(run.clone()));
    bench.until("rest", rests);
    assert!(from_base(&bench), "the base is kept");
    assert_eq!(*bench.fakes.tried_z3.lock().unwrap(), tried);
}

#[test]
fn an_opening_is_kept_and_the_next_is_grown_from_there() {
    let dir = tempfile::tempdir().unwrap();
    let edited = dir.path().join("edited.py");
    std::fs::write(&edited, "0").unwrap();
    let mut bench = Bench::new();
    let opening = (BEFORE_EDITED.to_owned(), 1.5);
    bench.fakes.manner(|m| {
        m.goes_deeper = true;
        m.z2_reads = Some(edited.clone());
        m.opening = Some(opening.clone());
    });
    bench.warm_up();
    let level = Level::all(&run()).pop().unwrap();
    let parked = |b: &Bench| {
        let zygotes = b.server.dispatcher.zygotes.values();
        let ready = zygotes.filter(|zygote| zygote.is_ready() && zygote.level == level);
        let mut found: Vec<_> = ready
            .map(|zygote| zygote.before.as_ref().map(|before| before.what.clone()))
            .collect();
        found.sort();
        found
    };
    let both = [None, Some(opening.0.clone())];
    bench.until("an opening, and one Z2 from there", |b| {
        let rests = b.server.dispatcher.roots[0].records[&level].grow.is_none();
        rests && parked(b) == both
    });
    let is_opening = |b: &Bench| b.last_checkpoint().as_deref() == Some("Z2");
    std::fs::write(&edited, "another").unwrap();
    assert!(bench.run_through(run()));
    assert!(is_opening(&bench), "it has not read what was edited");
    bench.until("another Z2", |b| parked(b) == both);
    // What does not get there is grown without.
    bench
        .fakes
        .manner(|m| m.fails = Some("not there".to_owned()));
    let edit = |bench: &mut Bench, text| {
        std::fs::write(&edited, text).unwrap();
        bench.event(Event::Changed([dir.path().to_path_buf()].into()));
    };
    edit(&mut bench, "a third");
    bench.until("a failure", |b| {
        b.server.dispatcher.roots[0].records[&level]
            .failure
            .is_some()
    });
    bench.fakes.manner(|m| m.fails = None);
    edit(&mut bench, "the last one");
    bench.until("a Z2 alone", |b| parked(b) == [None]);
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

#[test]
fn what_cannot_be_kept_ends_a_checkpoint_before_it_until_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    let culprit = dir.path().join("draws.py");
    std::fs::write(&culprit, "one").unwrap();
    let mut bench = Bench::new();
    bench.fakes.manner(|m| {
        m.goes_deeper = true;
        m.stops = vec!["before `b`", "before `a`"];
        m.stops_read = Some(culprit.clone());
    });
    bench.warm_up();
    bench.until("a Z2", |b| b.ready("Z2") == 1);
    assert_eq!(*bench.fakes.tried.lock().unwrap(), 3);
    let changed = || Event::Changed([dir.path().to_path_buf()].into());
    let level = Level::all(&run()).pop().unwrap();
    let before = |b: &Bench| {
        let record = &b.server.dispatcher.roots[0].records[&level];
        record.before.clone().map(|before| before.what)
    };
    assert_eq!(before(&bench).as_deref(), Some("before `a`"));

    // It does so still: what is parked there is kept.
    std::fs::write(&culprit, "another").unwrap();
    bench.event(changed());
    bench.until("two tries", |b| *b.fakes.tried.lock().unwrap() == 5);
    bench.until("the same stop", |b| {
        before(b).as_deref() == Some("before `a`")
    });
    assert!(bench.run_through(run()));
    assert_eq!(bench.last_checkpoint().as_deref(), Some("Z2"));
    assert_eq!(*bench.fakes.tried.lock().unwrap(), 5);

    // It does not any more.
    bench.fakes.manner(|m| m.stops.clear());
    std::fs::write(&culprit, "a third").unwrap();
    bench.event(changed());
    bench.until("one that goes all the way", |b| {
        let ready = b.server.dispatcher.zygotes.values();
        let mut ready = ready.filter(|z| z.is_ready() && z.level == level);
        ready.all(|zygote| zygote.before.is_none()) && b.ready("Z2") == 1
    });
    assert_eq!(before(&bench), None);
    assert!(bench.run_through(run()));
    assert_eq!(bench.last_checkpoint().as_deref(), Some("Z2"));
}

#[test]
fn what_fails_wherever_it_is_to_stop_is_given_up() {
    let mut bench = Bench::new();
    bench.fakes.manner(|m| {
        m.goes_deeper = true;
        m.stops = vec!["?", "before `a`", "?"];
    });
    bench.warm_up();
    let level = Level::all(&run()).pop().unwrap();
    bench.until("a failure", |b| {
        let record = &b.server.dispatcher.roots[0].records[&level];
        record.failure.is_some()
    });
    assert_eq!(*bench.fakes.tried.lock().unwrap(), 3);
    assert!(bench.run_through(run()));
    assert_eq!(bench.last_checkpoint().as_deref(), Some("P0"));
}
