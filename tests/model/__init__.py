"""Random projects, random edits, random selections: each step compared with plain pytest.

The rules of what may be preloaded are about modules that write into each other, and about inputs
nobody thinks of. A test that somebody wrote attacks the case that somebody thought of; this one
attacks their combinations. Everything is drawn from a seed, so that a failure can be played again.

- `scenario`: what is played, as data: the first tree, then steps of changes and one run each
- `probe`: the module that a generated project's tests ask what state they are in
- `atoms`: statements that a module executes when it is imported
- `motifs`: cases across several files, first of all those that refuted earlier designs
- `project`: a first tree of both
- `edits`: what happens to a tree between two runs
- `selections`: what is run, in which environment
- `generate`: a seed's scenario
- `player`: plays a scenario in a sandbox, by plain pytest and by a subject
- `shrink`: the smallest scenario that still fails
- `mutants`: subjects that are wrong on purpose, to judge all the above
- `__main__`: `make model`
"""
