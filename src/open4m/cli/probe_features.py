"""``open4m probe-features``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from open4m.cli import device
from open4m.types import Open4MError

TRAIN, TEST, BATCH_SIZE = 10_000, 2_000, 32
"""As :class:`open4m.transfer.frozen.ProbeOptions` has them, which loads torch."""


def add_arguments(parser: ArgumentParser, command: str) -> None:
    parser.add_argument(
        "model",
        help="where the encoder comes from: a model of any kind, such as scenes; the run of a transfer; scratch:MODEL "
        "for new weights; vit:NAME for other Vision Transformers",
    )
    parser.add_argument("--data", type=Path, required=True, help="the folder of labelled images, with its splits")
    help_text = "the name of the data set, where its folder does not show it, or a .py file that defines LABELLED"
    parser.add_argument("--layout", default="", help=help_text)
    parser.add_argument("--label", default="", help="which of several labels of the data, such as count")
    parser.add_argument("--train", type=int, default=TRAIN, help=f"training images at most (default: {TRAIN})")
    parser.add_argument("--test", type=int, default=TEST, help=f"test images at most (default: {TEST})")
    parser.add_argument("--layers", default="last", help="last, all, or numbers such as 6,12 (default: last)")
    parser.add_argument(
        "--normalize",
        choices=("none", "standardize", "l2"),
        default="standardize",
        help="features as they are, each channel by the training images, or each vector to length 1",
    )
    parser.add_argument("--pooling", choices=("tokens", "registers", "class"), default="tokens")
    parser.add_argument("--image-size", type=int, help="of the squares, in pixels (default: that of pre-training)")
    parser.add_argument("--tokens", action="store_true", help="give a 4M the images as tokens, not as pixels")
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a JSON file to write, with intervals (default: none)")
    device.add_argument(parser)
    parser.set_defaults(run=run)


def run(options: Namespace) -> None:
    """Probe an encoder's features; print the table, and write the figures."""
    from open4m.datasets.labelled.base import PICTURE
    from open4m.model.config import TOKENS
    from open4m.transfer.backbone import BackboneConfig
    from open4m.transfer.frozen import Frozen, ProbeOptions, layers_of, open_data
    from open4m.transfer.origin import open_origin

    if options.out is not None and not options.out.parent.is_dir():
        raise Open4MError(f"{options.out}: its folder does not exist")
    training, test, split = open_data(options.data, options.layout, options.label)
    names = (f"{PICTURE}{TOKENS}" if options.tokens else PICTURE,)
    config = BackboneConfig(inputs=names, image_size=options.image_size, pooling=options.pooling)
    frozen = Frozen(open_origin(options.model, config), device.chosen(options))
    chosen = ProbeOptions(
        layers=layers_of(options.layers, frozen.backbone.depth),
        normalize=options.normalize,
        train=options.train,
        test=options.test,
        batch_size=options.batch_size,
        seed=options.seed,
    )
    found = frozen.probe(training, test, split, options.data, chosen)
    print(found.text())
    if options.out is not None:
        found.save(options.out)
        print(options.out)
