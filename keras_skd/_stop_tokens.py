"""The tokens that end a response."""

import types
import warnings

import keras_hub

from keras_skd._checks import is_integer


def resolve_stop_token_ids(
    stop_token_ids, teacher, student, preprocessor, vocabulary_size
):
    """Returns the ids that end a response, as a tuple that may be empty.

    Args:
        stop_token_ids: `"auto"` for those at which either model ends a text,
            a tuple of ints, or `None`.
        teacher: a `keras_hub.models.CausalLM`, or `None` for none.
        student: a `keras_hub.models.CausalLM`.
        preprocessor: a `keras_hub.models.CausalLMPreprocessor` for a model
            that has none, or `None`.
        vocabulary_size: int.
    """
    if isinstance(stop_token_ids, str) and stop_token_ids == "auto":
        if preprocessor is None:
            return ()
        theirs, ours = (
            _ends_of_texts(model, model.preprocessor or preprocessor)
            for model in (teacher or student, student)
        )
        if set(theirs) != set(ours):
            warnings.warn(
                "The teacher and the student end their texts with different "
                f"tokens: the teacher with {theirs}, the student with {ours}. "
                "Responses end at any of them. To choose, pass "
                "`stop_token_ids`.",
                stacklevel=3,
            )
        ids = dict.fromkeys([*theirs, *ours])
        return tuple(i for i in ids if i < vocabulary_size)
    if stop_token_ids is None:
        return ()
    if not isinstance(stop_token_ids, (tuple, list)) or not all(
        map(is_integer, stop_token_ids)
    ):
        raise TypeError(
            "`stop_token_ids` must be 'auto', `None` or a tuple of ints. "
            f"Received: {stop_token_ids!r}"
        )
    for token_id in stop_token_ids:
        if not 0 <= token_id < vocabulary_size:
            raise ValueError(
                f"`stop_token_ids` must be in the vocabulary of "
                f"{vocabulary_size} tokens. Received: {token_id}"
            )
    return tuple(map(int, stop_token_ids))


def _ends_of_texts(model, preprocessor):
    """The tokens at which `model.generate(stop_token_ids="auto")` stops.

    Each family of KerasHub decides that inside its `generate`. So we call it,
    on a copy of the model that records the stop tokens and generates nothing.
    """
    received = []

    def record(inputs, stop_token_ids):
        received.extend(stop_token_ids)
        return [""]

    model = getattr(model, "student", model)  # Of a `WithoutLora`.
    recorder = object.__new__(type(model))
    vars(recorder).update(vars(model))
    vars(recorder)["generate_function"] = record
    vars(recorder)["_preprocessor"] = types.SimpleNamespace(
        tokenizer=preprocessor.tokenizer,
        generate_preprocess=lambda x, sequence_length=None: x,
        generate_postprocess=lambda x: x,
    )
    try:
        recorder.generate([], stop_token_ids="auto")
    except (KeyError, ValueError):
        # This vocabulary lacks the family's end-of-turn token.
        keras_hub.models.CausalLM.generate(recorder, [], stop_token_ids="auto")
    return tuple(int(i) for i in received if i is not None and i >= 0)
