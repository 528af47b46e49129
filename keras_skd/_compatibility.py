"""Checks that a teacher and a student fit together."""

import keras_hub

from keras_skd._checks import check_integer
from keras_skd._without_lora import WithoutLora


def check_models(teacher, student):
    """Checks that both are causal LMs, and share no weights.

    Args:
        teacher: a `keras_hub.models.CausalLM`, or `None` for none.
        student: a `keras_hub.models.CausalLM`.

    Raises:
        TypeError: if one of them is not a KerasHub causal LM.
        ValueError: if they share weights, or cannot decode with a cache.
    """
    _check_causal_lm("student", student)
    if teacher is None:
        return
    if isinstance(teacher, WithoutLora):
        if teacher.student is not student:
            raise ValueError(
                "`teacher=without_lora(model)` must be the base of the "
                "student. Received the base of a different model than "
                f"`student={student.name!r}`."
            )
        return
    _check_causal_lm("teacher", teacher)
    teacher_weights = {id(v) for v in teacher.variables}
    shared = [v for v in student.variables if id(v) in teacher_weights]
    if teacher is student or shared:
        raise ValueError(
            "`teacher` and `student` must not share weights: the teacher is "
            "frozen and the student is trained. Received models that share "
            f"{len(shared)} variables. Load or clone the student separately, "
            "or train adapters of it against its own base, with "
            "`teacher=keras_skd.without_lora(student)`."
        )


def _check_causal_lm(name, model):
    if isinstance(model, keras_hub.models.Backbone):
        raise TypeError(
            f"`{name}` must be a `keras_hub.models.CausalLM`. Received the "
            f"backbone {type(model).__name__}. Wrap it: "
            "`CausalLM(backbone=backbone, preprocessor=preprocessor)`."
        )
    if not isinstance(model, keras_hub.models.CausalLM):
        raise TypeError(
            f"`{name}` must be a `keras_hub.models.CausalLM`, such as "
            '`keras_hub.models.CausalLM.from_preset("gemma3_1b")`. Received: '
            f"{model!r} of type {type(model).__name__}"
        )
    needed = {
        "call_with_cache": model,
        "_build_cache": model,
        "token_embedding": model.backbone,
    }
    for attribute, owner in needed.items():
        if not hasattr(owner, attribute):
            raise ValueError(
                f"`{name}` must decode with a cache and embed its tokens. "
                f"Received: {type(model).__name__}, whose "
                f"{type(owner).__name__} has no `{attribute}`."
            )


def shared_vocabulary_size(teacher, student, vocabulary_size=None) -> int:
    """Returns the number of token ids that both models share.

    Heads are often padded to different sizes over the same tokenizer. The
    smaller head's size is that of the vocabulary.

    Args:
        teacher: a `keras_hub.models.CausalLM`, or `None` for none.
        student: a `keras_hub.models.CausalLM`.
        vocabulary_size: int. The number that the user passed. Required if the
            heads differ in size and there are no tokenizers to compare.
            Defaults to `None`, the size of the smaller head.

    Raises:
        TypeError: if `vocabulary_size` is not an int.
        ValueError: if the tokenizers differ, or the sizes do not fit.
    """
    if teacher is None:
        teacher = student
    sizes = [model.output.shape[-1] for model in (teacher, student)]
    compared = check_tokenizers(teacher, student)
    if vocabulary_size is not None:
        check_integer("vocabulary_size", vocabulary_size, minimum=2)
        if vocabulary_size > min(sizes):
            raise ValueError(
                f"`vocabulary_size` must be at most {min(sizes)}, the number "
                "of tokens that both models know. Received: "
                f"{vocabulary_size}, with a teacher of {sizes[0]} tokens and "
                f"a student of {sizes[1]}."
            )
        return int(vocabulary_size)
    if sizes[0] != sizes[1] and not compared:
        raise ValueError(
            "`teacher` and `student` must have the same vocabulary. Received: "
            f"a teacher of {sizes[0]} tokens and a student of {sizes[1]}, "
            "which have no tokenizers to compare. If the ids below "
            f"{min(sizes)} are the same tokens in both, pass "
            f"`vocabulary_size={min(sizes)}` to the `Distiller`."
        )
    return min(sizes)


def check_tokenizers(teacher, student):
    """Whether both models have tokenizers. If so, these must be the same."""
    if teacher.preprocessor is None or student.preprocessor is None:
        return False
    theirs, ours = (m.preprocessor.tokenizer for m in (teacher, student))
    if theirs is ours or not hasattr(theirs, "get_vocabulary"):
        return True
    if not (has_vocabulary(theirs) and has_vocabulary(ours)):
        return False  # From a file, they come later.
    theirs_by_id, ours_by_id = _tokens_by_id(theirs), _tokens_by_id(ours)
    for token_id in sorted(theirs_by_id.keys() & ours_by_id.keys()):
        a, b = theirs_by_id[token_id], ours_by_id[token_id]
        if a != b:
            raise ValueError(
                "`teacher` and `student` must have the same tokenizer. "
                f"Received vocabularies that first differ at id {token_id}: "
                f"{a!r} in the teacher's and {b!r} in the student's."
            )
    if theirs.vocabulary_size() != ours.vocabulary_size():
        raise ValueError(
            "`teacher` and `student` must have the same tokenizer. Received "
            f"a teacher's of {theirs.vocabulary_size()} tokens and a "
            f"student's of {ours.vocabulary_size()}."
        )
    return True


def _tokens_by_id(tokenizer):
    # Byte-pair tokenizers have a dict, which need not be in the order of ids.
    vocabulary = getattr(tokenizer, "vocabulary", None)
    if isinstance(vocabulary, dict):
        return {token_id: token for token, token_id in vocabulary.items()}
    return dict(enumerate(tokenizer.get_vocabulary()))


def has_vocabulary(tokenizer) -> bool:
    """Whether a tokenizer can be used: until it is loaded, it cannot."""
    try:
        tokenizer.vocabulary_size()
    except (AttributeError, TypeError, ValueError):
        return False
    return True
