"""Drives pytest and pyseidon-test as a user would, from outside, with real processes.

- `interpreters`: the Pythons of this machine
- `environments`: virtual environments with the wheel and a given pytest; tiny wheels to put there
- `tree`: what a run wrote
- `outcome`: what a run said, and the comparison
- `rendezvous`: waiting for what happens in another process, never for time
- `daemon`: what `pyseidon-daemon status --json` says
- `terminal`: a run on a terminal
- `sandbox`: one home, one project, one daemon; the tests' main tool
- `projects`: what lies under `fixtures/`
"""
