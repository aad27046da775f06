"""A run as the command lines that it consists of."""

from difffuse_hf.cli.runner import Step


class Steps(list[Step]):
    """Steps in the order in which they are read; `launch` stands for python, or what `--launch` says."""

    def add(self, name: str, program: str, *words, to: str) -> str:
        """One more command line, given as words and as lists of words; its output `to` is given back."""
        flat = [str(one) for word in words for one in (word if isinstance(word, (list, tuple)) else [word])]
        self.append(Step(name, (program, *flat), to))
        return to
