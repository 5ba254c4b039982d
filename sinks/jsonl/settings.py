"""What can be said about a `jsonl` sink in `cdcflow.yaml`."""

from typing import Annotated, Literal

from pydantic import Field

from cdcflow.sink import ConfigPath, Settings, SinkSettings
from cdcflow.sink.quantities import Duration, Size
from cdcflow.types import Numbers


class Rotate(Settings):
    """When a file is closed for good and the next one begun."""

    #: A file is never larger than this, unless a single event is. Large enough that a day of a busy
    #: table is tens of files and not thousands, small enough to be opened in an editor.
    size: Annotated[Size, Field(gt=0)] = 64 * 10**6
    #: No file spans a multiple of this, counted from midnight UTC on 1970-01-01: `1h` makes a file an hour
    #: where something happens.
    age: Annotated[Duration, Field(ge=1)] = 3_600.0


class JsonlSettings(SinkSettings):
    """`path` is a directory, made when it is not there; several flows can share it."""

    type: Literal["jsonl"] = "jsonl"
    path: ConfigPath
    rotate: Rotate = Rotate()
    #: `safe`: what JavaScript would change (integers beyond 2^53, numeric) is a string. `exact`: every number
    #: is a JSON number with all its digits, for readers that have exact numbers.
    numbers: Numbers = "safe"
