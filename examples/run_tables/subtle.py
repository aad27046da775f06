"""Does ACAT find the small infarct (Ch. 5)? Beside a floor and a ceiling, with equal epochs for all."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from difffuse_hf.errors import require_choice

from .classification import COMPETITORS, NOISE_STD, atlas_if_there, counterfactual_options, variants
from .steps import Steps

WINDOW_HU = (0, 80)  # the brain window of a reading room
# How many times as dark as the phantom has them infarcts of sizes 1 to 4 are. As it has them nobody could tell whether
# maps help: the baseline is blind to sizes 1 and 2 (AUC 0.58) and never wrong about size 4. Fixed before ACAT was run.
CONTRAST = (3, 3, 1, 0.5)
BASELINE, MAPS = "baseline", "saliency"
MORE, MAXIMUM = "baseline, more epochs", "baseline, maximum pooling"  # the second as version 0.1.0 had it
MORE_RATE = 1e-3  # of a few epochs: with 1e-4 not even maps of the drawn lesion helped with small ones
MAPS_OF = {  # name of the row -> the maps that its attention gets
    "ACAT": MAPS,
    "ACAT, gradient maps": "gradient maps",  # of another source (Sec. 5.6.7), at a fraction of the cost
    "ACAT, shuffled maps": "shuffled maps",  # the floor
    "ACAT, told where to look": "drawn maps",  # the ceiling
}
PARTS = ("ACAT − fusion", "ACAT − fusion − late", "ACAT − fusion − late − middle", "ACAT, no slice attention",
         "ACAT, no residual")  # fmt: skip
RIVALS: dict[str, tuple[str, list[str]]] = {  # name of the row -> maps, flags of train_acat.py
    **{name: (MAPS, flags) for name, flags in COMPETITORS.items() if name != "ACAT"},
    # Parts are taken away where there is something to lose: from maps that point.
    **{f"{name}, told where to look": ("drawn maps", variants("ist3")[name]) for name in PARTS},
}


@dataclass(frozen=True)
class Grid:
    """Pixels of a scan, and what keeps the networks' fields of view as many millimetres on other ones."""

    image_size: tuple[int, int]
    pools: int  # of the classifier: as far as the thesis's six go at 0.5 mm
    strides: tuple[int, int, int]  # of the autoencoder: a latent pixel of 8 mm


@dataclass(frozen=True)
class SubtleSize:
    """What differs between a smoke test and a run whose figures mean something."""

    patients: int  # two scans of each
    seeds: Sequence[int]
    stages: tuple[int, int, int]  # epochs of the three stages of the baseline
    epochs: int  # more, of the baseline and of each ACAT
    autoencoder: int  # steps
    search: int  # steps of the counterfactuals
    looked_at: int  # test scans with a lesion of each seed, of the table of where maps point
    masks: int  # of RISE there
    grid: Grid
    common: str = "--batch_size 8"


COARSE = Grid((60, 48), pools=3, strides=(2, 1, 1))  # of 4 mm
FINE = Grid((120, 96), pools=4, strides=(2, 2, 1))  # of 2 mm

SUBTLE = {
    "smoke": SubtleSize(24, [0], (1, 1, 1), 1, autoencoder=3, search=1, looked_at=2, masks=4, grid=COARSE,
                        common="--batch_size 4"),
    "evening": SubtleSize(1000, [0, 1, 2], (6, 2, 1), 3, autoencoder=700, search=4, looked_at=60, masks=200,
                          grid=COARSE),
    "night": SubtleSize(4500, [0, 1, 2], (8, 3, 2), 4, autoencoder=3000, search=10, looked_at=400,
                        masks=1000, grid=FINE),
}  # fmt: skip


def subtle(name: str, out: str, anatomies: str, cases: str | None) -> Steps:
    """One cohort of stroke patients, dealt anew by anatomy for each seed."""
    require_choice("SIZE", name, SUBTLE)
    size, steps, first, then = SUBTLE[name], Steps(), [], []
    cohort = f"{out}/cohort"
    steps.add("cohort", "difffuse", "phantom", cohort, "--layout", "ist3", "--arrays", "--subjects", size.patients,
              "--seed", 800, "--anatomies", anatomies, "--infarct-contrast", CONTRAST, to=cohort)  # fmt: skip
    for seed in size.seeds:
        here, data = f"{out}/{seed}", f"{out}/{seed}/data"
        steps.add(f"{seed}/data", "difffuse", "prepare", "ist3", cohort, data, "--config", "volumes",
                  "--window-hu", WINDOW_HU, "--image-size", size.grid.image_size, "--split-seed", seed,
                  to=data)  # fmt: skip
        add_networks(steps, size, seed, here)
        first += rows_of([MORE, BASELINE, MAXIMUM, *MAPS_OF], here)
        then += rows_of([MORE, "ACAT", "ACAT, told where to look", *RIVALS], here)
    for tables, rows in {"tables": first, "tables of methods": then}.items():
        to = f"{out}/{tables}"
        steps.add(tables, "python", "examples/evaluate_classification.py", rows, "--cohort", "ist3",
                  "--output_dir", to, to=to)  # fmt: skip
    add_table_of_maps(steps, size, out)
    return steps


def add_table_of_maps(steps: Steps, size: SubtleSize, out: str) -> None:
    """Where the maps of each method point, by lesion and by territory (Sec. 5.6.5), and Table 5.6."""
    seed, runs = size.seeds[0], []
    first = f"{out}/{seed}"
    for here in (f"{out}/{seed}" for seed in size.seeds):
        runs += ["--run", f"{here}/{BASELINE}", f"{here}/autoencoder", f"{here}/data",
                 "--acat", f"{here}/ACAT", f"{here}/{MAPS}"]  # fmt: skip
    scratch = f"{first}/ACAT from scratch"  # all epochs of the baseline, for it starts without its weights
    steps.add(f"{seed}/ACAT from scratch", "launch", "examples/train_acat.py", train_flags(size, first, seed),
              "--classifier", f"{first}/{BASELINE}", "--from_scratch", "--epochs", sum(size.stages), "--learning_rate",
              MORE_RATE, "--saliency", f"{first}/{MAPS}", "--output_dir", scratch, to=scratch)  # fmt: skip
    search = counterfactual_options(size.search)
    options = {"class_agnostic_saliency": search, "negative_counterfactual": search}
    options["rise"] = {"num_masks": size.masks}
    tables = f"{out}/tables of maps"
    steps.add("tables of maps", "python", "examples/evaluate_saliency.py", runs, atlas_if_there(), "--limit",
              size.looked_at, "--noise_std", NOISE_STD, "--noise_model", scratch, "--options", json.dumps(options),
              "--output_dir", tables, to=tables)  # fmt: skip


def rows_of(names: Sequence[str], here: str) -> list[str]:
    """Rows of a table, of one seed; the first is the one that all others are compared with."""
    maps = MAPS_OF | {name: maps for name, (maps, _) in RIVALS.items()}
    words = []
    for name in names:
        words += ["--method", name, f"{here}/{name}", f"{here}/data"]
        words += [f"{here}/{maps[name]}"] if name in maps else []
    return words


def train_flags(size: SubtleSize, here: str, seed: int) -> list:
    return ["--dataset", f"{here}/data", "--seed", seed, "--cpu", "--report_to", "none", "--resume_from_checkpoint",
            "latest", *size.common.split()]  # fmt: skip


def add_networks(steps: Steps, size: SubtleSize, seed: int, here: str) -> None:
    """The baseline of a seed, the maps, and what goes on from there with as many epochs each."""
    data, train = ["--dataset", f"{here}/data"], train_flags(size, here, seed)

    def add(name: str, program: str, script: str, *words) -> None:
        to = f"{here}/{name}"
        steps.add(f"{seed}/{name}", program, f"examples/{script}.py", *words, "--output_dir", to, to=to)

    recipe = [*train, "--backbone", "half_brain", "--num_pools", size.grid.pools,
              "--stage_learning_rates", 1e-3, 5e-4, 1e-4, "--stage_epochs", *size.stages]  # fmt: skip
    add(BASELINE, "launch", "train_classifier", recipe)
    add("autoencoder", "launch", "train_autoencoder", train, "--channels", 8, 16, 16, "--strides", size.grid.strides,
        "--max_steps", size.autoencoder)  # fmt: skip
    search = json.dumps(counterfactual_options(size.search))
    add(MAPS, "launch", "compute_saliency", data, "--cpu", "--classifier", f"{here}/{BASELINE}",
        "--autoencoder", f"{here}/autoencoder", "--options", search)  # fmt: skip
    add("gradient maps", "launch", "compute_saliency", data, "--cpu", "--classifier", f"{here}/{BASELINE}",
        "--method", "gradient")  # fmt: skip
    add("drawn maps", "python", "drawn_maps", data)
    add("shuffled maps", "python", "drawn_maps", data, "--shuffle", f"{here}/{MAPS}")
    more = [*train, "--classifier", f"{here}/{BASELINE}", "--epochs", size.epochs, "--learning_rate", MORE_RATE]
    add(MORE, "launch", "train_acat", more, "--saliency", f"{here}/{MAPS}", "--method", "baseline")
    for row, maps in MAPS_OF.items():
        add(row, "launch", "train_acat", more, "--saliency", f"{here}/{maps}", "--method", "acat")
    for row, (maps, flags) in RIVALS.items():
        add(row, "launch", "train_acat", more, "--saliency", f"{here}/{maps}", flags)
    add(MAXIMUM, "launch", "train_classifier", recipe, "--pooling", "max")
