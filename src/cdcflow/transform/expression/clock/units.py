"""The names of units of time, as Postgres knows them."""

from cdcflow.transform.expression.function import Refused, constant_value
from cdcflow.transform.expression.node import Bound

#: datetime.c, deltatktbl: the names of units and what they are.
_UNIT_NAMES: dict[str, str] = {}
for _names, _meaning in (
    ("microsecond microseconds us usec usecs", "microseconds"),
    ("millisecond milliseconds ms msec msecs", "milliseconds"),
    ("second seconds sec secs s", "second"),
    ("minute minutes min mins m", "minute"),
    ("hour hours hr hrs h", "hour"),
    ("day days d", "day"),
    ("week weeks w", "week"),
    ("month months mon mons", "month"),
    ("quarter qtr", "quarter"),
    ("year years yr yrs y", "year"),
    ("decade decades", "decade"),
    ("century centuries c", "century"),
    ("millennium millennia", "millennium"),
    ("epoch", "epoch"),
    ("dow", "dow"),
    ("isodow", "isodow"),
    ("doy", "doy"),
    ("isoyear", "isoyear"),
):
    for _name in _names.split():
        _UNIT_NAMES[_name] = _meaning


def unit_named(argument: Bound, allowed: tuple[str, ...]) -> str:
    if argument.constant is None:
        raise Refused("the field must be a constant here")
    name = str(constant_value(argument)).lower()
    unit = _UNIT_NAMES.get(name)
    if unit is None or unit not in allowed:
        raise Refused(f"the field {name} is not supported here", hint=f"one of {', '.join(allowed)}")
    return unit
