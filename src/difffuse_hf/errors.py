"""How work that cannot go on says so: in one sentence."""

INTERRUPTED = "Interrupted; what was finished is kept and nothing half-written is left."


class InputError(ValueError):
    """A scan, folder or model cannot be used; the message names the file and the remedy in one sentence."""
