"""Pyseidon: pytest from warm processes, with the same answer.

The commands are `pyseidon-test` (in place of `pytest`) and `pyseidon-daemon` (looks after what
runs in the background). This package is the Python half of a zygote; it is never imported in a
test run, unless by the tests themselves or for `pyseidon-daemon verify`.

- `boot`: starts a zygote and runs the `pytest` script in it
- `park`: where a zygote parks, and what its children go on with
- `conftests`: goes on from there through the conftests that pytest loads first
- `worker`: makes a forked child the process that the caller would have started
- `arguments`: lets a child parked inside pytest go on with the caller's arguments
- `ahead`: an import that every run makes late, made before the fork and hidden until then
- `effects`: what an import does while it is made; `world`: what it changed
- `adoption`: gives a run what was imported ahead; `unpatched`: whether what that used was patched
- `forget`: takes away modules that we needed before pytest did
- `observe`: what a zygote read on its way; `barriers`: what a fork cannot carry over
- `bytecode`: byte code that a plain run would have left behind
- `refresh`: what a child must draw anew
- `witness`: a plugin that says what a run saw
"""

__version__ = "0.1.0"
