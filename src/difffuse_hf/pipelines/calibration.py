"""Settings of Dif-fuse that were chosen together on validation data, and the threshold that belongs to them.

A threshold is one of a map, and the map is one of a schedule: all three are kept together, one set for each preset
that was calibrated, in the model's processor.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..errors import InputError
from ..models.processing_difffuse import calibrated_threshold
from .map_recipe import MapRecipe
from .presets import Preset


@dataclass(frozen=True)
class Calibration:
    """What was chosen for one preset of one model.

    Args:
        settings (`Preset`): the preset with what was chosen in place of its own values.
        noise_level (`int`): K.
        percentile (`float`): τ, of the saliency map.
        recipe (`MapRecipe`, *optional*): how the anomaly map is made; None for the thesis's map.
        threshold (`float`, *optional*): of that map, from where on it is lesion; None where none was chosen.
        false_positive_thresholds (`dict[str, float]`): share of healthy brain to the threshold that no larger share of
            it reaches, on healthy validation slices, `{"0.01": 0.08}`.
        chosen_by (`str`): what the choice was made on and how good it was there, in words.
    """

    settings: Preset
    noise_level: int
    percentile: float
    recipe: MapRecipe | None = None
    threshold: float | None = None
    false_positive_thresholds: Mapping[str, float] = field(default_factory=dict)
    chosen_by: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As a file holds it; of the settings, the values in which they differ from `Preset()`."""
        plain = asdict(Preset())
        settings = {name: value for name, value in asdict(self.settings).items() if value != plain[name]}
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {**values, "settings": settings, "recipe": self.recipe and self.recipe.to_dict()}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Calibration":
        """From a file's values.

        Raises:
            InputError: a value is missing or unknown.
        """
        try:
            settings, recipe = Preset(**values["settings"]), values["recipe"] and MapRecipe.of(values["recipe"])
            return cls(**{**values, "settings": settings, "recipe": recipe})
        except (TypeError, KeyError) as error:
            raise InputError(
                f"The model's calibration cannot be read ({error}); calibrate it with examples/assemble_pipeline.py."
            ) from error

    def threshold_for(self, false_positives: float) -> float:
        """The threshold calibrated for at most this share of healthy brain, see `calibrated_threshold`."""
        return calibrated_threshold(self.false_positive_thresholds, false_positives)
