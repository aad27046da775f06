"""The page on the forms of input says what happens."""

from pathlib import Path

import pytest

pytest.importorskip("SimpleITK", reason="needs the extra `preprocess`")

from input_forms import CONDITIONS, FORMS, applies, conditions, outcome  # noqa: E402

PAGE = Path(__file__).resolve().parents[1] / "docs" / "input-forms.md"
QUICK = (CONDITIONS[0], CONDITIONS[1], CONDITIONS[-1])  # without registration and brain extraction


@pytest.fixture(scope="module")
def heads():
    return conditions(step=6)


def on_the_page(form):
    rows = (line.strip("| ").split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines() if "| " in line)
    return dict(zip(CONDITIONS, next(cells[1:] for cells in rows if cells[0] == form.name)))


def test_every_form_is_on_the_page():
    for form in FORMS:
        assert [cell.split(" ")[0] in ("read", "refused") for cell in on_the_page(form).values()] == [
            applies(form, condition) for condition in CONDITIONS
        ]


@pytest.mark.parametrize(
    "form", [form for form in FORMS if not form.name.startswith("CT: ")], ids=lambda form: form.name
)
def test_a_form_is_read_or_refused_as_the_page_says(form, heads, tmp_path):
    for condition in QUICK:
        if applies(form, condition):
            kind, said = outcome(form, condition, heads[condition], tmp_path / condition.replace(" ", "-"))
            assert kind == on_the_page(form)[condition].split(" ")[0], said
