//! Which root a run belongs to, and when there is to be another one.
//!
//! The key of a root says what every interpreter looks at. Start-up code of an environment may look
//! at more, such as a variable; then a Z0 does not stand for all runs of its key, and a second root
//! is made for the others.

use std::time::{Duration, Instant};

use super::builds::{CHANGE_PATIENCE, CHANGE_PAUSE, RETRY};
use super::dispatcher::Dispatcher;
use super::root::{Root, Want};
use super::shape::{RootKey, caller};
use crate::protocol::Run;
use crate::trace::Caller;

/// Interpreters or environments used in turn in one project: two are common, and each root costs
/// tens to hundreds of megabytes.
const ROOTS: usize = 3;

/// A value that is another in each run would have Z0s built for ever: once this many have been of
/// no use, there is one every [`RETRY`].
const BARREN: usize = 2;

/// A first run is over in seconds, or it takes so long that a second of another core is nothing.
const FIRST_PATIENCE: Duration = Duration::from_secs(10);

impl Dispatcher {
    /// The root for a run: one whose Z0 stands for it, or else one of which that is not known yet,
    /// or else any of its key.
    pub(super) fn root_for(&mut self, run: &Run, tty: [bool; 3], now: Instant) -> RootKey {
        let key = RootKey::of(run);
        if let Some(fitting) = self.fitting_root(key, caller(run, tty)) {
            return fitting;
        }
        let siblings = self.roots.iter().filter(|root| root.key.is_sibling_of(key));
        if let Some(latest) = siblings.max_by_key(|root| root.used) {
            return latest.key;
        }
        self.add_root(key, run, now);
        key
    }

    fn fitting_root(&self, key: RootKey, caller: Caller<'_>) -> Option<RootKey> {
        let fits = |root: &&Root| {
            let current = root.current.as_ref();
            let z0 = current.and_then(|current| self.zygotes.get(&current.z0));
            let trace = z0
                .filter(|z0| z0.is_ready())
                .map(|z0| &z0.trace)
                .or_else(|| current.and_then(|current| current.retired.as_ref()));
            trace.is_none_or(|trace| trace.check_caller(caller).is_ok())
        };
        let siblings = self.roots.iter().filter(|root| root.key.is_sibling_of(key));
        siblings
            .filter(fits)
            .max_by_key(|root| (root.current.is_some(), root.used))
            .map(|root| root.key)
    }

    /// The Z0 of this root does not stand for the run: which root is to be tried instead, if any.
    pub(super) fn root_instead(
        &mut self,
        key: RootKey,
        run: &Run,
        tty: [bool; 3],
        now: Instant,
    ) -> Option<RootKey> {
        if let Some(fitting) = self.fitting_root(key, caller(run, tty)) {
            return Some(fitting);
        }
        let siblings = || self.roots.iter().filter(|root| root.key.is_sibling_of(key));
        let last = siblings().map(|root| root.key).max()?;
        let barren = siblings().filter(|root| root.is_barren());
        if barren.clone().count() >= BARREN {
            let latest = barren.clone().map(|root| root.born).max()?;
            if now < latest + RETRY {
                return None;
            }
            let oldest = barren.min_by_key(|root| root.used)?.key;
            let at = self.roots.iter().position(|root| root.key == oldest)?;
            self.remove_root(at, "no run was like the one it was built for");
        }
        let key = last.sibling();
        self.add_root(key, run, now);
        Some(key)
    }

    fn add_root(&mut self, key: RootKey, run: &Run, now: Instant) {
        self.make_room_for_a_root();
        self.roots.push(Root::new(key, Box::new(run.clone()), now));
    }

    /// A run found nothing that could serve it: sees to it that a later one does. Says why.
    pub(super) fn want_root(&mut self, key: RootKey, now: Instant) -> String {
        let Some(root) = self.root(key) else {
            return "no checkpoint is ready".into();
        };
        if let Some(failure) = &mut root.failure {
            let why = format!("no checkpoint could be built: {}", failure.reason);
            if failure.outdated() || now >= failure.at + RETRY {
                root.failure = None;
                let want = Want::new("another try", now, CHANGE_PAUSE, CHANGE_PATIENCE);
                root.want_build(want, now);
            }
            return why;
        }
        if root.next.is_some() {
            return "no checkpoint is ready yet (it is being built)".into();
        }
        match &root.build {
            Some(want) => format!("no checkpoint is ready yet ({})", want.why),
            // What it was offered has died under it, or is stale and being replaced.
            None if root.current.is_some() => "no checkpoint took it".into(),
            None => {
                let want = Want::new("first run", now, Duration::ZERO, FIRST_PATIENCE);
                root.build = Some(want);
                "the first run of its kind".into()
            }
        }
    }

    /// The least recently used root goes, of those first that never served anybody.
    fn make_room_for_a_root(&mut self) {
        if self.roots.len() < ROOTS {
            return;
        }
        let oldest = self
            .roots
            .iter()
            .enumerate()
            .min_by_key(|(_, root)| (!root.is_barren(), root.used));
        if let Some((at, _)) = oldest {
            self.remove_root(at, "others were used more recently");
        }
    }

    pub(super) fn remove_root(&mut self, at: usize, why: &str) {
        let root = self.roots.remove(at);
        tracing::info!("root {}: {why}", root.key.short());
        for generation in [root.current, root.next].into_iter().flatten() {
            self.dismiss(generation, why);
        }
    }
}
