"""Facts about runs of many command lines: order, what is done again, several at a time, interrupts; and the table."""

import importlib
import importlib.util
import json
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from difffuse_hf.cli.runner import Step, fingerprints, needs, run_steps
from difffuse_hf.errors import InputError

ROOT = Path(__file__).parents[1]
PROGRAMS = {"python": [sys.executable]}


def step(name, code, *words, to):
    return Step(name, ("python", "-c", code, *map(str, words)), str(to))


def logged(root, name, *reads, fails_without=None):
    """A step that writes its name to a log, and its output; it fails while a file is missing."""
    code = f"import sys, pathlib; open({str(root / 'log')!r}, 'a').write({name + ' '!r})"
    if fails_without:
        code += f"; pathlib.Path({str(fails_without)!r}).exists() or sys.exit(3)"
    return step(name, code + "; pathlib.Path(sys.argv[1]).write_text('')", root / name, *reads, to=root / name)


def log(root):
    return (root / "log").read_text().split()


def wait_for(path):
    while not path.exists():
        time.sleep(0.01)


def table():
    specification = importlib.util.spec_from_file_location("runs", ROOT / "examples" / "runs.py")
    module = importlib.util.module_from_spec(specification)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "examples")  # as for a script that lies there
        specification.loader.exec_module(module)
    return module


def test_a_step_needs_the_earlier_ones_whose_output_it_names():
    steps = [
        Step("data", ("a", "out/data"), "out/data"),
        Step("other data", ("a", "out/data of 8"), "out/data of 8"),
        Step("network", ("b", "--data", "out/data/train", "out/network"), "out/network"),
        Step("more data", ("c", "out/data"), "out/data"),
    ]
    expected = {"data": [], "other data": [], "network": ["data"], "more data": ["data"]}
    assert needs(steps) == expected
    with pytest.raises(ValueError, match="two steps called data"):
        needs([steps[0], steps[0]])


def test_what_is_finished_is_not_run_again_and_what_failed_is(tmp_path):
    switch = tmp_path / "switch"
    steps = [
        logged(tmp_path, "first"),
        logged(tmp_path, "second", tmp_path / "first", fails_without=switch),
        logged(tmp_path, "third", tmp_path / "second"),
    ]
    records = tmp_path / "records" / "steps.json"
    with pytest.raises(InputError, match="The step second failed with exit code 3; correct it and repeat"):
        run_steps(steps, records, PROGRAMS)
    assert log(tmp_path) == ["first", "second"] and set(json.loads(records.read_text())) == {"first"}
    switch.touch()
    run_steps(steps, records, PROGRAMS)
    run_steps(steps, records, PROGRAMS)
    assert log(tmp_path) == ["first", "second", "second", "third"]


def test_a_changed_command_line_runs_again_with_all_that_needs_it(tmp_path):
    steps = [logged(tmp_path, "first"), logged(tmp_path, "alone"), logged(tmp_path, "last", tmp_path / "first")]
    run_steps(steps, tmp_path / "steps.json", PROGRAMS)
    changed = [logged(tmp_path, "first", "--seed"), *steps[1:]]
    assert fingerprints(changed)["last"] != fingerprints(steps)["last"]
    run_steps(changed, tmp_path / "steps.json", PROGRAMS)
    assert log(tmp_path) == ["first", "alone", "last", "first", "last"]


def test_two_jobs_run_side_by_side_what_does_not_wait_for_each_other(tmp_path):
    meet = """
        import pathlib, sys, time
        mine, other = map(pathlib.Path, sys.argv[1:3])
        mine.touch()
        while not other.exists(): time.sleep(0.01)
    """  # each ends only while the other runs as well
    here, there = tmp_path / "here", tmp_path / "there"
    steps = [
        step("one", textwrap.dedent(meet), here, f"{there}", to=tmp_path / "one"),
        step("other", textwrap.dedent(meet), there, f"{here}", to=tmp_path / "other"),
        logged(tmp_path, "after", tmp_path / "one", tmp_path / "other"),
    ]
    run_steps(steps, tmp_path / "steps.json", PROGRAMS, jobs=2)
    assert log(tmp_path) == ["after"]


def test_no_step_outlives_a_runner_that_fails(tmp_path):
    patient = """
        import pathlib, signal, sys
        def stop(*_):
            pathlib.Path(sys.argv[1], "stopped").touch()
            sys.exit(1)
        signal.signal(signal.SIGINT, stop)
        pathlib.Path(sys.argv[1], "ready").touch()
        signal.pause()
    """
    after = "import pathlib, sys, time\nwhile not pathlib.Path(sys.argv[1], 'ready').exists(): time.sleep(0.01)"
    steps = [
        step("patient", textwrap.dedent(patient), tmp_path, to="nothing"),
        step("short", after, tmp_path, to="short"),
        Step("missing", ("no such program", "short"), "missing"),
    ]
    with pytest.raises(FileNotFoundError, match="no such program"):
        run_steps(steps, tmp_path / "steps.json", PROGRAMS, jobs=2)
    assert (tmp_path / "stopped").exists()


def test_a_step_runs_where_and_with_what_it_is_told(tmp_path):
    code = "import os, pathlib; pathlib.Path('seen').write_text(os.environ['COLOUR'])"
    run_steps([step("a", code, to="a")], tmp_path / "s.json", PROGRAMS, folder=tmp_path, environment={"COLOUR": "red"})
    assert (tmp_path / "seen").read_text() == "red"


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_reaches_the_steps_and_the_next_call_goes_on(tmp_path, kind):
    patient = """
        import pathlib, signal, sys
        root = pathlib.Path(sys.argv[1])
        def stop(*_):
            (root / "interrupted").touch()
            sys.exit(0)  # in peace, but not finished
        signal.signal(signal.SIGINT, stop)
        (root / "started").touch()
        if not (root / "interrupted").exists():
            signal.pause()
    """
    steps = [
        logged(tmp_path, "first"),
        step("patient", textwrap.dedent(patient), tmp_path, tmp_path / "first", to="x"),
    ]
    script = f"""
        import sys
        from pathlib import Path
        from difffuse_hf.cli.runner import Step, run_steps
        from difffuse_hf.errors import run_script
        steps = {[(one.name, one.command, one.output) for one in steps]!r}
        records = Path({str(tmp_path / "steps.json")!r})
        run_script(lambda: run_steps([Step(*one) for one in steps], records, {PROGRAMS!r}))
    """
    runner = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stderr=subprocess.PIPE, text=True)
    wait_for(tmp_path / "started")
    runner.send_signal(kind)
    _, errors = runner.communicate()
    assert runner.returncode == 130 and "Interrupted" in errors and (tmp_path / "interrupted").exists()
    assert set(json.loads((tmp_path / "steps.json").read_text())) == {"first"}
    run_steps(steps, tmp_path / "steps.json", PROGRAMS)
    assert log(tmp_path) == ["first"]
    assert set(json.loads((tmp_path / "steps.json").read_text())) == {"first", "patient"}


@pytest.mark.parametrize(
    ("run", "size", "count"),
    [("classification", "smoke", 84), ("classification", "night", 282), ("classification", "full", 354),
     ("layers", "smoke", 12), ("layers", "full", 30), ("subtle", "smoke", 28), ("subtle", "evening", 74),
     ("anomaly", "smoke", 21), ("anomaly", "evening", 47), ("anomaly", "ranking", 47), ("anomaly", "full", 47),
     ("demo_model", "full", 19), ("flair_model", "smoke", 20), ("flair_model", "evening", 20),
     ("stroke", "smoke", 12), ("stroke", "evening", 28), ("brain_model", "smoke", 21), ("brain_model", "evening", 21),
     ("brain_model", "full", 21), ("kinds", "smoke", 12), ("kinds", "evening", 12), ("kinds", "full", 12)],
)  # fmt: skip
def test_every_run_of_the_table_is_whole(run, size, count):
    steps = table().RUNS[run](size, "/out", "/anatomies", None)
    graph = needs(steps)
    assert len(steps) == count
    made = {one.output for one in steps}
    for one in steps:
        script = next((word for word in one.command if word.endswith(".py")), None)
        assert script is None or (ROOT / script).exists()
        assert one.output in one.command or f"{one.output}/" in one.command  # so that it can be waited for
        for word in one.command:  # nothing is read that no step writes, or a later one
            if word.startswith("/out/"):
                assert any(word == path or word.startswith(f"{path}/") for path in made)
    written: set[str] = set()
    for one in steps:
        written.add(one.name)
        assert written.issuperset(graph[one.name])


def test_the_networks_of_chapter_six_wait_for_their_data_alone_and_the_table_for_all():
    graph = needs(table().RUNS["anomaly"]("evening", "/out", "/anatomies", "/cases"))
    assert graph["1/healthy"] == ["1/data"] and graph["cases"] == []
    networks = ("classifier", "autoencoder", "healthy", "simplex", "conditional", "noisy_classifier", "denoising_ae",
                "itermask")  # fmt: skip
    assert set(graph["2/methods"]) == {"2/data", "2/fanogan", *(f"2/{name}" for name in networks)}
    assert {"0/methods", "1/methods", "2/twins", "wmh_twins", "cases"} <= set(graph["tables"])
    assert "1/methods_by_labels" in graph["tables_by_labels"] and "1/methods" not in graph["tables_by_labels"]
    assert {"tables", "tables_by_labels", "2/fanogan", "0/healthy"} <= set(graph["choosing"])
    assert set(graph["2/twins"]) == {"glioma", "2/data"}


def test_the_rivals_networks_are_trained_with_the_recipe_of_the_u_nets():
    for size, equal in (("evening", True), ("full", False)):
        commands = {one.name: " ".join(one.command) for one in table().RUNS["anomaly"](size, "/out", "/maps", None)}
        recipe = importlib.import_module("run_tables.anomaly").ANOMALY["evening"].recipe
        for name in ("healthy", "simplex", "conditional", "noisy_classifier", "denoising_ae", "itermask"):
            assert (recipe in commands[f"0/{name}"]) == equal  # else each has its paper's


@pytest.mark.parametrize("size", ["evening", "ranking", "full"])
def test_the_trainings_of_chapter_six_know_all_their_flags(size):
    steps = [one for one in table().RUNS["anomaly"](size, "/out", "/maps", None) if one.name.startswith("0/")]
    networks = [one.command for one in steps if one.command[1].startswith("examples/train_")]
    assert len(networks) == 9
    for _, script, *flags in networks:
        specification = importlib.util.spec_from_file_location(Path(script).stem, ROOT / script)
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
        parsed = []

        def stop(*given, parse=module.parse_arguments, parsed=parsed):
            parsed.append(parse(*given))
            raise KeyboardInterrupt

        module.parse_arguments = stop
        with pytest.raises(KeyboardInterrupt):
            module.main(flags)
        assert (parsed[0].patience > 0) == (size == "ranking") and parsed[0].validation_steps < parsed[0].max_steps


def test_a_dry_run_prints_command_lines_and_an_unknown_size_what_there_is(tmp_path, capsys):
    main = table().main
    main(["anomaly", "smoke", str(tmp_path / "out"), "maps", "--dry-run", "--launch", "accelerate launch"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 21 and not (tmp_path / "out").exists()
    assert lines[0].startswith("python datasets_scripts/make_phantom.py")
    assert sum(line.startswith("accelerate launch examples/train_") for line in lines) == 9
    with pytest.raises(InputError, match="`SIZE` must be one of smoke, evening, ranking, full, got 'night'"):
        main(["anomaly", "night", str(tmp_path / "out"), "maps"])
    with pytest.raises(InputError, match="There is no folder maps-of-nobody"):
        main(["anomaly", "smoke", str(tmp_path / "out"), "maps-of-nobody"])
