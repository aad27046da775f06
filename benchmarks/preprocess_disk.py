"""CT pre-processing on a synthetic hospital disk whose every series has a known truth: decisions, speed, memory.

python benchmarks/preprocess_disk.py out/disk --series 200 [--anatomies FOLDER] [--workers 2]

The disk is drawn by `BrainPhantom("ist3")` (synthetic throughout) and kept for the next run. The same disk is then
processed by one process and by several, one after the other; results go to `benchmark.json` and `benchmark.md`.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas
from rich.progress import track

from difffuse_hf import BrainPhantom
from difffuse_hf.errors import run_script


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--series", type=int, default=200, help="at least so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--anatomies", type=Path, help="folder of label maps; the built-in ICBM152 maps by default")
    parser.add_argument("--workers", type=int, default=2, help="of the second run")
    args = parser.parse_args(argv)

    disk = args.output / "disk"
    draw_disk(disk, args.series, args.seed, args.anatomies)
    expected = pandas.read_csv(disk / "expected.csv", keep_default_na=False, dtype=str)
    timings = {}
    for workers in (1, args.workers):
        target = args.output / f"workers{workers}"
        shutil.rmtree(target, ignore_errors=True)
        command = [sys.executable, "-m", "difffuse_hf.cli.main", "preprocess", disk / "dicom", target]
        start = time.perf_counter()
        subprocess.run([*command, "--linkage", "--workers", str(workers)], check=True, stdout=subprocess.DEVNULL)
        timings[workers] = time.perf_counter() - start
        if workers == 1:
            peak_gb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6  # the process that does the work
    results = read_results(args.output / "workers1", expected)
    kept = results[results["decision"] == "keep"]
    summary = {
        "series": len(results),
        "right_decisions": int((results["decision"] == results["expected_decision"]).sum()),
        "failed": int((results["reason"] == "failed").sum()),
        "median_cpu_seconds_of_kept_scans": float(kept["cpu_seconds"].median()),
        "median_seconds_of_kept_scans": float(kept["seconds"].median()),
        "median_slices_of_kept_scans": float(kept["num_slices"].median()),
        "peak_memory_gb": peak_gb,
        "seconds_in_all": timings,
        "speed_up": timings[1] / timings[args.workers],
    }
    table = score(results)
    (args.output / "benchmark.json").write_text(
        json.dumps(summary | {"reasons": table.to_dict("records")}, indent=2) + "\n"
    )
    lines = [f"- {name}: {value}" for name, value in summary.items()]
    lines += ["", "| reason | expected | found | precision | recall |", "|---|---:|---:|---:|---:|"]
    for row in table.itertuples():
        lines.append(f"| {row.reason} | {row.expected} | {row.found} | {row.precision:.3f} | {row.recall:.3f} |")
    (args.output / "benchmark.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    wrong = results[(results["reason"] != results["expected_reason"])]
    if len(wrong):
        print("\nseries with another reason than expected:")
        print(wrong[["scan_id", "expected_reason", "reason", "detail", "folder"]].to_string(index=False))


def draw_disk(disk: Path, num_series: int, seed: int, anatomies: Path | None):
    """Patients until the disk holds `num_series` series; those of an earlier run are kept."""
    cohort = BrainPhantom("ist3", anatomies, seed)
    for index in track(range(num_series), "Drawing patients"):
        list(cohort.write(disk, 1, start=index))
        if sum(1 for _ in (disk / "expected.csv").open()) > num_series:
            return


def read_results(target: Path, expected: pandas.DataFrame) -> pandas.DataFrame:
    """Manifest rows beside what was expected of them, by way of the series' identifiers."""
    manifest = pandas.read_parquet(target / "manifest.parquet")
    manifest = manifest[manifest["merged_into"] == ""]
    linkage = pandas.read_csv(target / "private" / "linkage.csv", dtype=str)
    results = linkage.merge(expected, on="series_uid", how="outer").merge(manifest, on="scan_id", how="left")
    missing = results["decision"].isna()
    results.loc[missing, ["decision", "reason", "detail"]] = ["reject", "unreadable", "no readable header"]
    return results


def score(results: pandas.DataFrame) -> pandas.DataFrame:
    """Precision and recall of every reason; the blank one is "keep"."""
    rows = []
    for reason in sorted(set(results["reason"]) | set(results["expected_reason"])):
        found, expected = results["reason"] == reason, results["expected_reason"] == reason
        both = int((found & expected).sum())
        rows.append(
            {
                "reason": reason or "keep",
                "expected": int(expected.sum()),
                "found": int(found.sum()),
                "precision": both / max(int(found.sum()), 1),
                "recall": both / max(int(expected.sum()), 1),
            }
        )
    return pandas.DataFrame(rows)


if __name__ == "__main__":
    run_script(main)
