"""A template that came with a download gets out of nothing."""

import contextlib

import pytest

from keras_skd.chat import ChatTemplate

MESSAGES = [{"role": "user", "content": "Hello"}]

# The first is through what is there for every object, then through what Jinja
# and the library put within reach, then around its checks.
ESCAPES = {
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "classes of messages": "{{ messages.__class__.__base__ }}",
    "by filter": "{{ ''|attr('__class__')|attr('__mro__') }}",
    "by a name in pieces": "{{ ''|attr('__cla' ~ 'ss__') }}",
    "by item": "{{ ''['__class__']['__mro__'] }}",
    "by map": "{{ messages|map(attribute='__class__')|list }}",
    "globals of a helper": "{{ raise_exception.__globals__ }}",
    "code of a helper": "{{ strftime_now.__code__ }}",
    "globals of a class": "{{ namespace.__init__.__globals__ }}",
    "globals of a macro": "{% macro m() %}{% endmacro %}{{ m.__globals__ }}",
    "cycler": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "joiner": "{{ joiner.__init__.__globals__ }}",
    "lipsum": "{{ lipsum.__globals__['os'].system('id') }}",
    "the template itself": "{{ self.__init__.__globals__ }}",
    "the frame": "{{ self._TemplateReference__context }}",
    "the environment": "{{ self._TemplateReference__context.environment }}",
    "format": "{{ '{0.__class__.__mro__}'.format('') }}",
    "format_map": "{{ '{a.__class__.__mro__}'.format_map({'a': ''}) }}",
    "format by filter": "{{ ('{0.__class__.__mro__}'|attr('format'))('') }}",
    "format by map": (
        "{% set f = ['{0.__class__.__mro__}'.format] %}{{ f[0]('') }}"
    ),
    "names of a namespace": (
        "{% set n = namespace() %}{% set n.__html__ = 1 %}{{ n.__html__ }}"
    ),
    "names of a new namespace": "{{ namespace(__class__='a').__class__ }}",
    "an import": "{% import 'os' as os %}{{ os.system('id') }}",
    "an include": "{% include '/etc/passwd' %}",
}


@pytest.mark.parametrize("source", ESCAPES.values(), ids=ESCAPES)
def test_escapes(source):
    for template in (source, "{{ messages[0].content }}" + source):
        try:
            text = ChatTemplate(template).render(MESSAGES)
        except ValueError:
            continue
        # Jinja makes nothing of what it keeps from a template.
        assert text.replace("[Undefined]", "") in ("", "Hello"), text


MUTATIONS = {
    "append": "{{ messages.append(1) }}",
    "clear": "{{ messages.clear() }}",
    "a message": "{{ messages[0].update({'content': 'Bye'}) }}",
    "pop": "{{ messages[0].pop('content') }}",
    "by filter": "{{ (messages|attr('append'))(1) }}",
    "the globals": "{% set range = 1 %}",
}


@pytest.mark.parametrize("source", MUTATIONS.values(), ids=MUTATIONS)
def test_messages_stay_as_they_are(source):
    messages = [dict(message) for message in MESSAGES]
    template = ChatTemplate("{{ messages[0].content }}" + source)
    with contextlib.suppress(ValueError):
        template.render(messages)
    assert messages == MESSAGES
    plain = ChatTemplate(
        "{% for i in range(2) %}{{ messages|length }}{% endfor %}"
    )
    assert plain.render(messages) == "11"


def test_no_object_reaches_a_template():
    class Content(str):
        def read(self):
            return "secret"

    template = ChatTemplate("{{ messages[0].content.read() }}")
    with pytest.raises(ValueError, match="no attribute 'read'"):
        template.render([{"role": "user", "content": Content("Hello")}])
    with pytest.raises(TypeError, match="strings, numbers, lists and dicts"):
        template.render([{"role": "user", "content": object()}])


def test_huge_ranges_are_refused():
    template = ChatTemplate("{% for i in range(10 ** 9) %}a{% endfor %}")
    with pytest.raises(ValueError, match="Range too big"):
        template.render(MESSAGES)


def test_templates_of_others_find_what_they_use():
    source = """\
{%- if messages[0].role == 'tool' %}
    {{- raise_exception('No tools, please.') }}
{%- endif %}
{%- set state = namespace(found=false) %}
{%- for message in messages %}
    {%- if message.role == 'stop' %}{% break %}{% endif %}
    {%- set state.found = true %}
    {%- generation %}{{ message.content | tojson }}{% endgeneration %}
{%- endfor %}
{{- state.found }}{{ strftime_now('%%') }}{{ tools is none }}"""
    template = ChatTemplate(source)
    messages = [
        {"role": "user", "content": "<é&'>"},
        {"role": "stop", "content": "more"},
    ]
    assert template.render(messages) == '"<é&\'>"True%True'
    with pytest.raises(ValueError, match="No tools, please"):
        template.render([{"role": "tool", "content": ""}])
