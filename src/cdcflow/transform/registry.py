"""The steps that there are: what the entry point group `cdcflow.transforms` holds, by the steps' names."""

from functools import lru_cache

from cdcflow.plugins import Plugins
from cdcflow.transform.step import StepPlugin

_steps = Plugins("cdcflow.transforms", StepPlugin, "step")

GROUP = _steps.group
names = _steps.names
#: A flow may name a step often, and looking through all packages costs milliseconds.
load = lru_cache(maxsize=256)(_steps.load)
