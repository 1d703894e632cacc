"""What mkdocs does beside rendering docs/: the pages must read well on GitHub and be whole on the site.

- A link that leaves docs/ leads to a copy in the site, below repository/: of a README a page, of any other
  file the file. So the site needs no address of the repository, and no network.
- Three comments, which GitHub hides, are replaced on the site: `include: FILE#HEADING` by that section, or by
  all of the file, `generate: NAME` by what harness.reference_pages makes of the code, `site: TEXT` by TEXT.
- A bar in a code span in a table is escaped for GitHub; Python-Markdown wants it bare.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pymdownx.slugs import slugify

from harness import reference_pages

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"

# Where the site has what lies outside of docs/.
COPIES = "repository"

_MARK = re.compile(r"<!-- (include|generate|site):\s(.*?)\s-->", re.S)
_FENCE = re.compile(r"^(```|~~~).*?^\1[ \t]*$", re.M | re.S)
# Code spans are matched so that what looks like a link in them is passed over.
_LINK = re.compile(r"`[^`\n]+`|(?<=\]\()<?(?P<path>[^)>\s#:]+)(?P<anchor>#[^)>\s]*)?>?(?=\))")
_ROW = re.compile(r"^\|.*\|$", re.M)
_CODE = re.compile(r"`[^`\n]+`")
_LANGUAGES = {".hpp": "cpp", ".json": "json"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages link to and docs/ does not hold, links of added pages included."""
    pending = [DOCS / file.src_uri for file in files.documentation_pages()]
    seen = set(pending)
    for page in pending:
        for target in _targets(page):
            if target not in seen:
                seen.add(target)
                files.append(File.generated(config, _uri(target), abs_src_path=str(target)))
                if target.suffix == ".md":
                    pending.append(target)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to where the site has their targets, and put in what stands elsewhere."""
    origin = _origin(page.file.src_uri)
    text = _relinked(markdown, origin, page.file.src_uri)
    return _MARK.sub(lambda mark: _put_in(mark[1], mark[2].strip(), origin, page.file.src_uri), text)


def _with_bare_bars(text: str) -> str:
    return _ROW.sub(lambda row: _CODE.sub(lambda code: code[0].replace("\\|", "|"), row[0]), text)


def _targets(page: Path) -> Iterator[Path]:
    """Yield the files outside of docs/ that a page links to; PluginError where there is none."""
    for text in _outside_fences(page.read_text(encoding="utf-8")):
        for link in _LINK.finditer(text):
            if link["path"]:
                target = _target(page, link["path"])
                if not target.is_relative_to(DOCS):
                    yield target


def _target(origin: Path, path: str) -> Path:
    target = Path(os.path.normpath(origin.parent / path))
    if not target.is_file():
        raise PluginError(f"{origin.relative_to(ROOT)}: links to {path}, and there is no such file")
    return target


def _uri(path: Path) -> str:
    """Return where the site has a file of the repository."""
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    return f"{COPIES}/{path.relative_to(ROOT).as_posix()}"


def _origin(uri: str) -> Path:
    """Return which file of the repository a page of the site is."""
    return ROOT / uri.removeprefix(f"{COPIES}/") if uri.startswith(f"{COPIES}/") else DOCS / uri


def _relinked(text: str, origin: Path, uri: str) -> str:
    """Return the text of a file with its links and bars as the page at `uri` needs them."""

    def moved(link: re.Match[str]) -> str:
        if not link["path"]:
            return link[0]
        target = _uri(_target(origin, link["path"]))
        return os.path.relpath(target, os.path.dirname(uri) or ".") + (link["anchor"] or "")

    done, at = [], 0
    for fence in _FENCE.finditer(text):
        done += [_with_bare_bars(_LINK.sub(moved, text[at : fence.start()])), fence[0]]
        at = fence.end()
    return "".join([*done, _with_bare_bars(_LINK.sub(moved, text[at:]))])


def _outside_fences(text: str) -> list[str]:
    return [part for part in _FENCE.sub("\0", text).split("\0") if part]


def _put_in(kind: str, what: str, origin: Path, uri: str) -> str:
    if kind == "site":
        return what
    if kind == "generate":
        made: str = getattr(reference_pages, what)()
        return made
    path, _, heading = what.partition("#")
    source = _target(origin, path)
    text = source.read_text(encoding="utf-8")
    if source.suffix != ".md":
        return f"```{_LANGUAGES[source.suffix]}\n{text}```"
    return _relinked(_section(text, heading, source), source, uri)


def _section(text: str, anchor: str, source: Path) -> str:
    """Return what stands below a heading, up to the next of its rank, without it."""
    slug = slugify(case="lower")
    for heading in re.finditer(r"^(#+) (.*)$", text, re.M):
        if slug(heading[2].replace("`", ""), "-") == anchor:
            rank = len(heading[1])
            following = re.compile(rf"^#{{1,{rank}}} ", re.M).search(text, heading.end())
            return text[heading.end() : following.start() if following else None].strip()
    raise PluginError(f"{source.relative_to(ROOT)}: has no section #{anchor}")
