"""`difffuse card`: the card of a model or of a data set."""

from typing import Annotated

import typer

from .options import say


def card(
    model: Annotated[
        str, typer.Argument(help="Model or data set folder, Hub repository user/name, or embedded: demo or ct.")
    ],
):
    """Print the card of a model or a data set, as the Hub shows it, in Markdown."""
    from ..io.hub import embedded_folder, local_folder
    from ..io.model_card import read_card

    say(read_card(embedded_folder(model) or local_folder(model, patterns=["README.md"]), model))
