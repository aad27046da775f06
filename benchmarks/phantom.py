"""Seconds that a synthetic subject takes: by stage, with one process and with several, and against other source.

python benchmarks/phantom.py --subjects 14 --workers 2 --output_dir out/phantom [--anatomies FOLDER] [--against SRC]

`--against` is the `src` folder of another checkout. Every side draws the same cohort in a process of its own, start-up
included, and must leave the same files. "two apart" are two processes that know nothing of each other and draw half of
the cohort each: what the machine gives at best. The stages are CPU seconds a subject of one process
under a profiler.
"""

import argparse
import cProfile
import hashlib
import json
import os
import pstats
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from side_by_side import peak_gb, take_turns, write_results

from difffuse_hf import BrainPhantom
from difffuse_hf.errors import InputError, run_script

SOURCE = Path(__file__).parents[1] / "src"
PROFILED = 4  # subjects
# Stage -> functions of `phantoms/`, of all layouts, none inside another's; what is left over is "rest".
STAGES = {
    "anatomy": ("load_anatomy", "load_head"),
    "deformation": ("deform", "read", "displacement", "mni_coordinates"),
    "lesion": ("plan_glioma", "grow_glioma", "draw_lesions", "draw_other_pathology", "infarct_extent", "lungs.paint"),
    "painting": ("draw_tissue", "ventricle_caps", "paint_glioma", "_draw_head", "background", "_draw_lungs"),
    "acquisition": ("_acquire", "_expose", "_scan", "_place", "acquire"),
    "writing": ("save_nifti", "_write_series"),
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layout", choices=BrainPhantom.LAYOUTS, default="brats2021")
    parser.add_argument("--subjects", type=int, default=14)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--anatomies", type=Path, help="folder of label maps; the built-in ICBM152 maps by default")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--against", type=Path, metavar="SRC", help="`src` of another checkout")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--output_dir", type=Path, required=True)
    args = parser.parse_args(argv)
    if args.subjects < max(4, args.workers + 1):
        raise InputError(f"--subjects must be at least 4 and more than --workers, got {args.subjects}.")
    cohort = {"layout": args.layout, "seed": args.seed, "anatomies": args.anatomies and str(args.anatomies.resolve())}
    whole = {**cohort, "start": 0, "count": args.subjects}

    sides = {"one process": lambda: wait(start(SOURCE, **whole))}
    if args.workers > 1:
        sides[f"{args.workers} workers"] = lambda: wait(start(SOURCE, **whole, workers=args.workers))
        sides["two apart"] = lambda: [wait(child) for child in [start(SOURCE, **half) for half in halves(whole)]][0]
    sources = {"this source": SOURCE}
    if args.against:
        sides["against"] = lambda: wait(start(args.against.resolve(), **whole))
        sources["against"] = args.against.resolve()

    timings, results = take_turns(sides, args.rounds, warm_up=False)
    first, rows = timings[next(iter(sides))], []
    for name, timing in timings.items():
        row = {"side": name, **timing.row()}
        row["wall_over_one_process"] = row["wall_s"] / first.row()["wall_s"]
        row["cpu_over_one_process"] = row["cpu_s"] / first.row()["cpu_s"]
        row |= {key: value for key, value in results[name].items() if key not in ("files", "stages")}
        if name != "two apart":
            row["same_files"] = results[name]["files"] == results["one process"]["files"]
        rows.append(row)
    settings = {**vars(args), "argv": sys.argv[1:]}
    print(write_results(args.output_dir, "phantom", rows, settings))

    few = whole | {"count": min(args.subjects, PROFILED)}
    profiles = {name: wait(start(source, **few, profiled=True))["stages"] for name, source in sources.items()}
    stages = [
        {"stage": stage} | {name: profile[stage] for name, profile in profiles.items()}
        for stage in profiles["this source"]
    ]
    print(write_results(args.output_dir, "phantom_stages", stages, settings))


def halves(whole: dict) -> list[dict]:
    half = whole["count"] // 2
    return [whole | {"count": half}, whole | {"start": half, "count": whole["count"] - half}]


def start(source: Path, **options) -> subprocess.Popen:
    """A process that draws with the package of `source`: `draw` with these options."""
    path = os.pathsep.join([str(source), str(Path(__file__).parent)])
    command = [sys.executable, __file__, "--draw", json.dumps(options)]
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def wait(child: subprocess.Popen) -> dict:
    output, _ = child.communicate()
    if child.returncode:
        raise InputError(f"The process that draws failed ({child.returncode}); its error is above.")
    return json.loads(output.splitlines()[-1])


def draw(layout: str, seed: int, anatomies: str | None, start: int, count: int, workers: int = 1, profiled=False):
    """Draw subjects into a temporary folder; prints seconds a subject, memory, digest, stages."""
    cohort = BrainPhantom(layout, anatomies, seed)
    options = {"workers": workers} if workers > 1 else {}  # source from before there were workers has no such option
    profile, finished = cProfile.Profile(time.process_time), []
    with tempfile.TemporaryDirectory() as folder:
        if profiled:
            profile.enable()
        for _ in cohort.write(folder, count, start, **options):
            finished.append(time.perf_counter())
        profile.disable()
        files = hashlib.sha256()
        for file in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
            files.update(str(file.relative_to(folder)).encode() + file.read_bytes())
    result = {
        "s_a_subject_when_all_draw": (finished[-1] - finished[workers - 1]) / (count - workers),
        "peak_gb_of_a_process": max(peak_gb(), peak_gb(of_children=True)),
        "files": files.hexdigest(),
    }
    if profiled:
        result["stages"] = stage_seconds(profile, count)
    print(json.dumps(result))


def stage_seconds(profile: cProfile.Profile, count: int) -> dict[str, float]:
    """CPU seconds a subject of each stage, and of all."""
    seconds = dict.fromkeys([*STAGES, "rest"], 0.0)
    stats = pstats.Stats(profile).stats  # pyright: ignore[reportAttributeAccessIssue]
    stage_of = {function: stage for stage, functions in STAGES.items() for function in functions}
    for (file, _, function), (_, _, own, cumulative, _) in stats.items():
        seconds["rest"] += own
        stage = stage_of.get(function, stage_of.get(f"{Path(file).stem}.{function}"))
        if stage and Path(file).parent.name == "phantoms":
            seconds[stage] += cumulative
    seconds["rest"] -= sum(seconds[stage] for stage in STAGES)
    return {stage: value / count for stage, value in seconds.items()}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--draw"]:
        draw(**json.loads(sys.argv[2]))
    else:
        run_script(main)
