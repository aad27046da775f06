"""Malformed scans, one after the other, through the readers: each has to end in a scan, a decision or one sentence.

python benchmarks/hostile.py --count 10000 --seed 0 --output_dir hostile-results

Input number n of a seed is a NIfTI case, another volume, a zip or a folder of DICOM files, whole or with up to three
faults: cut off, bits flipped, absurd sizes and types, NaN, links in a circle, pipes, names that are no text, archives
that lead out of their folder or are far larger than they look. The readers are those of `difffuse detect` and
`difffuse preprocess`, up to the pixels. They run in a process of their own, so that a crash or a hang is seen and
counted, with the number of the input, and the next one goes on.

An input hangs if its process computes for it more than ten seconds (CPU time, of all threads), or computes nothing at
all for ten seconds of the clock, or gives no answer in five minutes of the clock (it naps). How busy the machine is
slows the clock alone, and even there a process that could compute gets its turn within ten seconds.
"""

import argparse
import collections
import gzip
import io
import json
import multiprocessing
import os
import resource
import shutil
import struct
import tempfile
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import psutil
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless

MOST_SECONDS = 10  # of CPU time, and of the clock where none is used
NAPPING_SECONDS = 300
NUMBERS = (0, -1, 1, 2, 7, 255, 32767, -32768, 2**31 - 1)
FLOATS = (0.0, -1.0, 1e-30, 1e30, 3e38, float("nan"), float("inf"), -float("inf"), 352.5)
TEXTS = ("", "0", "-1", "nan", "inf", "1e400", "1\\2\\3\\4", "x", "\\\\", "0\\0", "ÄÖ^Müller", "9" * 400, "\0\0")
SHAPE = (12, 12, 8)


# ---- volumes -----------------------------------------------------------------------------------------------------


def nifti_bytes(rng: np.random.Generator) -> bytearray:
    """A small head in NIfTI-1 or NIfTI-2, its axes along the body's."""
    voxels = np.zeros(SHAPE, np.int16)
    voxels[3:9, 3:9, 1:7] = 100 + rng.integers(0, 50, (6, 6, 6))
    kind = nibabel.Nifti2Image if rng.random() < 0.1 else nibabel.Nifti1Image
    return bytearray(kind(voxels, np.diag([-1.0, 1, 1, 1])).to_bytes())


def spoil_header(content: bytearray, rng: np.random.Generator) -> None:
    """One field of a NIfTI-1 header becomes something that it should not be."""
    fields = nibabel.Nifti1Header.template_dtype.fields
    name = str(rng.choice([name for name in fields if name not in ("data_type", "db_name")]))
    dtype, start = fields[name][0], fields[name][1]
    base = dtype.subdtype[0] if dtype.subdtype else dtype
    count = int(np.prod(dtype.shape)) if dtype.subdtype else 1
    place = start + base.itemsize * int(rng.integers(count))
    if base.kind == "f":
        value = np.array(rng.choice(FLOATS)).astype(base)
    elif base.kind in "iu":
        value = np.array(int(rng.choice(NUMBERS)) if rng.random() < 0.8 else rng.integers(-3, 3000)).astype(base)
    else:
        value = np.array(bytes(rng.integers(0, 256, base.itemsize, np.uint8)), base)
    content[place : place + base.itemsize] = value.tobytes()


def spoil_bytes(content: bytearray, rng: np.random.Generator) -> None:
    """Flip bits, most often where the header is."""
    for _ in range(int(rng.integers(1, 20))):
        end = len(content) if rng.random() < 0.3 else min(len(content), 400)
        if end:
            content[int(rng.integers(end))] ^= 1 << int(rng.integers(8))


def cut_off(content: bytearray, rng: np.random.Generator) -> None:
    """Truncate: to nothing, in the preamble, in the header, in the voxels, or a byte before the end."""
    ends = [0, 1, 131, 141, 347, 351, 352, len(content) // 2, len(content) - 1, int(rng.integers(len(content) + 1))]
    del content[int(rng.choice(ends)) :]


def swap_bytes(content: bytearray, rng: np.random.Generator) -> None:
    content[0:4] = content[0:4][::-1]


def add_extension(content: bytearray, rng: np.random.Generator) -> None:
    size, code = rng.choice([-16, 0, 3, 16, 2**31 - 1]), rng.choice([0, 2, 6, -1])
    content[348:352] = b"\1\0\0\0"
    content[352:352] = struct.pack("<ii", size, code) + b"x" * 8


def spoil_voxels(content: bytearray, rng: np.random.Generator) -> None:
    """Voxels of a float type, all or some of them no intensities."""
    content[70:74] = struct.pack("<hh", 16, 32)
    voxels = np.full(SHAPE, rng.choice(FLOATS), np.float32)
    if rng.random() < 0.5:
        voxels[3:9, 3:9, 1:7] = 100
    content[352:] = voxels.tobytes()


def zip_voxels(content: bytearray, rng: np.random.Generator) -> None:
    content[:] = gzip.compress(bytes(content), 1)


NIFTI_FAULTS = (*[spoil_header] * 3, spoil_bytes, cut_off, swap_bytes, add_extension, spoil_voxels)


def bomb_header(shape: tuple[int, ...]) -> bytes:
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header["dim"][:4], header["vox_offset"], header["magic"] = (3, *shape), 352, b"n+1"
    return header.binaryblock + bytes(4)


def write_nifti(folder: Path, rng: np.random.Generator) -> Path:
    content = nifti_bytes(rng)
    for fault in rng.choice(NIFTI_FAULTS, rng.integers(0, 4)):
        fault(content, rng)
    ending = ".nii"
    if rng.random() < 0.5:
        zip_voxels(content, rng)
        ending = ".nii.gz"
        if rng.random() < 0.3:
            (cut_off if rng.random() < 0.5 else spoil_bytes)(content, rng)
    path = folder / f"case_flair{ending}"
    path.write_bytes(content)
    return path if rng.random() < 0.5 else folder


def write_bomb(folder: Path, rng: np.random.Generator) -> Path:
    """A small file that says, or is, far more than a scan."""
    shape = [(1024, 1024, 1000), (32767, 32767, 32767), (64, 64, 32767), (8, 8, 8)][int(rng.integers(4))]
    path = folder / "case_flair.nii.gz"
    with path.open("wb") as file:
        file.write(gzip.compress(bomb_header(shape)))
        for _ in range(int(rng.integers(1, 9))):
            file.write(ZEROS)
    return path


ZEROS = gzip.compress(bytes(2**24), 9)  # 16 kB that unpack to 16 MB


def write_other_volume(folder: Path, rng: np.random.Generator) -> Path:
    """MGH, NRRD, MetaImage or a pair of files, cut off or with absurd numbers."""
    kind = str(rng.choice(["mgz", "nrrd", "mha", "pair"]))
    size = " ".join(str(rng.choice([*NUMBERS, 12, 12, 12])) for _ in range(3))
    numbers = " ".join(str(rng.choice(FLOATS)) for _ in range(3))
    voxels = bytes(rng.integers(0, 255, 2 * 12**3, np.uint8))
    if kind == "mgz":
        image = nibabel.MGHImage(np.ones(SHAPE, np.float32), np.eye(4))
        content = bytearray(image.to_bytes())
        for fault in rng.choice((spoil_bytes, cut_off), rng.integers(0, 3)):
            fault(content, rng)
        (folder / "case_flair.mgz").write_bytes(gzip.compress(content, 1))
    elif kind == "nrrd":
        encoding = rng.choice(["raw", "gzip", "hex", "x"])
        text = f"NRRD0004\ntype: short\ndimension: 3\nsizes: {size}\nspacings: {numbers}\nencoding: {encoding}\n\n"
        (folder / "case_flair.nrrd").write_bytes(text.encode() + voxels)
    elif kind == "mha":
        where = rng.choice(["LOCAL", "/etc/passwd", "../case_t1.raw", "LIST"])
        text = f"ObjectType = Image\nNDims = 3\nDimSize = {size}\nElementSpacing = {numbers}\n"
        text += f"ElementType = MET_SHORT\nElementDataFile = {where}\n"
        (folder / "case_flair.mha").write_bytes(text.encode() + voxels)
    else:
        content = nifti_bytes(rng)[:352]
        spoil_header(content, rng)
        (folder / "case_flair.hdr").write_bytes(content)
        if rng.random() < 0.5:
            (folder / "case_flair.img").write_bytes(voxels)
    return folder


def write_zip(folder: Path, rng: np.random.Generator) -> Path:
    """A zip with names that lead out of it, zips in it, links, or damaged."""
    path = folder / "case.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("case_flair.nii", bytes(nifti_bytes(rng)))
        for name in rng.choice(["../../evil", "/tmp/evil-hostile", "a/../../../evil", "evil\\..\\..", "C:evil"], 2):
            archive.writestr(str(name), b"out")
        if rng.random() < 0.3:
            inner = io.BytesIO()
            with zipfile.ZipFile(inner, "w") as nested:
                nested.writestr("slice.dcm", b"x" * 200)
            archive.writestr("nested.zip", inner.getvalue())
        if rng.random() < 0.3:
            link = zipfile.ZipInfo("case_t1.nii")
            link.external_attr = 0o120777 << 16
            archive.writestr(link, "/etc/passwd")
    if rng.random() < 0.6:
        content = bytearray(path.read_bytes())
        (cut_off if rng.random() < 0.5 else spoil_bytes)(content, rng)
        path.write_bytes(content)
    return path


def write_odd_files(folder: Path, rng: np.random.Generator) -> Path:
    """Pipes, links, empty files, names that are no text."""
    name = rng.choice(["case_flair.nii.gz", "slice", "DICOMDIR", "._case_flair.nii", "dataset.json"])
    kind = rng.integers(6)
    if kind == 0:
        os.mkfifo(folder / name)
        (folder / "link").symlink_to(name)
    elif kind == 1:
        (folder / "loop").symlink_to(folder)
        (folder / name).symlink_to(folder / name)
    elif kind == 2:
        (folder / name).write_bytes(b"")
    elif kind == 3:
        with open(os.path.join(os.fsencode(folder), b"case_\xff\xfe_flair.nii"), "wb") as file:
            file.write(nifti_bytes(rng))
    elif kind == 4:
        (folder / name).mkdir()
        (folder / "case_flair.nii").write_bytes(rng.bytes(int(rng.integers(2000))))
    else:
        (folder / "dataset.json").write_text(str(rng.choice(["[" * 5000, '{"channel_names": 7}', "\0", "{}", "NaN"])))
        (folder / "case_0000.nii").write_bytes(nifti_bytes(rng))
    return folder


# ---- DICOM -------------------------------------------------------------------------------------------------------


def slice_of(index: int, pixels: np.ndarray) -> Dataset:
    tags = Dataset()
    for name, value in {
        "SOPClassUID": CTImageStorage, "SOPInstanceUID": f"1.2.3.{index}", "SeriesInstanceUID": "1.2.4",
        "StudyInstanceUID": "1.2.5", "FrameOfReferenceUID": "1.2.6", "PatientName": "NAME^HOSTILE",
        "PatientID": "7", "PatientAge": "070Y", "StudyDate": "20050102", "Modality": "CT", "Manufacturer": "NONE",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], "ConvolutionKernel": "UB", "SeriesDescription": "BRAIN",
        "AcquisitionNumber": 1, "InstanceNumber": index + 1, "PixelSpacing": [10.0, 10.0], "SliceThickness": 5.0,
        "ImageOrientationPatient": [1.0, 0, 0, 0, 1, 0], "ImagePositionPatient": [-80.0, -80, -60 + 5.0 * index],
        "PhotometricInterpretation": "MONOCHROME2", "SamplesPerPixel": 1, "BitsAllocated": 16, "BitsStored": 16,
        "HighBit": 15, "PixelRepresentation": 1, "RescaleSlope": 1, "RescaleIntercept": -1024, "WindowCenter": 40,
        "WindowWidth": 80, "Rows": pixels.shape[0], "Columns": pixels.shape[1],
    }.items():  # fmt: skip
        setattr(tags, name, value)
    tags.PixelData = pixels.astype(np.int16).tobytes()
    tags["PixelData"].VR = "OW"
    tags.file_meta = FileMetaDataset()
    tags.file_meta.MediaStorageSOPClassUID = CTImageStorage
    tags.file_meta.MediaStorageSOPInstanceUID = tags.SOPInstanceUID
    tags.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return tags


def in_bytes(tags: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    if syntax == RLELossless:
        tags.compress(RLELossless, generate_instance_uid=False)
    tags.file_meta.TransferSyntaxUID = syntax
    stream = io.BytesIO()
    tags.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def whole_series() -> dict[str, list[bytes]]:
    """Twenty-eight slices of 16 x 16 pixels, in each of three transfer syntaxes."""
    head = np.full((28, 16, 16), 24)
    head[:, 4:12, 4:12] = 1064
    head[:, 4:12, [4, 11]] = 2000
    syntaxes = ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless
    return {syntax: [in_bytes(slice_of(i, one), syntax) for i, one in enumerate(head)] for syntax in syntaxes}


def spoil_element(content: bytes, rng: np.random.Generator) -> bytes:
    """One element takes a value that it should not have, or is missing."""
    tags = pydicom.dcmread(io.BytesIO(content))
    names = [element.keyword for element in tags if element.keyword]
    name = str(rng.choice([one for one in names if one != "PixelData"]))
    kind = tags[name].VR
    if rng.random() < 0.2:
        del tags[name]
    elif kind in ("US", "SS", "OW"):
        tags[name].value = int(rng.choice([0, 1, 3, 8, 12, 17, 32, 64, 255, 5000, 20000, 65535]))
    elif kind in ("DS", "IS"):
        tags[name] = pydicom.DataElement(tags[name].tag, "LO", str(rng.choice(TEXTS)))
        tags[name].VR = "LO"
    else:
        tags[name].value = str(rng.choice(TEXTS))
    return _saved(tags, content)


def nest(content: bytes, rng: np.random.Generator) -> bytes:
    """Sequences in sequences of unknown length, some without an end."""
    depth, items = int(rng.choice([1, 3, 60, 3000])), int(rng.integers(1, 4))
    endless, item = b"SQ\0\0\xff\xff\xff\xff", b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    item_end, end = b"\xfe\xff\x0d\xe0" + bytes(4), b"\xfe\xff\xdd\xe0" + bytes(4)
    opened, closed = b"\x00\x52\x29\x92" + endless + item, (item_end + end) * int(rng.integers(2))
    one = item + opened * depth + closed * depth + item_end
    sequence = b"\x00\x52\x30\x92" + endless + one * items + end
    start, mark, pixels = content.partition(b"\xe0\x7f\x10\x00")
    return start + sequence + mark + pixels


def _saved(tags: Dataset, otherwise: bytes) -> bytes:
    stream = io.BytesIO()
    try:
        tags.save_as(stream)
    except Exception:  # pydicom refuses to write some of it
        return otherwise
    return stream.getvalue()


def deflate_bomb(content: bytes, rng: np.random.Generator) -> bytes:
    compressor = zlib.compressobj(9, wbits=-15)
    start = DEFLATED.index(b"1.2.840.10008.1.2.1.99") + 22
    return DEFLATED[:start] + compressor.compress(bytes(2 ** int(rng.integers(20, 28)))) + compressor.flush()


def spoil_file(content: bytes, rng: np.random.Generator) -> bytes:
    mutable = bytearray(content)
    (cut_off if rng.random() < 0.4 else spoil_bytes)(mutable, rng)
    if rng.random() < 0.3 and len(mutable) > 400:  # a length or a type in the header
        place = int(rng.integers(132, 800)) % (len(mutable) - 4)
        mutable[place : place + 4] = bytes(rng.choice([255, 0, 65, 127], 4).astype(np.uint8))
    return bytes(mutable)


SERIES: dict[str, list[bytes]] = {}
DEFLATED = b""
DICOM_FAULTS: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (
    *(spoil_element, spoil_element, spoil_element, spoil_file, spoil_file, nest),
)


def write_dicom(folder: Path, rng: np.random.Generator) -> Path:
    """A series of which some files or all have faults; slices missing, twice, or of another series."""
    global DEFLATED
    if not SERIES:
        SERIES.update(whole_series())
        DEFLATED = SERIES[DeflatedExplicitVRLittleEndian][0]
    files = list(SERIES[str(rng.choice(list(SERIES), p=[0.7, 0.1, 0.2]))])
    files = files[: int(rng.choice([3, 6, 28], p=[0.4, 0.4, 0.2]))]
    fault, everywhere = DICOM_FAULTS[int(rng.integers(len(DICOM_FAULTS)))], rng.random() < 0.3
    same = int(rng.integers(2**31))
    for index in range(len(files)) if everywhere else rng.integers(0, len(files), rng.integers(0, 4)):
        seed = same if rng.random() < 0.8 else int(rng.integers(2**31))
        files[int(index)] = fault(files[int(index)], np.random.default_rng(seed))
    if rng.random() < 0.02:
        files[0] = deflate_bomb(files[0], rng)
    if rng.random() < 0.2:
        files = [one for one in files if rng.random() < 0.9] * int(rng.choice([1, 2]))
    names = [f"{index:04d}" for index in range(len(files))]
    if rng.random() < 0.1:
        (folder / "DICOMDIR").write_bytes(files[0] if files else b"")
        names = [f"é {name}" for name in names]
    for name, content in zip(names, files):
        (folder / name).write_bytes(content)
    return folder


WRITERS = (write_nifti, write_other_volume, write_bomb, write_zip, write_odd_files, write_dicom)
SHARES = (0.41, 0.12, 0.01, 0.07, 0.07, 0.32)


# ---- the readers -------------------------------------------------------------------------------------------------


def write_input(seed: int, number: int, folder: Path) -> Path:
    """Write input `number` into an empty folder; what is then given to the readers."""
    rng = np.random.default_rng((seed, number))
    return WRITERS[int(rng.choice(len(WRITERS), p=SHARES))](folder, rng)


def outcome_of(place: Path) -> str:
    """ "read", "decided", or "sentence"; anything else that is raised is left to the caller."""
    from difffuse_hf import DifFuseProcessor
    from difffuse_hf.detection.sources import is_dicom, opened, read_source
    from difffuse_hf.errors import InputError, one_sentence
    from difffuse_hf.preprocessing.assemble import assemble, decode_series
    from difffuse_hf.preprocessing.native import find_series

    try:
        with opened(place) as source:
            if not is_dicom(source):
                processor = DifFuseProcessor(("flair",), image_size=(16, 16), slice_margin=0)
                case, _ = read_source(source, processor, register=False, brain_extraction=False)
                processor.preprocess_volume(case.volumes, case.affine)
                return "read"
            outcome = "decided"
            for series, excluded, _ in find_series(Path(source)):  # pyright: ignore[reportArgumentType]
                if series.has_geometry and len(series.slices) > 1:
                    decoded = decode_series(series)
                    if excluded is None:
                        assemble(series, decoded)
                        outcome = "read"
            return outcome
    except (InputError, OSError) as error:
        sentence = one_sentence(error)
        if "\n" in sentence or len(sentence) > 2000:
            raise AssertionError(f"no sentence: {sentence[:300]}") from error
        return "sentence"


def try_one(seed: int, number: int, top: Path) -> tuple[str, str]:
    """The outcome of an input, and what there is to say of it; ("crash", the error) if it is none of the three."""
    here = top / "a" / "b" / "c"
    shutil.rmtree(top, ignore_errors=True)
    (here / "case").mkdir(parents=True)
    (top / "tmp").mkdir()
    tempfile.tempdir = str(top / "tmp")
    place = write_input(seed, number, here / "case")
    before = listing(top)
    try:
        outcome, said = outcome_of(place), ""
    except Exception as error:
        import traceback

        last = traceback.extract_tb(error.__traceback__)[-1]
        ours = [one for one in traceback.extract_tb(error.__traceback__) if "difffuse_hf" in one.filename]
        at = ours[-1] if ours else last
        outcome, said = "crash", f"{type(error).__name__}: {str(error)[:200]} at {Path(at.filename).name}:{at.lineno}"
    left = listing(top) - before | {str(one) for one in Path("/tmp").glob("evil*")}
    return ("outside", str(sorted(left)[:3])) if left else (outcome, said)


def listing(top: Path) -> set[str]:
    return {os.path.join(place, name) for place, folders, files in os.walk(top) for name in [*folders, *files]}


def serve(connection, seed: int, top: Path) -> None:
    warnings.simplefilter("ignore")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)  # warnings of the libraries
    import difffuse_hf.detection.sources
    import difffuse_hf.preprocessing.native  # noqa: F401

    connection.send("ready")
    while (number := connection.recv()) is not None:
        started = time.process_time()
        result = try_one(seed, number, top)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        connection.send((*result, time.process_time() - started, peak))


def hang_of(connection, pid: int) -> str | None:
    """Wait for the answer of a process, or for its end: None, or how it hangs."""
    watched = psutil.Process(pid)
    started = moved = time.monotonic()
    before = used = sum(watched.cpu_times()[:2])
    while not connection.poll(0.2):
        now, computed = time.monotonic(), sum(watched.cpu_times()[:2])
        if computed > used:
            used, moved = computed, now
        if used - before > MOST_SECONDS:
            return f"computed over {MOST_SECONDS} s"
        if now - moved > MOST_SECONDS:
            return f"waited over {MOST_SECONDS} s"
        if now - started > NAPPING_SECONDS:
            return f"no answer in {NAPPING_SECONDS} s"
    return None


def run(count: int, seed: int, start: int = 0) -> dict:
    """All inputs; counts of outcomes, the worst of time and memory, and every failure by its number."""
    context = multiprocessing.get_context("spawn")
    counts, failures, slowest, peak = collections.Counter(), [], 0.0, 0
    top = Path(tempfile.mkdtemp(prefix="hostile-"))
    process = connection = None
    for number in range(start, start + count):
        if process is None or connection is None:
            connection, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs, seed, top / "run"), daemon=True)
            process.start()
            theirs.close()
            connection.recv()  # when all is imported
        connection.send(number)
        hang = hang_of(connection, process.pid)  # pyright: ignore[reportArgumentType]
        try:
            outcome, said, seconds, memory = ("hang", hang, 0.0, 0) if hang else connection.recv()
        except (EOFError, ConnectionResetError):
            process.join()
            outcome, said, seconds, memory = "died", f"exit code {process.exitcode}", 0.0, 0
        if outcome in ("hang", "died"):
            process.kill()
            process.join()
            process = None
        counts[outcome] += 1
        slowest, peak = max(slowest, seconds), max(peak, memory)
        if outcome in ("crash", "died", "hang", "outside"):
            failures.append({"number": number, "outcome": outcome, "said": said})
            print(number, outcome, said, flush=True)
        if number % 500 == 499:
            print(f"{number + 1}: {dict(counts)}, slowest {slowest:.1f} s of CPU, peak {peak} MB", flush=True)
    if connection is not None:
        connection.close()
    shutil.rmtree(top, ignore_errors=True)
    return {"seed": seed, "start": start, "count": count, "outcomes": dict(counts), "failures": failures,
            "slowest_cpu_seconds": round(slowest, 2), "peak_mb": peak}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--start", type=int, default=0, help="number of the first input")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output_dir", type=Path)
    args = parser.parse_args()
    result = run(args.count, args.seed, args.start)
    text = json.dumps(result, indent=2)
    if args.output_dir:
        args.output_dir.mkdir(parents=True, exist_ok=True)
        (args.output_dir / "hostile.json").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
