"""Fuzzes one reader in one process, guided by the coverage of its Python code; run by fuzz.py.

`worker.py READER FOLDER [libFuzzer's options]`; FOLDER has corpus/ and gets artifacts/. The first byte of an
input says how the rest is wrapped (mutations.py), the second which mapping is taken. With a file among the
options, that one is read again.
"""

from __future__ import annotations

import random
import resource
import sys
import tempfile
from pathlib import Path

import atheris

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

with atheris.instrument_imports(include=["harness.formats"]):
    from harness import formats

    for each in formats.names():
        formats.named(each)

from holds import check, check_recognition, quicken  # noqa: E402
from mutations import mutated, wrapped  # noqa: E402
from targets import TARGETS  # noqa: E402

# Of a file of up to 64 KiB, or one with a line of ten megabytes, a reader needs far less.
MOST_BYTES = 2 << 30
HANGS_AFTER_SECONDS = 10


def main() -> None:
    name, folder, *options = sys.argv[1:]
    corpus, artifacts = Path(folder) / "corpus", Path(folder) / "artifacts"
    artifacts.mkdir(exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=folder))

    def one(data: bytes) -> None:
        how, mapping, rest = data[:1] or b"\0", data[1:2] or b"\0", data[2:]
        check_recognition(rest)
        check(name, wrapped(rest, how[0]), work, mapping[0])

    def change(data: bytes, most_bytes: int, seed: int) -> bytes:
        random_ = random.Random(seed)
        if random_.random() < 0.5:
            return atheris.Mutate(data, most_bytes)
        head = bytes(random_.randrange(256) for _ in range(2)) if random_.random() < 0.3 else data[:2]
        return (head + mutated(data[2:], random_, TARGETS[name].tokens))[:most_bytes]

    quicken()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    arguments = [
        sys.argv[0],
        f"-artifact_prefix={artifacts}/",
        f"-timeout={HANGS_AFTER_SECONDS}",
        f"-rss_limit_mb={MOST_BYTES >> 20}",
        f"-malloc_limit_mb={MOST_BYTES >> 20}",
        "-max_len=65536",
        "-len_control=0",
        "-print_final_stats=1",
        *options,
        # A file among the options is to be shown again, and nothing else.
        *([] if any(not option.startswith("-") for option in options) else [str(corpus)]),
    ]
    atheris.Setup(arguments, one, custom_mutator=change)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
