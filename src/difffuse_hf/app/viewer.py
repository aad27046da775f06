"""NiiVue, a viewer of volumes in three planes, for the page and for notebooks; both take it from ipyniivue.

The widget of ipyniivue (BSD-2-Clause) is one JavaScript module that holds all of NiiVue and exports the widget alone.
For the page, which has no notebook around it, the class is exported, too. Nothing is fetched from anywhere, and where
ipyniivue is missing the page does without the viewer.
"""

import re
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..detection.result import DetectionResult
from ..errors import InputError
from ..io.nifti import write_volume
from ..reporting.figures import ANOMALY_COLOURS, grey_window

MAKING = r'console\.log\("Creating new Niivue instance"\);.{0,200}?=new (\w+)\('  # how the widget makes a viewer
RADIOLOGICAL = {"is_radiological_convention": True, "is_orientation_text_visible": True, "is_colorbar": True}


def write_script(folder: Path) -> Path | None:
    """NiiVue as a module that exports `Niivue`, in a folder that a server may serve; None where there is none."""
    widget = _widget()
    if widget is None:
        return None
    code = widget.read_text(encoding="utf-8")
    made = re.search(MAKING, code, re.DOTALL)
    if made is None:  # another version, built otherwise
        return None
    script = folder / "niivue.js"
    script.write_text(f"{code}\nexport {{{made[1]} as Niivue}};\n", encoding="utf-8")
    return script


def _widget() -> Path | None:
    spec = find_spec("ipyniivue")
    places = [Path(place, "static", "widget.js") for place in (spec and spec.submodule_search_locations) or []]
    return next((place for place in places if place.is_file()), None)


def layers(files: Mapping[str, Any], white: float, threshold: float, limit: float) -> list[dict[str, Any]]:
    """What the viewer lays over each other, from below: the scan, its counterfactual (hidden at first), the anomaly.

    Args:
        files: "image", "counterfactual" and "anomaly" by where they are.
        white: intensity of the scan that is shown as white.
        threshold, limit: of the anomaly; below the threshold it is not shown.
    """
    grey = {"colormap": "gray", "cal_min": 0.0, "cal_max": white, "colorbar_visible": False}
    colour = {"colormap": ANOMALY_COLOURS, "cal_min": threshold, "cal_max": limit, "colorbar_visible": True}
    return [
        {**files_of, **style, "opacity": opacity}
        for files_of, style, opacity in (
            ({"where": files["image"]}, grey, 1.0),
            ({"where": files["counterfactual"]}, grey, 0.0),
            ({"where": files["anomaly"]}, colour, 0.7),
        )
    ]


def white_of(result: DetectionResult) -> float:
    """The intensity of a result's first volume that is shown as white."""
    window = result.parameters.get("window_hu")
    return float(window[1]) if window else grey_window(result.case.volumes[0])


def view(result: DetectionResult) -> Any:
    """A NiiVue widget for a notebook: the scan, its counterfactual and the anomaly, in three planes.

        view(detect_volume(pipeline, case))

    The counterfactual is the second volume: `view(result).volumes[1].opacity = 1` shows it.

    Raises:
        InputError: ipyniivue is not installed.
    """
    try:
        from ipyniivue import NiiVue, SliceType
    except ImportError as error:
        raise InputError(f"The viewer needs ipyniivue ({error}): pip install 'difffuse_hf[app]'.") from error
    case, threshold = result.case, float(result.parameters["anomaly_threshold"])
    arrays = {"image": case.volumes[0], "counterfactual": result.counterfactual[0], "anomaly": result.anomaly}
    limit = max(float(result.anomaly.max()), 1.5 * threshold)
    viewer = NiiVue(**RADIOLOGICAL)
    viewer.set_slice_type(SliceType.MULTIPLANAR)
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder, f"{name}.nii.gz") for name in arrays}
        for name, file in files.items():
            write_volume(file, arrays[name], case.header, np.float32)
        viewer.load_volumes(
            [
                {"data": one.pop("where").read_bytes(), "name": f"{name}.nii.gz", **one}
                for name, one in zip(arrays, layers(files, white_of(result), threshold, limit))
            ]
        )
    return viewer
