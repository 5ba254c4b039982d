"""Holds a piece of a document against its pydantic model, and says what is wrong in people's words.

What was found is quoted only for the kinds of values that cannot be a secret (numbers, truth values and
choices), and as the file has it, before `${…}` is resolved.
"""

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, RootModel, ValidationError
from pydantic_core import ErrorDetails

from cdcflow.config.document import Document, Way, dotted
from cdcflow.config.problems import Problems, nearest
from cdcflow.sink import BASE

M = TypeVar("M", bound=BaseModel)

#: Kinds of pydantic's errors (its manual, "Validation errors") in our words.
_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "set_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dataclass_type": "a mapping",
    "path_type": "a path",
    "literal_error": "",
    "enum": "",
}

#: For these the value itself is shown: they are never a secret's.
_SHOWS_VALUE = {
    "int_parsing",
    "int_from_float",
    "float_parsing",
    "bool_parsing",
    "literal_error",
    "enum",
    "greater_than",
    "greater_than_equal",
    "less_than",
    "less_than_equal",
}

_LIMITS = {"greater_than": ">", "greater_than_equal": "≥", "less_than": "<", "less_than_equal": "≤"}


def validate(
    model: type[M], document: Document, way: Way, problems: Problems, *, data: object = None
) -> M | None:
    """The model's instance for what stands at `way` of the document, or None with the reasons in `problems`.

    `data` replaces what stands there, for a caller that has taken keys of its own out of it.
    """
    try:
        return model.model_validate(
            _at(document.data, way) if data is None else data, context={BASE: document.base}
        )
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        for detail in details:
            # A list of which an item is wrong counts as without it.
            if detail["type"] == "too_short" and any(_inside(other, detail) for other in details):
                continue
            _tell(detail, model, document, way, problems)
        return None


def _inside(detail: ErrorDetails, outer: ErrorDetails) -> bool:
    loc = outer["loc"]
    return len(detail["loc"]) > len(loc) and detail["loc"][: len(loc)] == loc


def _at(data: Any, way: Way) -> Any:
    for step in way:
        data = data[step]
    return data


def _tell(
    detail: ErrorDetails, model: type[BaseModel], document: Document, way: Way, problems: Problems
) -> None:
    kind = detail["type"]
    loc = detail["loc"]
    if kind == "missing":
        parent = (*way, *_present(document, way, loc[:-1]))
        problems.add(document.place(parent), dotted((*parent, loc[-1])), "is missing")
        return
    found_way = (*way, *_present(document, way, loc))
    place, key = document.place(found_way), dotted(found_way)
    if kind == "extra_forbidden":
        known = _names(model, loc[:-1])
        free = [name for name in known if name not in _keys(document, found_way[:-1])]
        problems.add(place, key, "unknown key", nearest(str(loc[-1]), free or known))
        return
    value = document.written.get(found_way)
    message, hint = _message(detail, value)
    if kind in ("tuple_type", "list_type") and isinstance(value, str):
        hint = "put it into brackets: [a, b]"
    problems.add(place, key, message, hint)


def _message(detail: ErrorDetails, value: object) -> tuple[str, str]:
    kind = detail["type"]
    context = detail.get("ctx", {})
    found = repr(value) if kind in _SHOWS_VALUE and not isinstance(value, dict | list) else _kind(value)
    if kind == "value_error":
        return str(context["error"]), ""
    if kind in ("literal_error", "enum"):
        choices = str(context["expected"])
        names = [name.strip("'") for name in choices.replace(" or ", ", ").split(", ")]
        hint = nearest(str(value), names)
        return f"expected {choices}, found {found}", "" if hint.startswith("known") else hint
    if kind in _LIMITS:
        bound = next(iter(context.values()))
        return f"must be {_LIMITS[kind]} {bound}, found {found}", ""
    if kind == "too_short" and context.get("actual_length") == 0:
        return "is empty", ""
    if kind in _EXPECTED:
        return f"expected {_EXPECTED[kind]}, found {found}", ""
    # A kind that a plugin's model brings; pydantic's message holds no input.
    message = detail["msg"].removeprefix("Input should be ")
    return (f"expected {message}" if message != detail["msg"] else message[:1].lower() + message[1:]), ""


def _kind(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, str):
        return "text"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return f"a {type(value).__name__}"


def _present(document: Document, way: Way, loc: tuple[int | str, ...]) -> Way:
    """`loc` without the steps that pydantic adds for the branches of a union: those are not in the file."""
    found: list[str | int] = []
    for step in loc:
        if (*way, *found, step) in document.written:
            found.append(step)
    return tuple(found)


def _keys(document: Document, way: Way) -> set[str]:
    value = document.written.get(way)
    return {str(key) for key in value} if isinstance(value, Mapping) else set()


def _names(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """The keys that the model, or the model inside it at `loc`, knows."""
    models = [model]
    for step in loc:
        inside = [inner for outer in models for inner in _models_at(outer, step)]
        # A union's branch and a list's index are steps within the same annotation.
        models = inside or models
    return [key for known in models for key in _by_key(known)]


def _by_key(model: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def _models_at(model: type[BaseModel], key: int | str) -> Iterator[type[BaseModel]]:
    fields = _by_key(model)
    # The key of a model that is itself a mapping, or a list, is no field of it.
    yield from _models_in(fields["root"] if issubclass(model, RootModel) else fields.get(str(key)))


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
