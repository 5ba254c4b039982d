"""Building blocks of configuration models: secrets that never show, paths that know where they stand."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, SecretStr, ValidationInfo

#: Key of the validation context: the directory of the file that is being read.
BASE = "base"


def _base(info: ValidationInfo) -> Path:
    return Path((info.context or {}).get(BASE, "."))


def _under_base(value: Path, info: ValidationInfo) -> Path:
    value = value.expanduser()
    return value if value.is_absolute() else _base(info) / value


class FileSecret(SecretStr):
    """A secret that stands in a file. `get_secret_value` is what the file holds now, so that a credential
    can be replaced while the engine runs; while it cannot be read or is empty, because somebody is just
    replacing it, it is what was read last."""

    def __init__(self, value: str, file: Path) -> None:
        super().__init__(value)
        self.file = file

    def get_secret_value(self) -> str:
        try:
            found = _content(self.file)
        except (OSError, UnicodeDecodeError):
            found = ""
        if found:
            self._secret_value = found
        return self._secret_value


def secret_files(settings: object) -> frozenset[Path]:
    """The files that the secrets in a model of settings stand in."""
    if isinstance(settings, FileSecret):
        return frozenset((settings.file,))
    if isinstance(settings, BaseModel):
        parts: Iterable[object] = (getattr(settings, name) for name in type(settings).model_fields)
    elif isinstance(settings, Mapping):
        parts = settings.values()
    elif isinstance(settings, list | tuple | set | frozenset):
        parts = settings
    else:
        return frozenset()
    return frozenset(file for part in parts for file in secret_files(part))


def _content(file: Path) -> str:
    return file.read_text(encoding="utf-8").rstrip("\r\n")


def _read_secret(value: Any, info: ValidationInfo) -> Any:
    """`file:/path` stands for the file's content without its last newline.

    A relative path is looked for in `$CREDENTIALS_DIRECTORY` (systemd's LoadCredential) first, then
    beside the configuration file.
    """
    if not isinstance(value, str) or not value.startswith("file:"):
        return value
    path = Path(value.removeprefix("file:")).expanduser()
    places = [path] if path.is_absolute() else []
    if not places:
        credentials = os.environ.get("CREDENTIALS_DIRECTORY")
        places = [Path(credentials) / path] if credentials else []
        places.append(_base(info) / path)
    for place in places:
        if place.is_file():
            try:
                return FileSecret(_content(place), place)
            except OSError as error:
                raise ValueError(f"cannot read the secret's file {place}: {error.strerror}") from error
    raise ValueError(f"the secret's file does not exist: looked for {', '.join(map(str, places))}")


#: A path; relative ones count from the configuration file's directory.
ConfigPath = Annotated[Path, AfterValidator(_under_base)]

#: Plain text or `file:/path`. Its repr is stars; `get_secret_value()` is the text as it is now: a sink asks
#: for it in `open`, or later, so that it gets the new one when a credential was refused.
Secret = Annotated[SecretStr, BeforeValidator(_read_secret)]


class Settings(BaseModel):
    """Base of every configuration model: unknown keys are errors, values are fixed once read, and
    input never shows in an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class SinkSettings(Settings):
    """A sink's entry in `cdcflow.yaml`; a plugin adds its own keys. `type` names the plugin."""

    type: str


class SinkOptions(Settings):
    """A flow's `with:` block for a sink; a plugin adds its own keys."""
