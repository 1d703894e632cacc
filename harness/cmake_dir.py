"""`python -m harness.cmake_dir` prints what a backend built elsewhere needs as -Dharness_DIR."""

from pathlib import Path

if __name__ == "__main__":
    print(Path(__file__).parent)
