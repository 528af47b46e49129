"""Chat templates of model families, in Jinja.

Each renders a conversation like the family's own template, without tools and
dates. The content of a message must be a string.
"""

_CHATML_TURNS = """\
{% for message in messages %}
<|im_start|>{{ message.role }}
{{ message.content or '' }}<|im_end|>
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% endif %}
"""

# Plain ChatML: SmolLM2, Qwen 3 and many others.
CHATML = _CHATML_TURNS

# Qwen 2 and 2.5 have a default system message.
QWEN = (
    """\
{% if not messages or messages[0].role != 'system' %}
<|im_start|>system
You are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>
{% endif %}
"""
    + _CHATML_TURNS
)

# Gemma has no system turns: the system message is part of the first turn.
GEMMA = """\
{{ bos_token }}
{%- set state = namespace(preface='') %}
{% for message in messages %}
{% if message.role == 'system' %}
{% set state.preface = state.preface ~ message.content | trim ~ '\n\n' %}
{% else %}
<start_of_turn>
{{- 'model' if message.role == 'assistant' else message.role }}
{{ state.preface ~ (message.content or '') | trim }}<end_of_turn>
{% set state.preface = '' %}
{% endif %}
{% endfor %}
{% if add_generation_prompt %}
<start_of_turn>model
{% endif %}
"""

LLAMA3 = """\
{{ bos_token }}
{%- for message in messages %}
<|start_header_id|>{{ message.role }}<|end_header_id|>

{{ (message.content or '') | trim }}<|eot_id|>
{%- endfor %}
{% if add_generation_prompt %}
<|start_header_id|>assistant<|end_header_id|>

{% endif %}
"""

# The tokenizer of Phi 3 drops the line breaks of its own template.
PHI = """\
{% for message in messages -%}
<|{{ message.role }}|>{{ message.content or '' }}<|end|>
{%- endfor %}
{% if add_generation_prompt -%}
<|assistant|>
{%- endif %}
"""

NAMED = {
    "chatml": CHATML,
    "gemma": GEMMA,
    "llama3": LLAMA3,
    "phi": PHI,
    "qwen": QWEN,
}
