//! What ends because it is not needed any more, and what follows where it is wanted again.

use std::time::{Duration, Instant};

use super::builds::AFTER_CHANGE;
use super::dispatcher::Dispatcher;
use super::root::Root;
use super::shape::RootKey;
use super::supervisor::{Zygote, ZygoteId};

/// A standby is for the next run. Who works with several kinds of runs in turn comes back to each
/// within a minute; without a standby the first run after that takes some milliseconds more.
const STANDBY_KEEP: Duration = Duration::from_secs(60);

/// What lies below a P0 is grown again in the background when a run of its kind comes back, which
/// the P0 serves meanwhile.
const CHECKPOINT_KEEP: Duration = Duration::from_secs(10 * 60);

impl Dispatcher {
    /// When a Z0 is to retire: what is wanted of it has been grown, and for a while nobody has
    /// asked for more. Most of what it holds is its own by then, as who was forked from it has
    /// written to nearly every page.
    pub(super) fn retirement_due(&self, root: &Root) -> Option<Instant> {
        let generation = root.current.as_ref()?;
        let z0 = self.zygotes.get(&generation.z0)?;
        let prepared = || {
            generation
                .prepared
                .iter()
                .filter_map(|id| self.zygotes.get(id))
        };
        let is_spare = z0.is_ready()
            && z0.runs.is_empty()
            && root.next.is_none()
            && prepared().any(|zygote| zygote.is_ready() && zygote.level.depth() == 1)
            && !prepared().any(Zygote::is_starting)
            && !root
                .records
                .iter()
                .any(|(level, record)| level.depth() == 1 && record.grow.is_some());
        is_spare.then_some(z0.needed + root.keep)
    }

    pub(super) fn retire_what_is_spare(&mut self, now: Instant) {
        for at in 0..self.roots.len() {
            let is_due = self
                .retirement_due(&self.roots[at])
                .is_some_and(|due| due <= now);
            if is_due {
                let key = self.roots[at].key;
                self.retire_z0(key, "what was grown from it stands");
            }
        }
    }

    pub(super) fn retire_z0(&mut self, key: RootKey, why: &str) {
        let root = self.roots.iter_mut().find(|root| root.key == key);
        let Some(generation) = root.and_then(|root| root.current.as_mut()) else {
            return;
        };
        if let Some(z0) = self.zygotes.get_mut(&generation.z0) {
            generation.retired = Some(z0.trace.clone());
            z0.end(why);
            self.watches_outdated = true;
        }
    }

    /// Standbys of a root that another one has taken the place of: those that no run has come to
    /// for a while, but for the one that was used last. And when each is to end.
    fn idle_standbys(&self, root: &Root) -> Vec<(Instant, ZygoteId)> {
        let with = |zygote: &&Zygote| zygote.root == root.key && zygote.standby.is_some();
        let mut found: Vec<_> = self.zygotes.values().filter(with).collect();
        found.sort_by_key(|zygote| (zygote.used, zygote.level.depth()));
        found.pop();
        found
            .into_iter()
            .map(|zygote| (zygote.needed + STANDBY_KEEP, zygote.id))
            .collect()
    }

    /// The same of checkpoints below a P0: all of a depth but the one that was used last.
    fn idle_checkpoints(&self, root: &Root) -> Vec<(Instant, ZygoteId)> {
        let current = root.current.iter().flat_map(|it| &it.prepared);
        let mut found: Vec<_> = current
            .filter_map(|id| self.zygotes.get(id))
            .filter(|zygote| zygote.is_ready() && zygote.level.depth() > 1)
            .collect();
        let is_parent = |id| self.zygotes.values().any(|child| child.parent == Some(id));
        found.sort_by_key(|zygote| (zygote.level.depth(), zygote.used));
        let pairs = found.windows(2);
        let others = pairs.filter(|two| two[0].level.depth() == two[1].level.depth());
        others
            .map(|two| two[0])
            .filter(|zygote| zygote.runs.is_empty() && !is_parent(zygote.id))
            .map(|zygote| (zygote.needed + CHECKPOINT_KEEP, zygote.id))
            .collect()
    }

    pub(super) fn rest_due(&self) -> Option<Instant> {
        let idle = |root| [self.idle_standbys(root), self.idle_checkpoints(root)].concat();
        let idle = self.roots.iter().flat_map(idle);
        idle.map(|(due, _)| due).min()
    }

    pub(super) fn rest_what_is_idle(&mut self, now: Instant) {
        let idle = self.roots.iter().flat_map(|root| self.idle_standbys(root));
        let due: Vec<_> = idle.filter(|(due, _)| *due <= now).collect();
        for (_, id) in due {
            self.zygotes.get_mut(&id).map(Zygote::rest);
        }
        let idle = self
            .roots
            .iter()
            .flat_map(|root| self.idle_checkpoints(root));
        let due: Vec<_> = idle.filter(|(due, _)| *due <= now).collect();
        for (_, id) in due {
            self.discard_prepared(id, "others were used more recently");
        }
    }

    /// Nothing that serves can be grown any more: the Z0 has retired, and no P0 is left.
    pub(super) fn is_stranded(&mut self, key: RootKey) -> bool {
        let Some(root) = self.roots.iter().find(|root| root.key == key) else {
            return false;
        };
        let current = root
            .current
            .iter()
            .filter(|current| current.retired.is_some());
        let mut prepared = current.flat_map(|current| &current.prepared).peekable();
        root.has_retired()
            && !prepared.any(|id| {
                let zygote = self.zygotes.get(id);
                zygote.is_some_and(|zygote| zygote.is_ready() && zygote.level.depth() == 1)
            })
    }

    pub(super) fn discard_if_stranded(&mut self, key: RootKey, why: &str, now: Instant) {
        if self.is_stranded(key) {
            self.discard_current(key, why, AFTER_CHANGE, now);
        }
    }

    pub(super) fn discard_current(
        &mut self,
        key: RootKey,
        why: &str,
        delay: Duration,
        now: Instant,
    ) {
        let current = self.root(key).and_then(|root| root.current.as_ref());
        if let Some(z0) = current.map(|current| current.z0) {
            self.discard_generation(z0, why, delay, now);
        }
    }
}
