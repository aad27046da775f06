"""Train ACAT, or one of its competitors, on saliency maps made by compute_saliency.py (thesis Algorithm 1, last line).

accelerate launch examples/train_acat.py --dataset data/ist3 --saliency data/ist3_saliency \
    --classifier out/classifier --output_dir out/acat
accelerate launch examples/train_acat.py --method smic ... | salclassnet | hsm | spatt | seatt | baseline

Every method starts from the same trained classifier and trains for the thesis's 100 epochs; Adam 1e-4 with a cosine
is our choice, the thesis does not say. `baseline` gives the classifier itself as many. `--from_scratch` keeps the
architecture of that classifier alone (Table 5.6). `--options` are those of the method's configuration: the ablations
of Sec. 5.6.7, each on top of the one before, are `'{"fusion": false}'`, with it `"attention_stages": [1, 3]`, and
`[1]`; then `'{"attention": "dropout", "dropout": 0.2}'` and 0.6 (Sec. 5.6.9), `'{"slice_attention": false}'`,
`'{"residual": false}'`, the slice attention of the author's code `'{"num_slices": 11}'`, and maps of another
`--saliency` folder.
"""

from dataclasses import dataclass

import torch

from difffuse_hf import (
    ACATClassifier,
    HSMClassifier,
    SalClassNetClassifier,
    SeAttClassifier,
    SMICClassifier,
    SpAttClassifier,
    load_classifier,
)
from difffuse_hf.errors import InputError, run_script
from difffuse_hf.training.arguments import json_options, option, parse_arguments
from difffuse_hf.training.classifiers import RECIPE, ClassifierArguments, fit_classifier, load_splits, steps

METHODS = {
    "acat": ACATClassifier,
    "smic": SMICClassifier,
    "salclassnet": SalClassNetClassifier,
    "hsm": HSMClassifier,
    "spatt": SpAttClassifier,
    "seatt": SeAttClassifier,
}
BASELINE = "baseline"
ACAT_RECIPE = RECIPE | {"epochs": 100, "learning_rate": 1e-4}  # Sec. 5.6.2, the rate is our choice


@dataclass(kw_only=True)
class Arguments(ClassifierArguments):
    classifier: str = option("", "Folder or Hub name of the trained base classifier.")
    saliency: str | None = option(None, "Folder of saliency maps of this data set; not needed by hsm, spatt, seatt.")
    method: str = option("acat", "What is trained.", choices=[*METHODS, BASELINE])
    from_scratch: bool = option(False, "Take the architecture of the classifier and not its weights.")
    options: str = option("{}", "Of the method's configuration, as JSON.")


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(Arguments, {"thesis": ACAT_RECIPE}, argv)
    torch.manual_seed(args.seed)
    if not args.classifier:
        raise InputError("--classifier is missing: the folder of a classifier trained by train_classifier.py.")
    options = json_options("--options", args.options)
    baseline = load_classifier(args.classifier)
    if args.method == BASELINE:
        model = type(baseline)(baseline.config) if args.from_scratch else baseline
    else:
        model = METHODS[args.method].from_baseline(baseline, args.from_scratch, **options)
    needs_saliency = getattr(model, "needs_saliency", False)
    if needs_saliency and args.saliency is None:
        raise InputError(f"--method {args.method} needs --saliency, a folder made by compute_saliency.py.")
    train, validation = load_splits(args, args.saliency if needs_saliency else None)
    args.max_steps = steps(args, len(train), args.epochs)
    fit_classifier(model, train, validation, args)


if __name__ == "__main__":
    run_script(main)
