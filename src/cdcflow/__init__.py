"""cdcflow: change data capture for Postgres, from the write-ahead log to the places that act on it."""

__version__ = "0.1.0"
