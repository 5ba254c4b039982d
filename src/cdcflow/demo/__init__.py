"""The demo: a small shop on a PostgreSQL of its own, captured by a real engine into a warehouse and a
webhook, and compared value by value."""
