"""What the card of a data set says about it."""

from pathlib import Path

from huggingface_hub import DatasetCard
from huggingface_hub.errors import EntryNotFoundError


def is_synthetic(dataset: str) -> bool:
    """Whether the card of a data set, in its folder or on the Hub, carries the tag `synthetic`."""
    card = Path(dataset, "README.md")
    if Path(dataset).exists() and not card.exists():
        return False
    try:
        return "synthetic" in (DatasetCard.load(card if card.exists() else dataset).data.tags or [])
    except EntryNotFoundError:
        return False
