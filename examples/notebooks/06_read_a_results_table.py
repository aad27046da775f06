# %% [markdown]
# # Read a results table
#
# `evaluate_anomaly.py` scores methods on the test split of a data set. Here it scores the embedded demo model,
# with its mask and with the whole slice repainted, on a few of the synthetic slices that
# `04_train_on_your_data.py` has left in `out/notebooks` (run that notebook first). So few slices say how to read
# such a table, and nothing about the method.

# %%
import json
import runpy
from pathlib import Path

from matplotlib import pyplot as plt

OUT = Path("out/notebooks")
EXAMPLES = next(place / "examples" for place in (Path.cwd(), *Path.cwd().parents) if (place / "examples").is_dir())
data = str(OUT / "slices")
methods = [  # name, model, data set, options of the pipeline's call; the differences are to the row "Dif-fuse"
    *("--method", "Dif-fuse", "demo", data, '{"display_steps": 0}'),
    *("--method", "all repainted", "demo", data, '{"display_steps": 0, "percentile": 0}'),
]
evaluate = runpy.run_path(str(EXAMPLES / "evaluate_anomaly.py"))["main"]
evaluate([*methods, "--limit", "2", "--output_dir", str(OUT / "evaluation"), "--device", "cpu"])

# %% [markdown]
# `anomaly.md` and `anomaly.tex` are for reading, `anomaly.json` for programs. In it, `results` has a list of
# seeds for each method, and of each seed every measure:
#
# - `dice`: of the anomaly map, cut at the threshold that was best **on the validation split**. This is the honest
#   figure.
# - `best_dice`: at the threshold that would have been best on the test split, which nobody knows. It is a
#   ceiling.
# - `healthy_change`: how much of a healthy slice is changed, from 0 to 1. A good method leaves it alone.

# %%
table = json.loads((OUT / "evaluation" / "anomaly.json").read_text(encoding="utf-8"))
print("synthetic data:", table["synthetic"], "- slices of each class and split:", table["limit"])
for name, seeds in table["results"].items():
    for number, seed in enumerate(seeds):
        shown = {measure: round(value, 3) for measure, value in seed.items() if isinstance(value, float)}
        print(name, "seed", number, shown)

# %% [markdown]
# The same name given again is another seed; the tables then print mean ± standard error. A difference smaller
# than two standard errors may be chance. `admission` says which methods were trained far enough to be judged at
# all.

# %%
figure, axes = plt.subplots(figsize=(6, 3), facecolor="white", layout="constrained")
for number, seeds in enumerate(table["results"].values()):
    for measure, place, colour in (("dice", -0.2, "#0072b2"), ("best_dice", 0.2, "#e69f00")):
        axes.bar(number + place, seeds[0][measure], 0.38, color=colour, label=measure if number == 0 else None)
axes.set_xticks(range(len(table["results"])), table["results"])
axes.set(ylabel="Dice (0 to 1)", ylim=(0, 1), title="Synthetic test slices; one seed")
axes.legend(frameon=False)
