"""What in a saved package keeps Apple's Neural Engine from running it, or makes it slow there, read off without running anything.

`lint` goes through a function with `RULES`, which are data: what each looks at, what it says, where it comes from, and whether its
threshold is a heuristic. `load` counts what a function computes and holds. Nothing here was measured on a device: a finding is a
place to look at first, and none is no proof that the Neural Engine takes the function.

How it is made: `view` a function with the types and constants of its values, `rules` what is looked for, `load` FLOPs and memory.
"""

from .load import Load, load_of
from .rules import RULES, Finding, Rule, lint

__all__ = ["RULES", "Finding", "Load", "Rule", "lint", "load_of"]
