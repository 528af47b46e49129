"""What two models must have in common to be distilled into one another."""

import keras_hub
import numpy as np


def check_models(teacher, student):
    """Checks that the teacher can correct the student, token by token.

    Raises:
        TypeError: if one of them is not a KerasHub causal LM.
        ValueError: if they share weights, or speak different vocabularies.
    """
    _check_causal_lm("teacher", teacher)
    _check_causal_lm("student", student)
    teacher_weights = {id(v) for v in teacher.variables}
    shared = [v for v in student.variables if id(v) in teacher_weights]
    if teacher is student or shared:
        raise ValueError(
            "`teacher` and `student` must not share weights: the teacher is "
            "frozen and the student is trained. Received models that share "
            f"{len(shared)} variables. Load or clone the student separately."
        )
    _check_vocabularies(teacher, student)


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
    for method in ("call_with_cache", "_build_cache"):
        if not hasattr(model, method):
            raise ValueError(
                f"`{name}` must be able to decode with a cache. Received: "
                f"{type(model).__name__}, which has no `{method}`."
            )


def _check_vocabularies(teacher, student):
    sizes = teacher.output.shape[-1], student.output.shape[-1]
    if sizes[0] != sizes[1]:
        raise ValueError(
            "`teacher` and `student` must have the same vocabulary. Received: "
            f"a teacher of {sizes[0]} tokens and a student of {sizes[1]}."
        )
    if teacher.preprocessor is None or student.preprocessor is None:
        return
    theirs, ours = (m.preprocessor.tokenizer for m in (teacher, student))
    if theirs is ours or not hasattr(theirs, "get_vocabulary"):
        return
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


def _tokens_by_id(tokenizer):
    # Byte-pair tokenizers keep a dict, whose order need not be that of the ids.
    vocabulary = getattr(tokenizer, "vocabulary", None)
    if isinstance(vocabulary, dict):
        return {token_id: token for token, token_id in vocabulary.items()}
    return dict(enumerate(tokenizer.get_vocabulary()))


def check_preprocessor(preprocessor):
    """Checks that a preprocessor can tokenize."""
    if not hasattr(preprocessor, "tokenizer"):
        raise TypeError(
            "`preprocessor` must be a `keras_hub.models.CausalLMPreprocessor`. "
            f"Received: {preprocessor!r} of type {type(preprocessor).__name__}"
        )


def check_sequence_length(sequence_length, models, name="sequence_length"):
    """Checks a length against the positions that the models know."""
    if isinstance(sequence_length, bool) or not isinstance(
        sequence_length, int
    ):
        raise TypeError(
            f"`{name}` must be an int. Received: {sequence_length!r} "
            f"of type {type(sequence_length).__name__}"
        )
    if sequence_length < 2:
        raise ValueError(
            f"`{name}` must be at least 2, a prompt token and a "
            f"response token. Received: {sequence_length}"
        )
    for owner, model in models.items():
        longest = getattr(model.backbone, "max_sequence_length", None)
        if longest is not None and sequence_length > longest:
            raise ValueError(
                f"`{name}` must be at most {longest}, the longest "
                f"that the {owner} can read. Received: {sequence_length}"
            )


def check_token_ids(token_ids, padding_mask, vocabulary_size, key, hint=""):
    """Checks that all tokens exist: some backends read others in their place.

    What stands in the padding does not matter.
    """
    unknown = (token_ids < 0) | (token_ids >= vocabulary_size)
    unknown &= padding_mask
    if unknown.any():
        row, column = np.argwhere(unknown)[0]
        raise ValueError(
            f'"{key}" must be in the vocabulary of {vocabulary_size} tokens. '
            f"Received in row {row}: the id {token_ids[row, column]}.{hint}"
        )


def resolve_stop_token_ids(stop_token_ids, preprocessor, vocabulary_size):
    """The ids that end a response, as a tuple; empty for none."""
    if isinstance(stop_token_ids, str) and stop_token_ids == "auto":
        if preprocessor is None:
            return ()
        tokenizer = preprocessor.tokenizer
        # Llama 3 ends its texts and its turns with different tokens.
        names = ("end_token_id", "end_token2_id")
        ids = [getattr(tokenizer, name, None) for name in names]
        return tuple(int(i) for i in ids if i is not None)
    if stop_token_ids is None:
        return ()
    if not isinstance(stop_token_ids, (tuple, list)) or not all(
        isinstance(i, int) and not isinstance(i, bool) for i in stop_token_ids
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
    return tuple(stop_token_ids)


def check_seed(seed):
    """Checks that a seed is an int or `None`."""
    if seed is not None and (
        isinstance(seed, bool) or not isinstance(seed, int)
    ):
        raise TypeError(
            f"`seed` must be an int or `None`. Received: {seed!r} of type "
            f"{type(seed).__name__}"
        )
