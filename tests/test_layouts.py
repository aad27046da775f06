"""The file names that people give to the modalities of a case, and what is said where some are missing."""

import json

import pytest

from difffuse_hf.errors import InputError
from difffuse_hf.io.layouts import case_name, find_case

MODALITIES = ("flair", "t1", "t1ce", "t2")
BIDS = [f"sub-01_{end}.nii.gz" for end in ("FLAIR", "T1w", "ce-gadolinium_T1w", "T2w")]


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def found(source, modalities=MODALITIES):
    case = find_case(source, modalities)
    return [file.name for file in case.files.values()], case.reference and case.reference.name, case.read_as


@pytest.mark.parametrize(
    ("names", "layout"),
    [
        ([f"A_{end}.nii.gz" for end in ("flair", "t1", "t1ce", "t2", "seg")], "BraTS 2018-2021"),
        ([f"A_{end}.nii" for end in ("FLAIR", "T1", "T1CE", "T2", "SEG")], "BraTS 2018-2021"),
        ([f"BraTS-GLI-0-{end}.nii.gz" for end in ("t2f", "t1n", "t1c", "t2w", "seg")], "BraTS 2023-2025"),
        ([*BIDS, "sub-01_dseg.nii.gz"], "BIDS"),
        (["FLAIR.nii.gz", "T1.nii.gz", "T1_Gd.nii.gz", "T2.nii.gz", "seg.nii.gz"], "plain names"),
        (["x_T2_FLAIR.mgz", "x T1w.nrrd", "x-T1-post.hdr", "x.t2w.nii", "x_dseg.nii"], "plain names"),
    ],
)
def test_a_case_under_the_names_that_people_have(names, layout, tmp_path):
    assert found(touch(tmp_path / "A", *names)) == (names[:4], names[4], layout)


def test_bids_is_read_from_the_subject_its_only_session_or_anat(tmp_path):
    touch(tmp_path / "sub-01" / "anat", *BIDS)
    touch(tmp_path / "sub-02" / "ses-1" / "anat", *BIDS)
    for source, name in {
        "sub-01": "sub-01",
        "sub-01/anat": "sub-01",
        "sub-02": "sub-02",
        "sub-02/ses-1": "sub-02_ses-1",
    }.items():
        assert found(tmp_path / source) == (BIDS, None, "BIDS") and case_name(tmp_path / source) == name
    touch(tmp_path / "sub-02" / "ses-2" / "anat", *BIDS)
    with pytest.raises(InputError, match="several sessions .ses-1, ses-2."):
        find_case(tmp_path / "sub-02", MODALITIES)
    with pytest.raises(InputError, match="only the folders sub-01, sub-02; give one of them"):
        find_case(tmp_path, MODALITIES)


def test_numbered_channels_need_a_word_on_which_is_which(tmp_path):
    names = [f"CASE_{number:04d}.nii.gz" for number in range(4)]
    touch(tmp_path / "CASE", *names)
    with pytest.raises(InputError, match="no dataset.json says .* --image flair=PATH"):
        find_case(tmp_path / "CASE", MODALITIES)
    channels = {"0": "T1", "1": "T1Gd", "2": "T2", "3": "FLAIR"}
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": channels}))
    assert found(tmp_path / "CASE")[0] == [names[3], names[0], names[1], names[2]]
    with pytest.raises(InputError, match="names no channel pet, only T1, T1Gd, T2, FLAIR"):
        find_case(tmp_path / "CASE", (*MODALITIES, "pet"))
    (tmp_path / "CASE" / names[2]).unlink()
    with pytest.raises(InputError, match="CASE lacks t2: there is no file ..._0002"):
        find_case(tmp_path / "CASE", MODALITIES)


def test_what_is_missing_is_named_as_the_others_are(tmp_path):
    touch(tmp_path / "P", "FLAIR.mgz", "T1.mgz", "T1_Gd.mgz")
    touch(tmp_path / "Q", "Q_flair.hdr", "Q_t1.hdr", "Q_t1ce.hdr")
    for name, file in (("P", "T2.mgz"), ("Q", "Q_t2.hdr")):
        with pytest.raises(InputError, match=f"{name} lacks t2: there is no file {file} "):
            find_case(tmp_path / name, MODALITIES)


def test_the_file_of_each_modality_may_be_named(tmp_path):
    touch(tmp_path, "P7_a.nii", "P7_b.mgz", "P7_c.nii")
    source = {"t1": tmp_path / "P7_b.mgz", "flair": tmp_path / "P7_a.nii", "seg": tmp_path / "P7_c.nii"}
    assert found(source, ("flair", "t1")) == (["P7_a.nii", "P7_b.mgz"], "P7_c.nii", "files named one by one")
    assert case_name(source) == "P7" and case_name({"t1": tmp_path / "x.nii"}) == "x"
    assert case_name({"t1": "/data/P8/t1.nii", "flair": "/data/P8/flair.nii"}) == "P8"
    for wrong, sentence in (({"t1": "a"}, "lacks flair"), ({**source, "pd": "a"}, "names pd, but the model takes")):
        with pytest.raises(InputError, match=sentence):
            find_case(wrong, ("flair", "t1"))
    with pytest.raises(InputError, match="gone.nii does not exist"):
        find_case({**source, "t1": tmp_path / "gone.nii"}, ("flair", "t1"))


def test_a_missing_modality_is_named_in_the_words_of_the_folder_with_what_is_there(tmp_path):
    touch(tmp_path / "B", *(f"B-{end}.nii.gz" for end in ("t2f", "t1n", "t1c")))
    with pytest.raises(InputError) as refusal:
        find_case(tmp_path / "B", MODALITIES)
    assert str(refusal.value) == (
        f"{tmp_path / 'B'} lacks t2: there is no file B-t2w.nii.gz (the model takes flair, t1, t1ce, t2; it holds "
        "B-t1c.nii.gz, B-t1n.nii.gz, B-t2f.nii.gz); name the file by --image t2=PATH if it has another name."
    )


@pytest.mark.parametrize("second", ["A_t2.nii", "Other_t2.nii.gz", "A_T2.mgz"])
def test_two_candidates_for_a_modality_are_refused(second, tmp_path):
    touch(tmp_path / "A", *(f"A_{end}.nii.gz" for end in MODALITIES), second)
    with pytest.raises(InputError, match="more than one t2 file: .*--image t2=PATH"):
        find_case(tmp_path / "A", MODALITIES)


def test_a_modality_that_has_no_other_names_is_found_by_its_own(tmp_path):
    assert found(touch(tmp_path / "A", "A_adc.nii.gz"), ("adc",)) == (["A_adc.nii.gz"], None, "BraTS 2018-2021")


OPTIONAL = ("t1", "t1ce", "t2")


@pytest.mark.parametrize(
    ("names", "modalities", "layout"),
    [
        (["A_flair.nii.gz", "A_seg.nii.gz"], ["flair"], "BraTS 2018-2021"),
        (["B-t2f.nii.gz", "B-t1c.nii.gz"], ["flair", "t1ce"], "BraTS 2023-2025"),
        (["sub-01_FLAIR.nii.gz", "sub-01_T1w.nii.gz"], ["flair", "t1"], "BIDS"),
        (["FLAIR.nii.gz", "T2.nii.gz"], ["flair", "t2"], "plain names"),
        (["x_flair.nii.gz", "x_t1_gd.nii.gz"], ["flair", "t1ce"], "plain names"),  # which finds more of them
    ],
)
def test_of_a_model_that_does_without_them_modalities_may_be_missing(names, modalities, layout, tmp_path):
    case = find_case(touch(tmp_path / "A", *names), MODALITIES, OPTIONAL)
    assert (list(case.files), case.read_as) == (modalities, layout)


def test_one_file_is_enough_for_a_model_that_does_without_the_others(tmp_path):
    touch(tmp_path, "head.nii.gz", "A_t1.nii.gz", "A_t2_flair.nii.gz")
    for name in ("head.nii.gz", "A_t2_flair.nii.gz"):
        assert find_case(tmp_path / name, MODALITIES, OPTIONAL).files == {"flair": tmp_path / name}
    with pytest.raises(InputError, match="A_t1.nii.gz is t1 but the model takes flair, and if there are t1, t1ce, t2"):
        find_case(tmp_path / "A_t1.nii.gz", MODALITIES, OPTIONAL)
    assert list(find_case({"flair": tmp_path / "head.nii.gz"}, MODALITIES, OPTIONAL).files) == ["flair"]
    with pytest.raises(InputError, match="lacks flair"):
        find_case({"t1": tmp_path / "A_t1.nii.gz"}, MODALITIES, OPTIONAL)
    with pytest.raises(InputError, match="lacks flair"):
        find_case(touch(tmp_path / "B", "B_t1.nii.gz"), MODALITIES, OPTIONAL)
