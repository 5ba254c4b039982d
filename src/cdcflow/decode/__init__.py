"""pgoutput to batches. The compiled kernel where it is there, its Python twin where it is not.

`CDCFLOW_DECODER=auto|py|c` chooses; asking for `c` where it is missing is an error that says why.
"""

import os
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Literal

from cdcflow.errors import ConfigurationError

__all__ = ["CopyDecoder", "Decoder", "implementation"]


def _choose() -> tuple[Literal["c", "py"], ModuleType]:
    wanted = os.environ.get("CDCFLOW_DECODER", "auto")
    if wanted not in ("auto", "py", "c"):
        raise ConfigurationError(f"CDCFLOW_DECODER must be auto, py or c, found {wanted!r}")
    if wanted != "py":
        try:
            return "c", import_module("cdcflow.decode._kernel")
        except ImportError as error:
            if wanted == "c":
                raise ConfigurationError(
                    f"CDCFLOW_DECODER=c, but the compiled decoder cannot be loaded: {error}",
                    hint="reinstall with a C compiler and CDCFLOW_BUILD_EXT=yes, or unset CDCFLOW_DECODER",
                ) from error
    return "py", import_module("cdcflow.decode.twin")


_implementation, _module = _choose()

if TYPE_CHECKING:
    from cdcflow.decode.twin import CopyDecoder, Decoder
else:
    Decoder = _module.Decoder
    CopyDecoder = _module.CopyDecoder


def implementation() -> Literal["c", "py"]:
    """Which decoder this process uses: `c`, the compiled kernel, or `py`, its twin."""
    return _implementation
