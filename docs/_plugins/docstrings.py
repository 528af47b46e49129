"""Converts docstrings from Keras' style to Google's, which Griffe reads."""

import re
import textwrap

import griffe

# Headings under which Keras writes plain Markdown. "Returns" is among them, so
# that Griffe does not take the text before a colon for a type.
_TEXT = {"Example", "Examples", "Reference", "References", "Returns"}
_HEADING = re.compile(r"([A-Z][a-z ]+):")
# "student, teacher: text" is one item for each of them.
_SHARED = re.compile(r"^( +)(\w+), (\w+):(.*(?:\n\1 +.*)*)", re.MULTILINE)
_PUBLIC_NAME = re.compile(r"`(keras_skd[\w.]*)`")


def to_google(docstring):
    """Converts a docstring of Keras' style to Google's style and Markdown.

    * "Call arguments:" are parameters.
    * "Example:" and the like are headings, and their text is not indented.
    * A doctest is a block of code; "::" before an indented block is ":".
    * A public name, such as `keras_skd.losses.ForwardKL`, is a link.
    """
    paragraphs = []
    for block in _blocks(docstring):
        first, _, rest = block.partition("\n")
        match = _HEADING.fullmatch(first)
        heading = match[1] if match else None
        if block.startswith("```"):
            paragraphs.append(block)
        elif block.startswith(">>>"):
            paragraphs.append(f"```pycon\n{block}\n```")
        elif heading in _TEXT:
            rest = textwrap.dedent(rest)
            paragraphs += [f"**{heading}:**", _with_links(rest)]
        else:
            if heading == "Call arguments":
                block = f"Other Parameters: {heading}:\n{rest}"
            block = _SHARED.sub(r"\1\2:\4\n\1\3:\4", block)
            block = re.sub("::$", ":", block, flags=re.MULTILINE)
            paragraphs.append(_with_links(block))
    return "\n\n".join(paragraphs)


def _blocks(docstring):
    """Splits at blank lines, except for those inside of code and lists."""
    blocks = []
    in_code = False
    for block in docstring.strip().split("\n\n"):
        if blocks and (in_code or block.startswith(" ")):
            blocks[-1] += f"\n\n{block}"
        else:
            blocks.append(block)
        in_code ^= block.count("```") % 2 == 1
    return blocks


def _with_links(text):
    return _PUBLIC_NAME.sub(r"[`\1`][\1]", text)


class KerasDocstrings(griffe.Extension):
    """Rewrites docstrings, and marks public names."""

    def on_object(self, *, obj, **kwargs):
        if obj.docstring is not None:
            obj.docstring.value = to_google(obj.docstring.value)

    def on_module_members(self, *, mod, **kwargs):
        # A public name is one in the `__init__.py` of a public package, without
        # an underscore. Packages in a package have pages of their own.
        if mod.is_init_module and "._" not in mod.path:
            mod.exports = [
                name
                for name, member in mod.members.items()
                if member.is_alias
                and not name.startswith("_")
                and not (mod.filepath.parent / name).is_dir()
            ]
