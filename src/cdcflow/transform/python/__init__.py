"""Functions of users, run in a process of their own: what they do wrong stays there."""
