"""The forms of values that CRMs have in common: exactly, or refused without the value."""

from collections.abc import Callable

import pytest

from cdcflow.sink.records import Unfit, forms


@pytest.mark.parametrize(
    ("form", "given", "wanted"),
    [
        (forms.number, "1.50", "1.50"),
        (forms.number, "1e+30", "1" + "0" * 30),
        (forms.number, "-2.5E-3", "-0.0025"),
        (forms.day, "2026-11-24", "2026-11-24"),
        (forms.moment, "2026-11-24 10:00:00+00", "2026-11-24T10:00:00.000Z"),
        (forms.moment, "2026-11-24 10:00:00.123999", "2026-11-24T10:00:00.123Z"),
        (forms.choices, ["a", 2, 0.5, True], "a;2;0.5;true"),
        (forms.choices, [], ""),
    ],
)
def test_a_value_has_its_form(form: Callable[[str, object], str], given: object, wanted: str) -> None:
    assert form("Field__c", given) == wanted


@pytest.mark.parametrize(
    ("form", "given"),
    [
        (forms.number, "NaN"),
        (forms.number, "Infinity"),
        (forms.day, "infinity"),
        (forms.day, "0044-03-15 BC"),
        (forms.moment, "10000-01-01 00:00:00+00"),
        (forms.choices, ["secret;value"]),
        (forms.choices, [None]),
        (forms.choices, [["secret"]]),
        (forms.choices, {"secret": 1}),
    ],
)
def test_what_has_no_form_is_refused_without_the_value(
    form: Callable[[str, object], str], given: object
) -> None:
    with pytest.raises(Unfit, match="Field__c") as caught:
        form("Field__c", given)
    assert "secret" not in str(caught.value)
