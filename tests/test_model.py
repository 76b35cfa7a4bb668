"""Random projects, edits and selections: the same as plain pytest at each step.

What is drawn is in `tests/model`. Here a bounded number of seeds is played, the same each time;
`make model` plays as many as one likes. The other tests judge the test: that all its cases are
drawn, and that subjects which are wrong are caught.
"""

from __future__ import annotations

import random

import pytest

from .harness import sandbox as harness
from .harness.environments import Environment
from .model import atoms, generate, motifs, mutants, selections
from .model.edits import Edits
from .model.player import Played, model_environment, play
from .model.project import first_tree
from .model.scenario import Scenario
from .model.shrink import Shrinker

SEEDS = range(8)
SHRINK = 90.0
"""Seconds for making a failure smaller."""


@pytest.fixture(scope="session")
def model_env(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return model_environment(tmp_path_factory.mktemp("model") / "env")


# Its steps take half a second each, four times that on a busy machine; then there is the shrinking.
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", SEEDS)
def test_seed(model_env: Environment, seed: int) -> None:
    scenario = generate.scenario(seed)
    played = play(scenario, model_env)
    if played.failure:
        shrinker = Shrinker(lambda smaller: play(smaller, model_env).failure, SHRINK)
        smaller = shrinker.shrink(scenario, played.failure)
        pytest.fail(
            f"{shrinker.failure.text}\n\n{smaller}\n\nfrom {len(scenario.steps)} steps; again: "
            f"make model STEPS={len(scenario.steps)} SEED={seed}"
        )
    if not harness.REFERENCE:
        # Otherwise plain pytest was compared with itself.
        assert set(played.levels) - {"plain", "unknown"}, played.levels


# ------------------------------------------------------------------ what is drawn


def test_everything_is_drawn() -> None:
    """Each statement, each case across files, each edit, each option: none is out of reach."""
    drawn = set().union(*(generate.scenario(seed).kinds for seed in range(400)))
    edits = Edits(first_tree(random.Random(0)))
    expected = {f"atom: {kind}" for kind in atoms.ATOMS}
    expected |= {f"motif: {name}" for name in motifs.MOTIFS}
    expected |= {f"broken: {name}" for name in atoms.BREAKS}
    expected |= {f"edit: {kind}" for kind in edits.kinds}
    expected |= {f"option: {' '.join(words)}" for words in selections.MORE}
    expected |= {f"variable: {name}" for name in selections.NAMES}
    assert not expected - drawn
    in_environment = {"edit: installed", "edit: installed package edited", "edit: path file"}
    assert in_environment <= drawn


def test_same_seed_same_scenario() -> None:
    """Also after it was stored: a failure can be played again."""
    scenario = generate.scenario(7)
    assert generate.scenario(7) == scenario
    assert generate.scenario(8) != scenario
    assert Scenario.load(scenario.dump()) == scenario


# ------------------------------------------------------------------ what is caught


def first_caught(model_env: Environment, subject, seeds: range) -> tuple[Scenario, Played]:
    for seed in seeds:
        scenario = generate.scenario(seed, 8)
        played = play(scenario, model_env, subject)
        if played.failure:
            return scenario, played
    raise AssertionError(f"nothing is wrong with it, say the seeds {seeds}")


@pytest.mark.timeout(300)
def test_stale_answers_are_caught_and_shrunk(model_env: Environment) -> None:
    scenario, played = first_caught(model_env, mutants.stale, range(4))
    assert played.failure
    shrinker = Shrinker(lambda smaller: play(smaller, model_env, mutants.stale).failure, 30)
    smaller = shrinker.shrink(scenario, played.failure)
    # A run that is recorded, an edit, and a run that is answered from the record.
    assert len(smaller.steps) <= 2, smaller
    assert len(smaller.files) < len(scenario.files) / 2, smaller
    assert play(smaller, model_env, mutants.stale).failure, smaller
    assert not play(smaller, model_env, lambda sandbox: sandbox.pytest).failure, smaller


@pytest.mark.timeout(300)
@pytest.mark.parametrize("design", [name for name in mutants.AHEAD if name != "nothing"])
def test_refuted_designs_are_caught(model_env: Environment, design: str) -> None:
    first_caught(model_env, mutants.ahead(design), range(20, 30))


@pytest.mark.timeout(300)
def test_plain_pytest_passes(model_env: Environment) -> None:
    """What makes the wrong subjects wrong is not the way in which they are started."""
    for seed in range(20, 22):
        played = play(generate.scenario(seed, 8), model_env, mutants.ahead("nothing"))
        assert not played.failure, played.failure.text
