"""Processes: the supervisor, its children, what they tell each other and whoever asks."""

import os

# Arrow's default allocator keeps what batches have freed; the C library's gives it back. Measured with a
# transaction of 2,000,000 rows: the DuckDB worker peaks a quarter lower, at the same CPU. Arrow reads this
# when it is loaded, so it stands before every import that could do that.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
