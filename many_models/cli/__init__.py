"""The command `many-models`: parse arguments, call an operation, print what it returns."""
