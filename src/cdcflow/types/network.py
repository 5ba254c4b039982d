"""Network addresses as Postgres writes them: `inet` shows its prefix length unless it is a host's."""

from cdcflow.types.base import Family
from cdcflow.types.text import as_text

FAMILY = Family(
    "Network addresses",
    (
        as_text("inet", "10.0.0.1/8", 869, 1041),
        as_text("cidr", "10.0.0.0/8", 650, 651),
        as_text("macaddr", "08:00:2b:01:02:03", 829, 1040),
        as_text("macaddr8", "08:00:2b:01:02:03:04:05", 774, 775),
    ),
    notes="""\
`inet` as a column shows it: `10.0.0.1`. A cast to text in SQL would write `10.0.0.1/32`.""",
)
