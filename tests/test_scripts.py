"""How a script ends: nothing but one sentence when the input or the user stops it."""

import pytest

from difffuse_hf.errors import INTERRUPTED, InputError, run_script


def raising(error):
    def main():
        raise error

    return main


def test_an_interrupt_is_one_sentence_and_exit_code_130(capsys):
    with pytest.raises(SystemExit) as stop:
        run_script(raising(KeyboardInterrupt()))
    assert stop.value.code == 130
    assert capsys.readouterr().err.strip().endswith(INTERRUPTED)


@pytest.mark.parametrize("error", [InputError("scan.nii holds nothing."), FileNotFoundError("no scan.nii")])
def test_input_that_cannot_be_used_is_one_sentence_and_exit_code_1(error):
    with pytest.raises(SystemExit, match=str(error)):  # a string given to sys.exit is printed, with exit code 1
        run_script(raising(error))


def test_a_fault_of_the_program_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run_script(raising(ZeroDivisionError()))
