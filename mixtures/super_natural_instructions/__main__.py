"""`tfds build` for this builder alone: `python -m mixtures.super_natural_instructions`.

Takes the flags of `tfds build`. The `tfds` command itself also loads its other subcommands, and
these need Apache Beam, which this project does without.
"""

from __future__ import annotations

from pathlib import Path

from absl import app
from tensorflow_datasets.scripts.cli import build, cli_utils


def main(args: build.Args) -> None:
    """Builds both tracks, or the one that --config names."""
    args.positional_datasets.append(str(Path(__file__).parent))
    args.execute()


if __name__ == "__main__":
    app.run(main, flags_parser=cli_utils.make_flags_parser(build.Args, __doc__))
