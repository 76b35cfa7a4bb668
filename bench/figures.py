"""Turns the samples of one selection into figures."""

import statistics

from measure import summary


def ratio(above, below):
    """The median over the rounds of one time divided by the other of the same round, so that what
    the machine did meanwhile hits both."""
    pairs = [one / other for one, other in zip(above, below) if one and other]
    return round(statistics.median(pairs), 3) if pairs else None


def by_round(samples):
    """Milliseconds, with nothing where the answer was wrong."""
    return [None if s["wrong"] else round(s["seconds"] * 1e3, 2) for s in samples]


def of_selection(runner, samples):
    """What is known of one runner on one selection."""
    own = samples[runner.name]
    right = [sample for sample in own if not sample["wrong"]]
    result = {"wrong": [sample["wrong"] for sample in own if sample["wrong"]]}
    if not right:
        return {**result, "absent": result["wrong"][0]}
    result.update(summary([sample["seconds"] for sample in right]))
    result["samples_ms"] = by_round(own)
    base = samples.get(runner.base)
    if base and runner.base != runner.name:
        result["base"] = runner.base
        result["times_faster"] = ratio(by_round(base), by_round(own))
    runs = [sample for sample in right if sample["run"]]
    if runs:
        result["inside"] = inside(runs)
    return result


def inside(samples):
    """Where the time of our own runs went, by the daemon's account of each."""
    runs = [sample["run"] for sample in samples]
    result = {"served_by": {}}
    for run in runs:
        result["served_by"][run["checkpoint"]] = result["served_by"].get(run["checkpoint"], 0) + 1
    told = [sample for sample in samples if sample["run"]["seconds"]]
    if not told:
        return result
    for index, part in enumerate(("before", "in", "after")):
        values = [sample["run"]["seconds"][index] for sample in told]
        result[f"{part}_pytest_ms"] = round(statistics.median(values) * 1e3, 2)
    added = [sample["seconds"] - sample["run"]["seconds"][1] for sample in told]
    result["added_around_pytest"] = summary(added)
    for way in sorted({sample["run"]["exit"] for sample in told}):
        taken = [sample for sample in told if sample["run"]["exit"] == way]
        result[f"{way.lower()}_exit"] = {
            **summary([sample["seconds"] for sample in taken]),
            "after_pytest_ms": round(
                statistics.median(s["run"]["seconds"][2] for s in taken) * 1e3, 2
            ),
        }
    return result
