"""The commands, one module each: they read their arguments, call one function and print its result.

Nothing heavy is imported before a command needs it, so help and lists answer at once.
"""
