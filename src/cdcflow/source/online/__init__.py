"""Online backfills: the rows of tables come into the journal while the stream goes on.

Processes of their own read chunks (`source/reading.py`), each with a thread that gives it work (`readers`);
another thread looks after the requests and plans (`coordinator`, `tables`); and capture's own thread, which
alone knows how far the stream is, gives each chunk its place (`placing`). What is in the journal is all that
counts: a `session` lives as long as one session of the stream, and begins with what the journal's ledger
says.
"""

from cdcflow.source.online.session import Online
from cdcflow.source.online.task import work_name

__all__ = ["Online", "work_name"]
