//! Which checkpoint a run gets: the decision alone, without the tables it is made from.
//!
//! Prepared checkpoints that have accepted such a run come first, the deepest of them, and of those
//! the most recently used; then, if one may still be tried, one whose answer is not known; then the
//! Z0.
//! Whatever is offered has passed the check of its trace.

use super::supervisor::ZygoteId;
use crate::trace::Mismatch;

/// What a prepared checkpoint is known to say to runs of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Answer {
    Accepts,
    Unknown,
    Refuses,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub(super) id: ZygoteId,
    pub(super) answer: Answer,
    /// How far it has come.
    pub(super) depth: usize,
    /// Larger is more recent.
    pub(super) used: u64,
}

/// The choice, and what was found out on the way.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) zygote: Option<ZygoteId>,
    /// Checkpoints that stand for no run any more, and why.
    pub(super) stale: Vec<(ZygoteId, String)>,
    /// Why those that were passed over do not stand for this run, each reason once.
    pub(super) passed: Vec<String>,
    /// The Z0 is one of them: nothing of this root ever will.
    pub(super) misfit: Option<String>,
}

/// `may_guess` says whether a checkpoint of unknown answer may be tried for this run: a refusal
/// costs a fork. (A trace that does not hold costs none, and the next one is looked at.)
pub(super) fn choose(
    z0: Option<ZygoteId>,
    mut prepared: Vec<Candidate>,
    may_guess: bool,
    mut check: impl FnMut(ZygoteId) -> Result<(), Mismatch>,
) -> Choice {
    prepared.retain(|c| c.answer != Answer::Refuses);
    prepared.sort_by_key(|c| (c.answer, std::cmp::Reverse((c.depth, c.used))));
    let mut choice = Choice::default();
    let offers = prepared
        .into_iter()
        .map(|c| (c.id, c.answer))
        .chain(z0.map(|id| (id, Answer::Accepts)));
    for (id, answer) in offers {
        if answer == Answer::Unknown && !may_guess {
            continue;
        }
        match check(id) {
            Ok(()) => {
                choice.zygote = Some(id);
                break;
            }
            Err(Mismatch::Stale(why)) => choice.stale.push((id, why)),
            Err(Mismatch::Other(why)) if z0 == Some(id) => choice.misfit = Some(why),
            Err(Mismatch::Other(why) | Mismatch::Unsettled(why)) => {
                if !choice.passed.contains(&why) {
                    choice.passed.push(why);
                }
            }
        }
    }
    choice
}

#[cfg(test)]
mod tests {
    use super::*;

    const Z0: ZygoteId = ZygoteId(1);

    fn p0(id: u64, answer: Answer, used: u64) -> Candidate {
        Candidate {
            id: ZygoteId(id),
            answer,
            depth: 1,
            used,
        }
    }

    fn fits(_: ZygoteId) -> Result<(), Mismatch> {
        Ok(())
    }

    #[test]
    fn the_most_recent_that_accepts_comes_first() {
        let prepared = vec![
            p0(2, Answer::Accepts, 1),
            p0(3, Answer::Accepts, 5),
            p0(4, Answer::Unknown, 9),
        ];
        assert_eq!(
            choose(Some(Z0), prepared, true, fits).zygote,
            Some(ZygoteId(3))
        );
    }

    #[test]
    fn the_deepest_that_holds_comes_first() {
        let deeper = Candidate {
            depth: 2,
            ..p0(3, Answer::Accepts, 1)
        };
        let prepared = || vec![p0(2, Answer::Accepts, 5), deeper];
        let choice = choose(Some(Z0), prepared(), true, fits);
        assert_eq!(choice.zygote, Some(ZygoteId(3)));
        let choice = choose(Some(Z0), prepared(), true, |id| match id {
            ZygoteId(3) => Err(Mismatch::Stale("edited".into())),
            _ => Ok(()),
        });
        assert_eq!(choice.zygote, Some(ZygoteId(2)));
    }

    #[test]
    fn one_guess_is_made_then_z0_serves() {
        let prepared = || vec![p0(2, Answer::Unknown, 1), p0(3, Answer::Unknown, 2)];
        assert_eq!(
            choose(Some(Z0), prepared(), true, fits).zygote,
            Some(ZygoteId(3))
        );
        assert_eq!(choose(Some(Z0), prepared(), false, fits).zygote, Some(Z0));
        let choice = choose(Some(Z0), prepared(), true, |id| match id {
            ZygoteId(3) => Err(Mismatch::Other("differs".into())),
            _ => Ok(()),
        });
        assert_eq!(choice.zygote, Some(ZygoteId(2)));
        assert_eq!(choice.passed, ["differs"]);
        let choice = choose(Some(Z0), prepared(), true, |id| match id {
            Z0 => Ok(()),
            _ => Err(Mismatch::Other("differs".into())),
        });
        assert_eq!(choice.zygote, Some(Z0));
        assert_eq!(choice.passed, ["differs"], "said once");
    }

    #[test]
    fn what_refused_is_not_asked_again() {
        let choice = choose(Some(Z0), vec![p0(2, Answer::Refuses, 1)], true, |id| {
            assert_eq!(id, Z0);
            Ok(())
        });
        assert_eq!(choice.zygote, Some(Z0));
    }

    #[test]
    fn a_stale_checkpoint_is_named_and_never_chosen() {
        let choice = choose(Some(Z0), vec![p0(2, Answer::Accepts, 1)], true, |id| {
            Err(Mismatch::Stale(format!("input of {}", id.0)))
        });
        assert_eq!(choice.zygote, None);
        assert_eq!(
            choice.stale,
            [
                (ZygoteId(2), "input of 2".into()),
                (Z0, "input of 1".into())
            ]
        );
    }

    #[test]
    fn a_z0_that_does_not_fit_is_told_apart() {
        let choice = choose(Some(Z0), vec![p0(2, Answer::Accepts, 1)], true, |id| {
            Err(Mismatch::Other(format!("not for {}", id.0)))
        });
        assert_eq!(choice.zygote, None);
        assert_eq!(choice.passed, ["not for 2"]);
        assert_eq!(choice.misfit.as_deref(), Some("not for 1"));
    }

    #[test]
    fn without_a_z0_a_prepared_checkpoint_may_still_serve() {
        let choice = choose(None, vec![p0(2, Answer::Accepts, 1)], false, fits);
        assert_eq!(choice.zygote, Some(ZygoteId(2)));
    }
}
