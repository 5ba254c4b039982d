"""The engine: a supervisor, the processes it keeps running, and how to ask them."""
