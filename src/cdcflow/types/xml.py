"""xml: the document's text as it was stored, never parsed."""

from cdcflow.types.base import Family
from cdcflow.types.text import as_text

FAMILY = Family(
    "XML",
    (as_text("xml", "<a>1</a>", 142, 143),),
    notes="""\
An encoding in the XML declaration is left out by Postgres on output: what arrives is UTF-8.""",
)
