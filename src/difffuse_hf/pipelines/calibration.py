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
class ScanRule:
    """How the slices of one scan are looked at together; beyond the thesis, which takes each by itself.

    Args:
        smoothing_mm (`float`): σ of a Gaussian along the slices that their saliency is smoothed by.
        together (`bool`): the percentile τ is taken over all suspicious slices at once, so that a slice with much of
            a lesion gets a larger mask than one with little.
        neighbour_probability (`float`, *optional*): slices beside a suspicious one, and beside these, are repainted
            too as far as the classifier gives them this lesion probability; none without it.
        peak_saliency (`float`): what is flagged counts only in pieces (3D, by faces) in which the saliency, smoothed,
            reaches this value somewhere, see `salient_pieces`; 0 keeps all.
        peak_anomaly (`float`): and in which the anomaly reaches this value at such a place.
        peak_share (`float`): the threshold of a scan is this share of the highest value of what counts, as lesions are
            outlined in PET: a lesion that stands out more looks larger at a threshold that is the same for all. 0: it
            is the same for all.

    Raises:
        InputError: a value is out of its range.
    """

    smoothing_mm: float = 0.0
    together: bool = False
    neighbour_probability: float | None = None
    peak_saliency: float = 0.0
    peak_anomaly: float = 0.0
    peak_share: float = 0.0

    def __post_init__(self):
        if not 0 <= self.smoothing_mm < float("inf"):
            raise InputError(f"`smoothing_mm` must be 0 or more millimetres, got {self.smoothing_mm}.")
        if self.neighbour_probability is not None and not 0 <= self.neighbour_probability <= 1:
            raise InputError(f"`neighbour_probability` must lie in 0 to 1, got {self.neighbour_probability}.")
        for name in ("peak_saliency", "peak_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"`{name}` must lie in 0 to 1, got {getattr(self, name)}.")
        if not 0 <= self.peak_anomaly < float("inf"):
            raise InputError(f"`peak_anomaly` must be 0 or more, got {self.peak_anomaly}.")


@dataclass(frozen=True)
class Calibration:
    """What was chosen for one preset of one model.

    Args:
        settings (`Preset`): the preset with what was chosen in place of its own values.
        noise_level (`int`): K.
        percentile (`float`): τ, of the saliency map.
        recipe (`MapRecipe`, *optional*): how the anomaly map is made; None for the thesis's map.
        threshold (`float`, *optional*): of that map, from where on it is lesion; None where none was chosen. Whole
            scans have their own where `scan` says so (`peak_share`).
        false_positive_thresholds (`dict[str, float]`): share of healthy brain to the threshold that no larger share of
            it reaches, on healthy validation slices, `{"0.01": 0.08}`.
        chosen_by (`str`): what the choice was made on and how good it was there, in words.
        scan (`ScanRule`, *optional*): how the slices of a scan are looked at together, where whole scans are.
    """

    settings: Preset
    noise_level: int
    percentile: float
    recipe: MapRecipe | None = None
    threshold: float | None = None
    false_positive_thresholds: Mapping[str, float] = field(default_factory=dict)
    chosen_by: str = ""
    scan: ScanRule | None = None

    def to_dict(self) -> dict[str, Any]:
        """As a file holds it; of the settings, the values in which they differ from `Preset()`."""
        plain = asdict(Preset())
        settings = {name: value for name, value in asdict(self.settings).items() if value != plain[name]}
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        del values["scan"]  # written where there is one, so that earlier versions can read models without
        together = {} if self.scan is None else {"scan": asdict(self.scan)}
        return {**values, "settings": settings, "recipe": self.recipe and self.recipe.to_dict(), **together}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Calibration":
        """From a file's values.

        Raises:
            InputError: a value is missing or unknown.
        """
        try:
            settings, recipe = Preset(**values["settings"]), values["recipe"] and MapRecipe.of(values["recipe"])
            scan = values.get("scan") and ScanRule(**values["scan"])
            return cls(**{**values, "settings": settings, "recipe": recipe, "scan": scan})
        except (TypeError, KeyError) as error:
            raise InputError(
                f"The model's calibration cannot be read ({error}); calibrate it with examples/assemble_pipeline.py."
            ) from error

    def threshold_for(self, false_positives: float) -> float:
        """The threshold calibrated for at most this share of healthy brain, see `calibrated_threshold`."""
        return calibrated_threshold(self.false_positive_thresholds, false_positives)
