"""Parts of a URL and of headers that come from the row: `https://example.com/hooks/{table}/{row.region}`.

| field       |                                                                                     |
|-------------|-------------------------------------------------------------------------------------|
| `{row.x}`   | the column's new value; for a delete the old one, as far as the server sent it       |
| `{key.x}`   | the key's column                                                                     |
| `{schema}`, `{table}`, `{op}` | of the change                                                     |

A value is escaped for where it stands, so that it stays one part of it: it can add no path, parameter,
header or line. What would make another URL of it nevertheless (nothing, `.`, `..`) is refused with its
change.
"""

import re
from collections.abc import Callable, Mapping
from urllib.parse import quote

from cdcflow.sink.event import Event
from cdcflow_sinks.webhook.shapes import header_value, single

_FIELD = re.compile(r"\{([^{}]*)\}")
_NAME = re.compile(r"(?:row|key)\.(?:.+)|schema|table|op")


class NoValue(Exception):
    """A change has no usable value for a template. The text names the field, not the value."""


class Template:
    """A text with fields. Raises ValueError for a field that there is not."""

    def __init__(self, text: str, escape: Callable[[str], str]) -> None:
        self.text = text
        self._escape = escape
        self._parts: list[tuple[str, str]] = []
        place = 0
        for match in _FIELD.finditer(text):
            name = match[1]
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"there is no field {{{name}}}:"
                    " write {row.COLUMN}, {key.COLUMN}, {schema}, {table} or {op}"
                )
            self._parts.append((text[place : match.start()], name))
            place = match.end()
        self._rest = text[place:]
        if any(brace in part for part in (*(p for p, _ in self._parts), self._rest) for brace in "{}"):
            raise ValueError("a brace has no partner")

    def __bool__(self) -> bool:
        return bool(self._parts)

    def sample(self) -> str:
        """With something in each field, to be looked at."""
        return "".join((*(part + "x" for part, _ in self._parts), self._rest))

    def fill(self, event: Event) -> str:
        """Raises NoValue."""
        found = []
        for before, name in self._parts:
            found += [before, self._escape(_value(event, name))]
        return "".join((*found, self._rest))


def url_part(text: str) -> str:
    if text in ("", ".", ".."):
        raise NoValue("gives no part of a URL")
    try:
        return quote(text, safe="")
    except UnicodeEncodeError:
        raise NoValue("holds half a character, which no URL can") from None


def for_url(text: str) -> Template:
    return Template(text, url_part)


def for_header(text: str) -> Template:
    return Template(text, header_value)


def filled(templates: Mapping[str, Template], event: Event) -> list[tuple[bytes, bytes]]:
    """The headers, without those whose field is NULL or not there."""
    found = []
    for name, template in templates.items():
        try:
            value = template.fill(event)
        except NoValue:
            continue
        if value:
            found.append((name.encode("ascii"), value.encode("ascii")))
    return found


def _value(event: Event, name: str) -> str:
    kind, _, column = name.partition(".")
    if not column:
        found = event.get(name)
    elif kind == "key":
        found = (event.get("key") or {}).get(column)
    else:
        new, old = event.get("new"), event.get("old")
        found = (new if new is not None else old or event.get("key") or {}).get(column)
    text = single(found)
    if text is None:
        raise NoValue(f"has no single value for {{{name}}}")
    return text
