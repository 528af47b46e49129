"""Checks what `make dist` has built. Needs the repository, and only it."""

import ast
import email
import pathlib
import re
import subprocess
import tarfile
import zipfile

ROOT = pathlib.Path(__file__).parents[2]
# As in pyproject.toml. These are about the repository, not about the project.
NOT_IN_SDIST = (".ci/", ".pre-commit-config.yaml")
_RELATIVE_LINK = re.compile(r"\]\((?!https?://|#)[^)\s]+\)")


def committed():
    """The files of the repository."""
    return set(
        subprocess.run(
            ["git", "ls-files"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
    )


def the_only(pattern):
    """The only file in dist/ with such a name."""
    (path,) = (ROOT / "dist").glob(pattern)
    return path


def library_version():
    """`keras_skd.__version__`, without importing Keras."""
    tree = ast.parse((ROOT / "keras_skd" / "__init__.py").read_text())
    (version,) = (
        node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "__version__"
    )
    return version


def check_same(what, found, expected):
    """Both sets have the same files."""
    missing, more = sorted(expected - found), sorted(found - expected)
    if missing or more:
        raise SystemExit(f"{what}: lacks {missing}, has in addition {more}")
    print(f"{what}: {len(found)} files, as expected")


def check_wheel():
    """The wheel has the library and its metadata, and nothing else."""
    with zipfile.ZipFile(the_only("*.whl")) as wheel:
        files = {name for name in wheel.namelist() if ".dist-info/" not in name}
        (metadata,) = (
            wheel.read(name).decode()
            for name in wheel.namelist()
            if name.endswith(".dist-info/METADATA")
        )
        has_licence = any(
            name.endswith(".dist-info/licenses/LICENSE")
            for name in wheel.namelist()
        )
    library = {name for name in committed() if name.startswith("keras_skd/")}
    check_same("wheel", files, library)
    if "keras_skd/py.typed" not in files or not has_licence:
        raise SystemExit("wheel: lacks py.typed or the licence")
    check_metadata(metadata)


def check_metadata(text):
    """The version is the library's, and the README can be read elsewhere."""
    metadata = email.message_from_string(text)
    if metadata["Version"] != library_version():
        raise SystemExit(
            f"wheel: version {metadata['Version']}, but keras_skd.__version__ "
            f"is {library_version()}"
        )
    links = _RELATIVE_LINK.findall(metadata.get_payload())
    if links:
        raise SystemExit(f"README: links that only a repository has: {links}")
    print(f"metadata: version {metadata['Version']}, no relative links")


def check_sdist():
    """The sdist has the whole project: the tests can run in it."""
    with tarfile.open(the_only("*.tar.gz")) as sdist:
        files = {
            name.partition("/")[2] for name in sdist.getnames() if "/" in name
        }
    kept = {name for name in committed() if not name.startswith(NOT_IN_SDIST)}
    check_same("sdist", files, {*kept, "PKG-INFO"})


if __name__ == "__main__":
    check_wheel()
    check_sdist()
