import enum


class Source(enum.IntEnum):
    """Who wrote a token: the values of a rollout's `"sources"`.

    Example:

    ```python
    rollout = distiller.generate_rollout({"prompts": ["Hello"]})
    by_teacher = rollout["sources"] == keras_skd.Source.TEACHER
    tokenizer.detokenize(rollout["token_ids"][by_teacher])
    ```
    """

    PADDING = 0
    PROMPT = 1
    STUDENT = 2
    TEACHER = 3
    DATA = 4
