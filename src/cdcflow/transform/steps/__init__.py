"""The built-in steps, each a plugin in a module of its own. Found as anybody else's: by the entry points."""
