"""The one exception that means "your input cannot be used": the command line prints it and exits with code 1."""


class InputError(ValueError):
    """A scan, folder or model cannot be used; the message names the file and the remedy in one sentence."""
