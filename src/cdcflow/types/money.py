"""money: text under `lc_monetary = C`, which capture pins, so that stream and backfill cannot differ."""

from cdcflow.types.base import Family
from cdcflow.types.text import as_text

FAMILY = Family(
    "Money",
    (as_text("money", "-$12.50", 790, 791),),
    notes="""\
The text is that of the locale C, whatever the server's: `-$12.50`. Which currency is meant, and how many
digits behind the point, only the server's `lc_monetary` says.""",
)
