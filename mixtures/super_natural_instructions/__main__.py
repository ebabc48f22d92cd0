"""Writes task files as TFRecord shards, which many hosts read faster than a thousand small files.

    python -m mixtures.super_natural_instructions --data_dir=gs://my-bucket/data \\
        --manual_dir=/path/to/natural-instructions

Then give the directory as DATA_DIR. Takes the flags of `tfds build`: --data_dir is where the shards
go, --manual_dir where the task files are, --overwrite replaces what is there; --helpfull lists all.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from t5x_ext.terminal import Parser, command


@command
def main(argv: Sequence[str] | None = None) -> None:
    """`tfds build` for this builder alone.

    The `tfds` command also loads its other subcommands, and these need Apache Beam, which this
    project does without.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    if {"-h", "--help"} & set(arguments):
        usage = "python -m mixtures.super_natural_instructions [flags of `tfds build`]"
        Parser("mixtures.super_natural_instructions", __doc__, usage=usage).print_help()
        return
    from absl import app
    from tensorflow_datasets.scripts.cli import build, cli_utils  # TensorFlow: ten seconds

    def write(args: build.Args) -> None:
        args.positional_datasets.append(str(Path(__file__).parent))
        args.execute()

    parse = cli_utils.make_flags_parser(build.Args, __doc__)
    app.run(write, argv=[sys.argv[0], *arguments], flags_parser=parse)


if __name__ == "__main__":
    sys.exit(main())
