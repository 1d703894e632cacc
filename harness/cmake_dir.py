"""`python -m harness.cmake_dir` prints the folder for CMAKE_PREFIX_PATH or -Dharness_DIR of a backend built elsewhere."""

from pathlib import Path

if __name__ == "__main__":
    print(Path(__file__).parent)
