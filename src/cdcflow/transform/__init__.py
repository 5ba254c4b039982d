"""What happens to a batch between the journal and the sink: pure steps from batch to batch."""

from collections.abc import Callable

from cdcflow.model import Batch
from cdcflow.transform.select import Select

#: Gives back the same run of offsets with other contents. Raises nothing on purpose.
Step = Callable[[Batch], Batch]

__all__ = ["Select", "Step"]
