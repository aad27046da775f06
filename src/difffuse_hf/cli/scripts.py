"""How the scripts of `datasets_scripts/` call `difffuse prepare`: the same options, spelled as scripts spell them."""

from .main import main

_SEVERAL = ("--modalities", "--columns", "--values")  # followed by several values in the scripts


def prepare_script(layout: str, arguments: list[str]) -> int:
    """`difffuse prepare LAYOUT` with the scripts' spelling of its options; returns the exit code.

    `--image_size 96` is a square, `--modalities flair t1` names several at once, and underscores are hyphens.
    """
    return main(["prepare", layout, *_as_command(arguments)])


def _as_command(arguments: list[str]) -> list[str]:
    command, option, taken = [], "", 0
    for argument in arguments:
        if argument.startswith("--"):
            name, equals, value = argument.partition("=")
            option, taken = name.replace("_", "-"), 0
            command += [option, value] if equals else [option]
            continue
        if option in _SEVERAL and taken:
            command.append(option)
        command.append(argument)
        taken += 1
    if "--image-size" in command:  # one number is both sides
        side = command.index("--image-size") + 1
        following = command[side + 1 : side + 2]
        if not (following and following[0].isdigit()):
            command.insert(side, command[side])
    return command
