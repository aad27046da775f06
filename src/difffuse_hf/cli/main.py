"""The command line, `difffuse`. Heavy imports wait inside the commands, so that --help answers at once.

Exit codes: 0, 1 for work that failed, 2 for bad usage, 130 when interrupted. An error is one sentence on stderr.
"""

import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .. import __version__
from ..errors import INTERRUPTED, InputError
from .prepare import EXAMPLE, prepare

app = typer.Typer(
    help="Weakly supervised lesion detection in brain scans. A research tool, not a medical device.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
UsageError = typer.BadParameter.__base__  # click's own, or the copy of it that newer versions of typer carry


class Preset(str, Enum):
    fast = "fast"
    exact = "exact"
    thesis = "thesis"
    reference_code = "reference_code"


class Dtype(str, Enum):
    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


class Layout(str, Enum):
    brats2021 = "brats2021"
    wmh = "wmh"
    ist3 = "ist3"
    mosmed = "mosmed"


class RegistrationQuality(str, Enum):
    scan = "scan"
    mixture = "mixture"


Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, mps.", show_default="a GPU if there is one")
]  # fmt: skip


@app.callback(invoke_without_command=True)
def top(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
):
    if version:
        typer.echo(f"difffuse_hf {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


@app.command(epilog="Example: difffuse demo --output difffuse-demo")
def demo(
    output: Annotated[Path, typer.Option(help="Folder for the synthetic subject and the results.")] = Path(
        "difffuse-demo"
    ),
    scan: Annotated[Path | None, typer.Option(help="A real case folder in the BraTS layout to run as well.")] = None,
    device: Device = None,
):
    """Run the embedded model on a synthetic subject, and on a real scan if you give one."""
    device = _check_device(device)
    from ..detection.demo import run_demo

    run_demo(output, scan, device)


@app.command(epilog="Example: difffuse phantom data/phantom --subjects 20 --seed 0")
def phantom(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write the subjects into.")],
    layout: Annotated[Layout, typer.Option(help="The data set whose folders are imitated.")] = Layout.brats2021,
    subjects: Annotated[int, typer.Option(min=1, help="How many.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same subjects.")] = 0,
    anatomies: Annotated[
        Path | None,
        typer.Option(help="Folder of label maps in FreeSurfer numbering.", show_default="the built-in ICBM152 maps"),
    ] = None,
    incidence: Annotated[
        Path | None,
        typer.Option(
            help="For ist3: NIfTI map in MNI space of how often lesions lie where.", show_default="even in a territory"
        ),
    ] = None,
):
    """Write synthetic subjects with exactly known lesions, in the folders of a real data set.

    Running the same command again continues where it was stopped.
    """
    from rich.progress import track

    from ..phantoms.brain_phantom import BrainPhantom

    if incidence is not None and layout is not Layout.ist3:
        raise typer.BadParameter("is for --layout ist3", param_hint="--incidence")
    with _extra("preprocess"):
        cohort = BrainPhantom(layout.value, anatomies, seed, incidence)
    console = Console()
    for _ in track(cohort.write(out, subjects), "Drawing subjects", total=subjects, console=console):
        pass
    console.print(f"{subjects} synthetic subjects in {out}", markup=False, highlight=False, soft_wrap=True)


@app.command(epilog="Example: difffuse preprocess /data/dicom data/ct --workers 8")
def preprocess(
    dicom_dir: Annotated[Path, typer.Argument(metavar="DICOM_DIR", help="Searched with all the folders in it.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for scans, manifest, tables and pictures.")],
    workers: Annotated[int, typer.Option(min=1, help="Processes on this machine.")] = 1,
    dask: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Scheduler of a running Dask cluster, such as tcp://node1:8786; --workers is then ignored.",
        ),
    ] = None,
    merge_split: Annotated[
        bool, typer.Option("--merge-split", help="Join base and vault that were scanned apart; left out otherwise.")
    ] = False,
    template: Annotated[
        Path | None,
        typer.Option(help="Skull-stripped NIfTI template, up to 72 years.", show_default="the built-in ICBM152"),
    ] = None,
    template_old: Annotated[
        Path | None, typer.Option(help="The same for older patients.", show_default="as for the younger")
    ] = None,
    pixel_mm: Annotated[
        float | None,
        typer.Option(min=0.1, help="Resample to this pixel size.", show_default="pad or shrink to --image-size"),
    ] = None,
    image_size: Annotated[
        tuple[int, int], typer.Option(metavar="HEIGHT WIDTH", help="Pixels of the canvas that a head is put on.")
    ] = (500, 400),
    window: Annotated[
        tuple[float, float],
        typer.Option(
            metavar="LOW HIGH", help="Hounsfield units that become 0 and 1; 15 60 brings out early infarcts."
        ),
    ] = (0, 100),
    min_nmi: Annotated[
        float, typer.Option(min=1, max=2, help="Mutual information below which registration has failed.")
    ] = 1.187,
    max_rotation: Annotated[float, typer.Option(min=0, max=180, help="Degrees a head may be turned by.")] = 30.0,
    registration_qc: Annotated[
        RegistrationQuality,
        typer.Option(help="scan: each fit by itself. mixture: clusters of the whole cohort as well."),
    ] = RegistrationQuality.scan,
    headers_only: Annotated[
        bool, typer.Option("--headers-only", help="Only the decisions that headers allow; no scans.")
    ] = False,
    linkage: Annotated[
        bool, typer.Option("--linkage", help="Write private/linkage.csv, which leads back to the patients.")
    ] = False,
):
    """Turn head CT in DICOM into model-ready scans, and say why a scan was left out.

    Running the same command again continues where it was stopped.
    """
    with _extra("preprocess"):
        from ..preprocessing.ct import preprocess_ct
        from ..preprocessing.steps import CTPreprocessConfig

    try:
        config = CTPreprocessConfig(
            merge_split=merge_split,
            template=None if template is None else str(template.resolve()),
            template_old=None if template_old is None else str(template_old.resolve()),
            pixel_mm=pixel_mm,
            image_size=image_size,
            window_hu=window,
            min_nmi=min_nmi,
            max_rotation_deg=max_rotation,
            registration_qc=registration_qc.value,
            headers_only=headers_only,
        )
    except ValueError as error:
        raise typer.BadParameter(f"{error}") from error
    manifest = preprocess_ct(dicom_dir, out, config, workers, dask, linkage)
    from ..preprocessing.manifest import print_summary

    print_summary(manifest, out, Console())


app.command(epilog=f"Example: {EXAMPLE}")(prepare)


@app.command(epilog="Example: difffuse detect data/BraTS2021_00001 --model demo --output results")
def detect(
    inputs: Annotated[
        list[Path],
        typer.Argument(metavar="INPUT", help="Case folders (BraTS layout), or NIfTI files for a one-modality model."),
    ],
    model: Annotated[str, typer.Option(help="Model folder, Hub repository user/name, or demo (the embedded one).")],
    output: Annotated[Path, typer.Option(help="Each case gets a folder of its own in here.")],
    preset: Annotated[
        Preset,
        typer.Option(
            help="fast: few steps, several samples. exact: every step. thesis, reference_code: as published."
        ),
    ] = Preset.fast,
    device: Device = None,
    dtype: Annotated[
        Dtype, typer.Option(help="Of the U-Net; auto: bfloat16 where the device computes in it.")
    ] = Dtype.auto,
    batch_size: Annotated[int, typer.Option(min=1, help="Slices at a time.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same result.")] = 0,
    all_slices: Annotated[
        bool, typer.Option("--all-slices", help="Repaint every slice, not only those the classifier finds suspicious.")
    ] = False,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Counterfactuals per slice, averaged.", show_default="from the preset")
    ] = None,
    noise_level: Annotated[
        int | None, typer.Option(min=1, help="K, how far the slice is noised.", show_default="from the model")
    ] = None,
    percentile: Annotated[
        float | None,
        typer.Option(min=0, max=100, help="Of the saliency, above which is repainted.", show_default="from the model"),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(min=0, help="Of the anomaly map, above which is lesion.", show_default="from the model"),
    ] = None,
    false_positives: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, metavar="SHARE", help="Take the threshold that so much healthy brain reaches, such as 0.01."
        ),
    ] = None,
    through_slices: Annotated[
        float | None,
        typer.Option(
            min=0, metavar="SIGMA", help="Smooth saliency over so many slices and share noise: less flicker."
        ),
    ] = None,
):
    """Find lesions: healthy counterfactual, anomaly map, lesion mask and a report for each scan."""
    device = _check_device(device)
    import torch

    from ..detection.run import detect_case, load_model, print_results

    pipeline, line = load_model(model, device, None if dtype is Dtype.auto else getattr(torch, dtype.value))
    options = {"preset": preset.value, "batch_size": batch_size, "seed": seed, "all_slices": all_slices}
    options["through_slices"] = through_slices
    chosen = {"num_samples": samples, "noise_level": noise_level, "percentile": percentile}
    options.update({name: value for name, value in chosen.items() if value is not None})
    if threshold is not None and false_positives is not None:
        raise typer.BadParameter("--threshold and --false-positives both choose the threshold; give one of them.")
    if false_positives is not None:
        threshold = pipeline.processor.threshold_for(false_positives)
    if threshold is not None:
        pipeline.processor.anomaly_threshold = threshold
    summaries, failures = [], []
    for source in inputs:
        try:
            taken = [one["case"] for one in summaries]
            summaries.append(detect_case(pipeline, source, output, model, line, taken, **options))
        except torch.OutOfMemoryError:
            failures.append(f"{source}: the device ran out of memory; try a --batch-size below {batch_size}.")
        except (ValueError, OSError) as error:
            sentence = _sentence(error)
            failures.append(sentence if str(source) in sentence else f"{source}: {sentence}")
    if summaries:
        print_results(summaries, Console())
    for failure in failures:
        _complain(failure)
    if failures:
        raise typer.Exit(1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        with _stop_is_an_interrupt():
            code = app(args=arguments, prog_name="difffuse", standalone_mode=False)
    except UsageError as error:
        path = error.ctx.command_path if error.ctx else "difffuse"
        _complain(f"{error.format_message().rstrip('.')} (see `{path} --help`).")
        return 2
    except (InputError, OSError) as error:
        _complain(_sentence(error))
        return 1
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    if code == 130:  # newer versions of typer turn the interrupt into this code themselves
        _complain(INTERRUPTED)
    return code if isinstance(code, int) else 0


@contextmanager
def _stop_is_an_interrupt():
    """A batch system's stop (SIGTERM) cleans up as Ctrl-C does, in here only.

    Left behind, it would be inherited by processes that a caller forks later, whose pools end them by SIGTERM.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _extra(name: str):
    """Imports that need an extra: says which one to install where a module is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is missing; install it: pip install 'difffuse_hf[{name}]'.") from error


def _check_device(name: str | None) -> str:
    """The device to compute on; bad usage if this machine does not have it."""
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise typer.BadParameter(
            f"{name!r} is not a device of this machine; leave it out or say cpu", param_hint="--device"
        ) from error
    return name


def _complain(sentence: str):
    print(f"difffuse: {sentence}", file=sys.stderr)


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'A file'}: {error.strerror}; check the path, its permissions and the free space."
    return " ".join(str(error).split())


if __name__ == "__main__":
    sys.exit(main())
