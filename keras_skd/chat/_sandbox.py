"""Jinja's immutable sandbox, since templates come with downloads.

A template can access the messages (copied to plain data, so that they have no
methods of their own), `range`, `namespace`, Jinja's filters and tests, and the
functions below.
"""

import datetime
import importlib.metadata
import json

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox
import jinja2.utils

_version = importlib.metadata.version("jinja2").split(".")[:3]
if tuple(int(number) for number in _version) < (3, 1, 6):
    raise ImportError("The sandbox of older versions is known to be unsafe.")


class _GenerationTag(jinja2.ext.Extension):
    """`{% generation %}`, with which `transformers` marks assistant turns."""

    tags = frozenset({"generation"})

    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(["name:endgeneration"], drop_needle=True)


class _Namespace(jinja2.utils.Namespace):
    """A namespace that refuses names with a leading underscore."""

    def __init__(*args, **kwargs):
        # Without a named parameter, since a template may use the name `self`.
        self, *args = args
        names = dict(*args, **kwargs)
        for name in names:
            _check_name(name)
        jinja2.utils.Namespace.__init__(self, names)

    def __setitem__(self, name, value):
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name):
    if str(name).startswith("_"):
        raise jinja2.sandbox.SecurityError(
            f"a namespace cannot have names with a leading underscore: {name!r}"
        )


def _raise_exception(message):
    raise jinja2.TemplateError(message)


def _strftime_now(form):
    return datetime.datetime.now().strftime(form)


def _to_json(
    value, ensure_ascii=False, indent=None, separators=None, sort_keys=False
):
    """Plain JSON. Jinja's own filter escapes it for HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _environment():
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_GenerationTag, jinja2.ext.loopcontrols],
    )
    environment.filters["tojson"] = _to_json
    # Without Jinja's globals for web pages.
    environment.globals = {
        "range": environment.globals["range"],
        "namespace": _Namespace,
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
    }
    return environment


def compile_template(source):
    """Returns a template whose `render` runs in the sandbox.

    Raises:
        ValueError: if the source is not valid Jinja.
    """
    try:
        return _environment().from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(
            f"The chat template is not valid Jinja: {error.message} in line "
            f"{error.lineno}. Received: {source!r:.60}"
        ) from error
