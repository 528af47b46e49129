"""Links between the Markdown files of the project lead somewhere."""

import pathlib
import re
import urllib.parse

import pytest

ROOT = pathlib.Path(__file__).parents[2]
DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "experiments").glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
_CODE = re.compile(r"^ *```.*?^ *```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)


def anchors(document):
    """The anchors of a document's headings, as on GitHub and on the site."""
    text = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.M | re.S)
    slugs = []
    for heading in _HEADING.findall(text):
        heading = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        count = sum(s == slug or s.startswith(f"{slug}-") for s in slugs)
        slugs.append(f"{slug}-{count}" if slug in slugs else slug)
    return slugs


@pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)
def test_links(document):
    text = _CODE.sub("", document.read_text())
    for link in _LINK.findall(text):
        address = urllib.parse.urlsplit(link)
        if address.scheme in ("http", "https", "mailto"):
            continue
        target = document
        if address.path:
            target = document.parent / urllib.parse.unquote(address.path)
        assert target.exists(), f"{link}: there is no such file"
        # The documentation is a separate site.
        if (ROOT / "docs") in document.parents:
            assert (ROOT / "docs") in target.resolve().parents, link
        if address.fragment:
            assert address.fragment in anchors(target), f"{link}: no such title"
