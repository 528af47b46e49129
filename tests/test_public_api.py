"""The public names and their signatures, and that they change on purpose."""

import difflib

from tests.support import public_api


def test_public_api():
    pinned = public_api.PINNED.read_text().splitlines()
    found = public_api.describe().splitlines()
    changes = difflib.unified_diff(pinned, found, "pinned", "found", "", "", 0)
    difference = "\n".join(changes)
    assert not difference, (
        "The public API is not the one in tests/public_api.txt. If that is "
        "meant, run `make api`, commit the file, and tell users in "
        f"CHANGELOG.md.\n{difference}"
    )
