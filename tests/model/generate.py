"""A seed's scenario: the same wherever it is drawn."""

from __future__ import annotations

import random

from .edits import Edits
from .project import as_changes, first_tree, site_files
from .scenario import Scenario, Step
from .selections import Selections

STEPS = 20
"""Enough for a checkpoint of each depth to be built, hit and missed; a failure is soon replayed."""


def scenario(seed: int, steps: int = STEPS) -> Scenario:
    chance = random.Random(seed)
    draft = first_tree(chance)
    # Such a scenario needs an environment of its own, which takes a second.
    draft.in_environment = chance.random() < 0.15
    if draft.in_environment:
        for path, text in site_files().items():
            draft.put(path, text)
    files = as_changes(draft)
    edits = Edits(draft)
    selections = Selections(draft)
    played = []
    for number in range(steps):
        draft.drawn("changes the environment" if draft.in_environment else "changes the project")
        # First of all the project as it is: what is built for it is what the edits attack.
        changes = edits.draw() if number > 1 else []
        played.append(Step(tuple(changes), selections.draw()))
    return Scenario(seed, files, tuple(played), frozenset(draft.kinds))
