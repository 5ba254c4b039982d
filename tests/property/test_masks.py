"""The implementations of the keyed hash give what the library gives, for every key and text."""

import hmac
from collections.abc import Callable
from functools import partial

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdcflow.transform import hashing

#: Lengths around the ends of blocks, where padding goes wrong if it does.
TEXTS = st.lists(st.none() | st.text() | st.integers(50, 200).map(lambda size: "x" * size), max_size=20)
IMPLEMENTATIONS: list[Callable[[bytes], hashing.Hash]] = [hashing.by_library]
if hashing.is_compiled():
    IMPLEMENTATIONS.append(partial(hashing.compiled, portable=True))
if hashing.has_instructions():
    IMPLEMENTATIONS.append(hashing.compiled)


@pytest.mark.parametrize(
    "implementation", IMPLEMENTATIONS, ids=["library", "portable", "processor"][: len(IMPLEMENTATIONS)]
)
@given(key=st.binary(min_size=1, max_size=150), texts=TEXTS, start=st.integers(0, 5))
@settings(max_examples=200, deadline=None)
def test_a_column_is_hashed_as_the_library_hashes_its_values(
    implementation: Callable[[bytes], hashing.Hash], key: bytes, texts: list[str | None], start: int
) -> None:
    values = pa.array(texts, pa.string()).slice(start)
    found = implementation(key)(values)
    found.validate(full=True)
    assert found.to_pylist() == [
        None if text is None else hmac.new(key, text.encode(), "sha256").hexdigest() for text in texts[start:]
    ]
