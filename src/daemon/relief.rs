//! Gives memory back where it is short: in steps, and as little as helps.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::dispatcher::{Dispatcher, wall_clock};
use super::pressure::{Gauge, Reading, Relief};
use super::supervisor::{Zygote, ZygoteId};

/// How often is looked: three small files, a tenth of a millisecond. Memory that is used up faster
/// than this nobody gives back in time.
const PAUSE: Duration = Duration::from_secs(5);
/// And while it is short: what an ended process held is there for others within that time.
const PAUSE_WHILE_SHORT: Duration = Duration::from_secs(1);

/// As many as anybody will read.
const TOLD: usize = 5;

/// Something that went because memory was short.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Gone {
    pub(super) what: String,
    pub(super) why: String,
    /// Seconds since the epoch.
    pub(super) at: f64,
}

/// What is known of memory.
#[derive(Debug)]
pub(super) struct Memory {
    gauge: Gauge,
    next_look: Instant,
    /// The latest reading, from when it was short until there is enough again.
    pub(super) shortage: Option<Reading>,
    pub(super) gone: VecDeque<Gone>,
}

impl Memory {
    pub(super) fn new(gauge: Gauge, now: Instant) -> Self {
        Self {
            gauge,
            next_look: now,
            shortage: None,
            gone: VecDeque::new(),
        }
    }
}

impl Dispatcher {
    /// When memory is to be looked at, if there is anything to give back.
    pub(super) fn memory_due(&self) -> Option<Instant> {
        let holds = !self.zygotes.is_empty() || self.memory.shortage.is_some();
        holds.then_some(self.memory.next_look)
    }

    pub(super) fn look_at_memory(&mut self, now: Instant) {
        if self.is_closing() || self.memory_due().is_none_or(|due| due > now) {
            return;
        }
        let reading = self.memory.gauge.read();
        if let Some(reading) = reading {
            if self.memory.shortage.is_some() && reading.is_enough() {
                tracing::info!("memory is enough again: {}", reading.describe());
                self.memory.shortage = None;
            }
            if reading.relief() != Relief::Nothing || self.memory.shortage.is_some() {
                self.memory.shortage = Some(reading);
                self.relieve(reading, now);
            }
        }
        self.memory.next_look = now
            + match self.memory.shortage {
                Some(_) => PAUSE_WHILE_SHORT,
                None => PAUSE,
            };
    }

    /// Why nothing is built, if so.
    pub(super) fn why_short(&self) -> Option<String> {
        let reading = self.memory.shortage.as_ref()?;
        Some(format!("memory is short: {}", reading.describe()))
    }

    /// One step.
    fn relieve(&mut self, reading: Reading, now: Instant) {
        let relief = reading.relief();
        let gone = if relief == Relief::Nothing {
            None
        } else if self.end_standbys() {
            Some("the standbys".to_owned())
        } else if relief >= Relief::Roots && self.roots.len() > 1 {
            self.end_oldest_root()
        } else if relief >= Relief::Checkpoints {
            self.end_shallowest(now)
        } else {
            None
        };
        let Some(what) = gone else { return };
        let why = reading.describe();
        tracing::info!("memory is short: {why}: ended {what}");
        self.memory.gone.push_back(Gone {
            what,
            why,
            at: wall_clock(),
        });
        if self.memory.gone.len() > TOLD {
            self.memory.gone.pop_front();
        }
    }

    /// False if there is none.
    fn end_standbys(&mut self) -> bool {
        let mut any = false;
        for zygote in self.zygotes.values_mut().filter(|it| it.standby.is_some()) {
            zygote.rest();
            any = true;
        }
        any
    }

    fn end_oldest_root(&mut self) -> Option<String> {
        let roots = self.roots.iter().enumerate();
        let (at, root) = roots.min_by_key(|(_, root)| root.used)?;
        let what = format!("root {}", root.key.short());
        self.remove_root(at, "memory is short");
        Some(what)
    }

    /// What is being built goes first, then from above; a run that is right below goes on being
    /// served by what is deeper.
    fn end_shallowest(&mut self, now: Instant) -> Option<String> {
        const WHY: &str = "memory is short";
        let root = self.roots.last_mut()?;
        let key = root.key;
        if let Some(next) = root.next.take() {
            self.dismiss(next, WHY);
            return Some("a replacement".to_owned());
        }
        let current = root.current.as_ref()?;
        let zygotes = current.members().filter_map(|id| self.zygotes.get(&id));
        let idle = zygotes.filter(|it| !matches!(it.state, super::supervisor::State::Leaving(_)));
        let shallowest = idle
            .min_by_key(|zygote| (!zygote.is_starting(), zygote.level.depth(), zygote.used))
            .map(|zygote| (zygote.id, zygote.name(), zygote.level.depth()));
        let (id, name, depth): (ZygoteId, _, _) = shallowest?;
        let is_last = !self.zygotes.values().any(|zygote| {
            zygote.root == key && zygote.id != id && (zygote.is_ready() || zygote.is_starting())
        });
        if is_last {
            self.discard_current(key, WHY, Duration::ZERO, now);
        } else if depth == 0 {
            self.retire_z0(key, WHY);
        } else {
            self.discard_prepared(id, WHY);
        }
        Some(format!("a {name}"))
    }

    /// A zygote has a standby again.
    pub(super) fn send_to_rest_if_short(&mut self, id: ZygoteId) {
        let is_short = |reading: &Reading| reading.relief() != Relief::Nothing;
        if self.memory.shortage.as_ref().is_some_and(is_short) {
            self.zygotes.get_mut(&id).map(Zygote::rest);
        }
    }
}
