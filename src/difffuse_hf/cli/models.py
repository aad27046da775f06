"""`difffuse models`: the models that come with the package."""

from .info import size
from .options import AsJson, print_json, say


def models(as_json: AsJson = False):
    """List the embedded models, with a line of each one's card."""
    from ..models.model_info import embedded_models

    found = embedded_models()
    if as_json:
        print_json(found)
        return
    for one in found:
        say(f"{one['model']} ({one['kind']}, {size(one['bytes'])}): {one['card']}")
