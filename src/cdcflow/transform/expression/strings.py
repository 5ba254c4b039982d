"""Functions of text. Characters are code points, as in a UTF-8 database."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cdcflow.transform.expression import casts, letters, matching
from cdcflow.transform.expression.conversion import codec
from cdcflow.transform.expression.frame import Datum, Rows
from cdcflow.transform.expression.function import (
    Fails,
    Kernel,
    Refused,
    Supported,
    Variant,
    by_row,
    constant_value,
    operator,
    row_kernel,
)
from cdcflow.transform.expression.node import Bound, as_array
from cdcflow.transform.expression.sqltype import INT4, TEXT, SqlType

#: A text is at most 1 GB, of at most four bytes per character (memutils.h, MaxAllocSize).
_LONGEST = 2**28 - 2
_TOO_LONG = "requested length too large"
#: Trimming takes a pointer for each byte, and has no more memory than that (oracle_compat.c, dotrim).
_LONGEST_TRIMMED = (2**30 - 1) // 8


def _array(kernel: Callable[[Any], pa.Array]) -> Variant:
    """A kernel of one text that Arrow has."""
    return Variant(lambda _rows, values: kernel(values))


def _length(values: Any) -> pa.Array:
    return pc.utf8_length(values)


def _bpchar_length(values: Any) -> pa.Array:
    return pc.utf8_length(pc.utf8_rtrim(values, characters=" "))


def _bits(values: Any) -> pa.Array:
    return pc.multiply(pc.binary_length(values), pa.scalar(8, pa.int32()))


# --- parts -------------------------------------------------------------------------------------------------


def _part(text: str, start: int, length: int | None) -> str:
    """varlena.c, text_substring: what lies before the first character counts as well."""
    first = max(start - 1, 0)
    if length is None:
        return text[first:]
    if length < 0:
        raise Fails("negative substring length not allowed")
    return text[first : max(start - 1 + length, first)]


def _substring(_value: Bound, start: Bound, length: Bound | None = None) -> Kernel:
    types = [TEXT, INT4, INT4][: 2 if length is None else 3]
    constants = [
        constant_value(arg) for arg in (start, length) if arg is not None and arg.constant is not None
    ]
    if len(constants) < len(types) - 1:
        return row_kernel(lambda text, s, n=None: _part(text, s, n), types, TEXT)
    first = constants[0]
    if len(constants) > 1 and constants[1] < 0:
        raise Fails("negative substring length not allowed")
    begin = max(first - 1, 0)
    end = None if len(constants) == 1 else max(first - 1 + constants[1], begin)
    return lambda rows, values, *_: pc.utf8_slice_codeunits(as_array(values, rows.count), begin, end)


def _left(text: str, count: int) -> str:
    return text[:count] if count >= 0 else text[: max(len(text) + count, 0)]


def _right(text: str, count: int) -> str:
    if count >= 0:
        return text[len(text) - count :] if count < len(text) else text
    if count == -(2**31):
        raise Fails("right() of so many characters is not supported here")
    return text[-count:]


def _left_part(_value: Bound, count: Bound) -> Kernel:
    if count.constant is None:
        return row_kernel(_left, [TEXT, INT4], TEXT)
    stop = constant_value(count)
    return lambda rows, values, _count: pc.utf8_slice_codeunits(as_array(values, rows.count), 0, stop)


def _right_part(_value: Bound, count: Bound) -> Kernel:
    # The end of a text that is shorter is the whole, which a slice from a negative place gives as well.
    if count.constant is None or constant_value(count) in (0, -(2**31)):
        return row_kernel(_right, [TEXT, INT4], TEXT)
    start = -constant_value(count)
    return lambda rows, values, _count: pc.utf8_slice_codeunits(as_array(values, rows.count), start)


def _split_part(text: str, delimiter: str, number: int) -> str:
    if number == 0:
        raise Fails("field position must not be zero")
    parts = text.split(delimiter) if delimiter and text else [text]
    if not text:
        return ""
    index = number - 1 if number > 0 else len(parts) + number
    return parts[index] if 0 <= index < len(parts) else ""


def _strpos(text: str, wanted: str) -> int:
    return text.find(wanted) + 1


def _overlay(text: str, new: str, start: int, length: int | None = None) -> str:
    count = len(new) if length is None else length
    if start <= 0:
        raise Fails("negative substring length not allowed")
    if not -(2**31) <= start + count < 2**31:
        raise Fails("integer out of range")
    return _part(text, 1, start - 1) + new + _part(text, start + count, None)


# --- padding, trimming, repeating --------------------------------------------------------------------------


def _pad(text: str, length: int, fill: str, *, left: bool) -> str:
    length = max(length, 0)
    if not fill:
        return text[:length]
    if length > _LONGEST:
        raise Fails(_TOO_LONG)
    missing = length - len(text)
    if missing <= 0:
        return text[:length]
    padding = (fill * (missing // len(fill) + 1))[:missing]
    return padding + text if left else text + padding


def _repeat(text: str, count: int) -> str:
    if count > 0 and len(text.encode()) * count > 2**30 - 6:
        raise Fails(_TOO_LONG)
    return text * max(count, 0)


def _trim(kernel: Callable[..., pa.Array], by_value: Callable[[str, str], str]) -> dict[str, Variant]:
    def trimmed(rows: Rows, values: Datum, characters: str) -> Datum:
        lengths = pc.binary_length(as_array(values, rows.count))
        if (pc.max(lengths).as_py() or 0) > _LONGEST_TRIMMED:
            rows.fail_where(pc.fill_null(pc.greater(lengths, _LONGEST_TRIMMED), False), _TOO_LONG)
        return kernel(values, characters=characters)

    def bind(_value: Bound, characters: Bound) -> Kernel:
        if characters.constant is None or not constant_value(characters):
            return row_kernel(by_value, [TEXT, TEXT], TEXT)
        wanted = constant_value(characters)
        return lambda rows, values, _characters: trimmed(rows, as_array(values, rows.count), wanted)

    return {
        "text": Variant(lambda rows, values: trimmed(rows, values, " ")),
        "text,text": Variant(bind=bind),
    }


def _stripped(strip: Callable[[str, str], str]) -> Callable[[str, str], str]:
    """Of a text and the characters, the text without them as `strip` does it."""

    def by_value(text: str, characters: str) -> str:
        if not characters:
            return text
        # At most four bytes are one character.
        if len(text) > _LONGEST_TRIMMED // 4 and len(text.encode()) > _LONGEST_TRIMMED:
            raise Fails(_TOO_LONG)
        return strip(text, characters)

    return by_value


# --- changing ----------------------------------------------------------------------------------------------


def _cased(kernel: Callable[[str], Kernel]) -> Variant:
    def bind(value: Bound) -> Kernel:
        inner = kernel(value.collation)
        return lambda rows, values: inner(rows, as_array(values, rows.count))

    return Variant(bind=bind)


def _initcap(value: Bound) -> Kernel:
    if value.collation:
        raise Refused('initcap with collate "C" is not supported')
    return row_kernel(letters.initcap, [TEXT], TEXT)


def _replace(_text: Bound, old: Bound, new: Bound) -> Kernel:
    if old.constant is None or new.constant is None or not constant_value(old):
        return row_kernel(lambda text, a, b: text.replace(a, b) if a else text, [TEXT, TEXT, TEXT], TEXT)
    wanted, given = constant_value(old), constant_value(new)
    return lambda rows, values, *_: pc.replace_substring(
        as_array(values, rows.count), pattern=wanted, replacement=given
    )


def _translate(text: str, old: str, new: str) -> str:
    table: dict[int, str | None] = {}
    for i, character in enumerate(old):
        table.setdefault(ord(character), new[i] if i < len(new) else None)
    return text.translate(table)


def _ascii(text: str) -> int:
    return ord(text[0]) if text else 0


def _chr(code: int) -> str:
    if code < 0:
        raise Fails("character number must be positive")
    if code == 0:
        raise Fails("null character not permitted")
    if code > 0x10FFFF:
        raise Fails("requested character too large for encoding")
    if 0xD800 <= code <= 0xDFFF:
        raise Fails("requested character not valid for encoding")
    return chr(code)


def quote_literal(text: str) -> str:
    quoted = "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
    return f"E{quoted}" if "\\" in text else quoted


# --- joining -----------------------------------------------------------------------------------------------


def _joined(left: Any, right: Any) -> pa.Array:
    return pc.binary_join_element_wise(left, right, "")


def _as_text(kind: SqlType) -> Kernel:
    """Postgres writes `$1 || $2::text` for the operators of text with anything."""
    variant = casts.cast(kind, TEXT)
    if variant is None or variant.kernel is None:
        raise Refused(f"text of type {kind.name} is not supported")
    return variant.kernel


def _append(_left: Bound, right: Bound) -> Kernel:
    write = _as_text(right.type)
    return lambda rows, left, right: _joined(left, write(rows, right))


def _prepend(left: Bound, _right: Bound) -> Kernel:
    write = _as_text(left.type)
    return lambda rows, left, right: _joined(write(rows, left), right)


def _written(args: Sequence[Bound]) -> list[Callable[[pa.Array], pa.StringArray]]:
    """The output functions of the types, which concat uses."""
    return [codec(arg.type).write for arg in args]


def _concat(*args: Bound) -> Kernel:
    writers = _written(args)

    def kernel(rows: Rows, *values: Datum) -> pa.Array:
        texts = [
            pc.fill_null(write(as_array(v, rows.count)), "") for write, v in zip(writers, values, strict=True)
        ]
        return pc.binary_join_element_wise(*texts, "")

    return kernel


def _concat_ws(_separator: Bound, *args: Bound) -> Kernel:
    writers = _written(args)

    # Value by value: Arrow's join with null_handling="skip" takes in what lies below a null.
    def kernel(rows: Rows, separators: Datum, *values: Datum) -> pa.Array:
        columns = [
            write(as_array(v, rows.count)).to_pylist() for write, v in zip(writers, values, strict=True)
        ]
        joined = [
            None if between is None else between.join(part for part in parts if part is not None)
            for between, *parts in zip(as_array(separators, rows.count).to_pylist(), *columns, strict=True)
        ]
        return pa.array(joined, pa.string())

    return kernel


def _format(pattern: Bound, *args: Bound) -> Kernel:
    """%s, %L and %%, in the order of the arguments."""
    if pattern.constant is None or pattern.is_null:
        raise Refused("the format must be a constant here")
    pieces: list[str] = []
    text, at, used = constant_value(pattern), 0, 0
    while at < len(text):
        if text[at] != "%":
            pieces.append(f"={text[at]}")
            at += 1
            continue
        kind = text[at + 1 : at + 2]
        if kind == "%":
            pieces.append("=%")
        elif kind and kind in "sL":
            used += 1
            pieces.append(kind)
        else:
            raise Refused("only %s, %L and %% are supported in a format")
        at += 2
    if used > len(args):
        raise Fails("too few arguments for format()")
    writers = _written(args)

    def kernel(rows: Rows, _pattern: Datum, *values: Datum) -> pa.Array:
        columns = [
            write(as_array(v, rows.count)).to_pylist() for write, v in zip(writers, values, strict=True)
        ]
        lines = []
        for row in range(rows.count):
            line, argument = [], 0
            for piece in pieces:
                if piece.startswith("="):
                    line.append(piece[1:])
                    continue
                value = columns[argument][row]
                argument += 1
                if piece == "L":
                    line.append("NULL" if value is None else quote_literal(value))
                else:
                    line.append(value or "")
            lines.append("".join(line))
        return pa.array(lines, pa.string())

    return kernel


_LIKE_TEXT = "text,text"

SUPPORTED: tuple[Supported, ...] = (
    Supported(
        "lower",
        'to lower case; with `collate "C"` ASCII only',
        "lower(email)",
        {"text": _cased(letters.lower_kernel)},
    ),
    Supported(
        "upper",
        'to upper case; with `collate "C"` ASCII only',
        "upper(code)",
        {"text": _cased(letters.upper_kernel)},
    ),
    Supported("initcap", "each word with a capital", "initcap(name)", {"text": Variant(bind=_initcap)}),
    Supported(
        "length",
        "number of characters (of bytes for bytea)",
        "length(name)",
        {"text": _array(_length), "bpchar": _array(_bpchar_length), "bytea": _array(pc.binary_length)},
    ),
    Supported(
        "char_length",
        "number of characters",
        "char_length(name)",
        {"text": _array(_length), "bpchar": _array(_bpchar_length)},
    ),
    Supported(
        "octet_length",
        "number of bytes",
        "octet_length(name)",
        {
            "text": _array(pc.binary_length),
            "bpchar": _array(pc.binary_length),
            "bytea": _array(pc.binary_length),
        },
    ),
    Supported(
        "bit_length", "number of bits", "bit_length(name)", {"text": _array(_bits), "bytea": _array(_bits)}
    ),
    Supported(
        "substring",
        "a part by place and length, or what a regular expression matches",
        "substring(code from 1 for 3)",
        {
            "text,int4": Variant(bind=_substring),
            "text,int4,int4": Variant(bind=_substring, fails=True, fails_by_constant=False),
            **matching.SUBSTRING,
        },
    ),
    Supported(
        "left",
        "the first characters, or all but the last",
        "left(code, 2)",
        {"text,int4": Variant(bind=_left_part)},
    ),
    Supported(
        "right",
        "the last characters, or all but the first",
        "right(card, 4)",
        {"text,int4": Variant(bind=_right_part, fails=True)},
    ),
    Supported(
        "btrim",
        "without spaces, or given characters, at both ends; `trim(…)`",
        "trim(name)",
        _trim(pc.utf8_trim, _stripped(str.strip)),
    ),
    Supported(
        "ltrim",
        "without them at the beginning; `trim(leading …)`",
        "ltrim(code, '0')",
        _trim(pc.utf8_ltrim, _stripped(str.lstrip)),
    ),
    Supported(
        "rtrim",
        "without them at the end; `trim(trailing …)`",
        "rtrim(name)",
        _trim(pc.utf8_rtrim, _stripped(str.rstrip)),
    ),
    Supported(
        "lpad",
        "filled at the beginning to a length",
        "lpad(code, 6, '0')",
        {
            "text,int4": by_row(lambda t, n: _pad(t, n, " ", left=True), "text,int4", "text", fails=True),
            "text,int4,text": by_row(partial(_pad, left=True), "text,int4,text", "text", fails=True),
        },
    ),
    Supported(
        "rpad",
        "filled at the end to a length",
        "rpad(code, 6)",
        {
            "text,int4": by_row(lambda t, n: _pad(t, n, " ", left=False), "text,int4", "text", fails=True),
            "text,int4,text": by_row(partial(_pad, left=False), "text,int4,text", "text", fails=True),
        },
    ),
    Supported(
        "repeat",
        "several times",
        "repeat('ab', 3)",
        {"text,int4": by_row(_repeat, "text,int4", "text", fails=True)},
    ),
    Supported(
        "replace",
        "with every occurrence replaced",
        "replace(phone, ' ', '')",
        {"text,text,text": Variant(bind=_replace)},
    ),
    Supported("reverse", "backwards", "reverse(code)", {"text": _array(pc.utf8_reverse)}),
    Supported(
        "strpos",
        "place of a text in another, 0 where it is not there",
        "strpos(email, '@')",
        {_LIKE_TEXT: by_row(_strpos, "text,text", "int4")},
    ),
    Supported(
        "position",
        "the same, as `position('@' in email)`",
        "position('@' in email)",
        {_LIKE_TEXT: by_row(_strpos, "text,text", "int4")},
    ),
    Supported(
        "split_part",
        "a field between delimiters, from the end if negative",
        "split_part(email, '@', 2)",
        {"text,text,int4": by_row(_split_part, "text,text,int4", "text", fails=True)},
    ),
    Supported(
        "overlay",
        "with a part replaced",
        "overlay(card placing '****' from 1 for 4)",
        {
            "text,text,int4": by_row(_overlay, "text,text,int4", "text", fails=True),
            "text,text,int4,int4": by_row(_overlay, "text,text,int4,int4", "text", fails=True),
        },
    ),
    Supported(
        "translate",
        "with characters replaced one by one",
        "translate(code, 'abc', 'xyz')",
        {"text,text,text": by_row(_translate, "text,text,text", "text")},
    ),
    Supported(
        "starts_with",
        "whether it begins with a text",
        "starts_with(sku, 'A-')",
        {_LIKE_TEXT: by_row(lambda t, p: t.startswith(p), "text,text", "bool")},
    ),
    operator(
        "^@",
        "begins with",
        "sku ^@ 'A-'",
        {_LIKE_TEXT: by_row(lambda t, p: t.startswith(p), "text,text", "bool")},
    ),
    Supported(
        "ascii", "code of the first character", "ascii(code)", {"text": by_row(_ascii, "text", "int4")}
    ),
    Supported(
        "chr", "the character of a code", "chr(65)", {"int4": by_row(_chr, "int4", "text", fails=True)}
    ),
    Supported(
        "quote_literal",
        "quoted as an SQL literal",
        "quote_literal(name)",
        {"text": by_row(quote_literal, "text", "text")},
    ),
    Supported(
        "quote_nullable",
        "the same, and NULL as the word",
        "quote_nullable(name)",
        {"text": by_row(lambda t: "NULL" if t is None else quote_literal(t), "text", "text", strict=False)},
    ),
    Supported(
        "concat",
        "everything one after the other; NULL is nothing",
        "concat(first, ' ', last)",
        {"any": Variant(bind=_concat, strict=False)},
    ),
    Supported(
        "concat_ws",
        "the same with a separator",
        "concat_ws(', ', city, country)",
        {"any": Variant(bind=_concat_ws, strict=False)},
    ),
    Supported(
        "format",
        "with `%s` and `%L` replaced",
        "format('%s <%s>', name, email)",
        {"any": Variant(bind=_format, strict=False)},
    ),
    operator(
        "||",
        "one after the other",
        "first || ' ' || last",
        {
            "text,text": Variant(lambda _rows, a, b: _joined(a, b)),
            "text,anynonarray": Variant(bind=_append),
            "anynonarray,text": Variant(bind=_prepend),
        },
    ),
)
