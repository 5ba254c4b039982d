"""What happens to a batch between journal and sink: which tables a flow takes, and its chain of steps."""

from collections.abc import Callable

from cdcflow.model import Batch
from cdcflow.transform.chain import Chain, Link, Stage
from cdcflow.transform.mistakes import Misfit, Mistake, by_place
from cdcflow.transform.select import Select
from cdcflow.transform.step import (
    Bound,
    Interruptible,
    Noted,
    Run,
    Site,
    Step,
    StepContext,
    StepError,
    StepPlugin,
    TableName,
    Tables,
    Way,
)

#: Gives back the same run of offsets with other contents.
Pass = Callable[[Batch], Batch]

__all__ = [
    "Bound",
    "Chain",
    "Interruptible",
    "Link",
    "Misfit",
    "Mistake",
    "Noted",
    "Pass",
    "Run",
    "Select",
    "Site",
    "Stage",
    "Step",
    "StepContext",
    "StepError",
    "StepPlugin",
    "TableName",
    "Tables",
    "Way",
    "by_place",
]
