"""From a hospital's disk to a folder of model-ready head CT scans, with a reason for every one left out (Ch. 3).

Nothing is deleted or overwritten, and a run can be interrupted and continued. The eight steps are in `steps.py`.
"""

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pandas
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from ..errors import InputError
from ..io.files import own_folder, write_csv, write_whole
from .exclusion import Exclusion
from .header_cache import HeaderCache
from .headers import ARCHIVE, Unread, printable, read_header
from .identity import load_salt
from .manifest import make_manifest, write_tables
from .parallel import WorkerDied, Workers
from .pictures import contact_sheet, save_picture
from .positioning import RegistrationQC
from .records import Records
from .registration import load_template
from .scan import Disk, FoundSeries
from .steps import CTPreprocessConfig, identity_row, process_series, rejection


def preprocess_ct(
    dicom_dir: str | Path,
    output: str | Path,
    config: CTPreprocessConfig | None = None,
    workers: int = 1,
    dask_address: str | None = None,
    linkage: bool = False,
    progress: bool = True,
) -> pandas.DataFrame:
    """Turn every head CT below a folder into a model-ready scan, and say why the others were left out (Ch. 3).

    `output` then holds `scans/` (NIfTI, intensities in [0, 1]), `manifest.parquet` and `.csv` (one row per series),
    `exclusions.md` and `.csv` (Table 3.1), `kept.png`, `rejected.png` and `thumbnails/`, all without patient data.
    Run again, it continues where it was stopped and adds series that are new; those that failed unexpectedly are
    tried again.

    Args:
        dicom_dir: searched with all its folders; file names do not matter.
        output: folder of the results, outside `dicom_dir`.
        config: defaults to the thesis's values.
        workers: processes on this machine.
        dask_address: of a running Dask scheduler, instead; it reads and writes the same paths.
        linkage: also write `private/linkage.csv`, which leads from a scan back to the patient.
        progress: show progress bars.

    Returns:
        The manifest.

    Raises:
        InputError: there are no DICOM files, or `output` belongs to another configuration or to a run in progress.
        OSError: the disk is full, or a folder cannot be written; what was finished is kept.
    """
    config, dicom_dir, output = config or CTPreprocessConfig(), Path(dicom_dir).resolve(), Path(output).resolve()
    if dicom_dir.is_file() and read_header(dicom_dir) == Unread(ARCHIVE, True):
        raise InputError(f"{dicom_dir} is {ARCHIVE}.")
    if not dicom_dir.is_dir():
        raise InputError(f"{dicom_dir} is not a folder; give the one that holds the DICOM files.")
    if output == dicom_dir or dicom_dir in output.parents:
        raise InputError(f"{output} lies inside the folder of the DICOM files; choose one outside of {dicom_dir}.")
    for path in (config.template, config.template_old):
        load_template(path)
    with own_folder(output), Workers(workers, dask_address) as pool:
        for folder in ("scans", "thumbnails", "private"):
            (output / folder).mkdir(exist_ok=True)
        return _run(dicom_dir, output, config, pool, linkage, progress)


def _run(dicom_dir, output, config, pool, linkage, progress) -> pandas.DataFrame:
    _check_same_config(output / "config.json", config)
    salt = load_salt(output / "private")
    disk = _scan(dicom_dir, HeaderCache(output / "private" / "headers"), salt, pool, progress)
    all_series = disk.find_series(config.merge_split)
    by_id = {disk.scan_id(series): series for series in all_series}
    study_day = _study_days(all_series)

    records = Records(output / "records.jsonl")
    latest = {row["scan_id"]: row for row in records.rows}
    left = [scan_id for scan_id, series in by_id.items() if _is_open(latest.get(scan_id), series)]
    tasks = ((disk.load(by_id[scan_id]), scan_id) for scan_id in left)
    work = partial(_process_task, config=config, salt=salt, output=output)
    with _bar(progress) as bar:
        line = bar.add_task("Scans", total=len(by_id), completed=len(by_id) - len(left))
        for (series, scan_id), row in pool.map(work, tasks):
            if isinstance(row, WorkerDied):
                detail = "the processes that tried it died; their memory may be too small"
                row = identity_row(series, scan_id, salt) | rejection(Exclusion.FAILED, detail)
            row["study_day"] = study_day.get((series.patient_id, series.study_uid))
            records.append(row)
            latest[scan_id] = row
            bar.advance(line)

    manifest = _judge_cohort(make_manifest(list(latest.values())), config)
    unreadable = [(printable(path), printable(why)) for path, why in disk.unreadable()]
    write_tables(manifest, output, unreadable)
    for decision, title in (("keep", "kept"), ("reject", "rejected")):
        rows = manifest.loc[(manifest["decision"] == decision) & (manifest["merged_into"] == "")]
        save_picture(contact_sheet(rows, output / "thumbnails", f"Series {title}"), output / f"{title}.png")
    write_csv(output / "private" / "unreadable.csv", ["path", "why"], unreadable, owner_only=True)
    if linkage:
        _write_linkage(output / "private" / "linkage.csv", by_id, disk)
    return manifest


def _process_task(task, **settings):
    return process_series(*task, **settings)


def _is_open(row: dict | None, series: FoundSeries) -> bool:
    """Not done yet, failed unexpectedly, or made of other slices since."""
    return row is None or row["reason"] == Exclusion.FAILED.value or row.get("content") != series.content


def _scan(dicom_dir: Path, cache: HeaderCache, salt: bytes, pool: Workers, progress: bool) -> Disk:
    disk = Disk(dicom_dir, salt, cache)
    with _bar(progress) as bar:
        total = len(disk.files)
        line = bar.add_task("Reading headers", total=total, completed=total - len(disk.unread))
        disk.read(pool, lambda count: bar.advance(line, count))
    if not disk.has_header().any():
        failed = disk.unreadable()
        example = f"; {printable(failed[0][0])}: {printable(failed[0][1])}" if failed else ""
        raise InputError(f"{dicom_dir} holds no readable DICOM image ({total} files were looked at{example}).")
    return disk


def _study_days(all_series: list[FoundSeries]) -> dict[tuple[str, str], int]:
    """Days between a patient's first study on the disk and each study, by patient and study.

    Dates themselves stay behind; studies without a patient or an identifier have none.
    """
    days, first = {}, {}
    for series in all_series:
        if series.study_day is not None and series.patient_id and series.study_uid:
            days[series.patient_id, series.study_uid] = series.study_day
    for (patient, _), day in days.items():
        first[patient] = min(day, first.get(patient, day))
    return {(patient, study): day - first[patient] for (patient, study), day in days.items()}


def _judge_cohort(manifest: pandas.DataFrame, config: CTPreprocessConfig) -> pandas.DataFrame:
    """The thesis's cohort test of positions: clusters of the registration matrices, where there are enough of them."""
    columns = [f"matrix_{i}{j}" for i in range(3) for j in range(3)]
    if not set(columns) <= set(manifest.columns):
        return manifest
    fitted = manifest[columns].notna().all(axis=1) & (manifest["merged_into"] == "")
    matrices = manifest.loc[fitted, columns].to_numpy(float).reshape(-1, 3, 3)
    quality = RegistrationQC.fit(matrices, kept=(manifest.loc[fitted, "decision"] == "keep").to_numpy())
    if quality is None:  # too few scans
        return manifest
    manifest.loc[fitted, "mixture_cluster"] = quality.labels
    manifest.loc[fitted, "mixture_keeps"] = quality.well_positioned
    if config.registration_qc == "mixture":
        newly = fitted & (manifest["mixture_keeps"] == False) & (manifest["decision"] == "keep")  # noqa: E712
        newly |= manifest["merged_into"].isin(manifest.loc[newly, "scan_id"])
        manifest.loc[newly, ["decision", "reason"]] = ["reject", Exclusion.ILL_POSITIONED.value]
        manifest.loc[newly, "detail"] = "in a cluster of ill-positioned scans"
    return manifest


def _check_same_config(path: Path, config: CTPreprocessConfig):
    wanted = json.loads(json.dumps(asdict(config)))
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        for name, value in wanted.items():
            if found.get(name) != value:
                raise InputError(
                    f"{path.parent} was made with {name} = {found.get(name)}, not {value}; choose another folder."
                )
        return
    text = json.dumps(wanted, indent=2) + "\n"
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _write_linkage(path: Path, by_id: dict[str, FoundSeries], disk: Disk):
    columns = ["scan_id", "patient_id", "study_uid", "series_uid", "study_date", "folder"]
    rows = []
    for scan_id, series in by_id.items():
        first_of = {}
        for header in disk.load(series).slices:
            first_of.setdefault(header.series_uid, header.number)
        for one in disk.read_again(first_of.values()):
            rows.append(
                (scan_id, one.patient_id, one.study_uid, one.series_uid, one.study_date, printable(one.path.parent))
            )
    write_csv(path, columns, rows, owner_only=True)


class _Rate(ProgressColumn):
    def render(self, task):
        return Text(f"{task.speed:.1f}/s" if task.speed else "", style="progress.data.speed")


def _bar(progress: bool) -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn()
    return Progress(*columns, disable=not progress)
