"""Scores of the student's own text, and of the student as a drafter."""

import numpy as np

from keras_skd._checks import check_integer
from keras_skd._generation import statistics
from keras_skd._preprocessing import gather
from keras_skd._preview import in_batches
from keras_skd._scoring.student_text import StudentText
from keras_skd._scoring.student_text import response_texts
from keras_skd._scoring.text_metrics import check_metrics
from keras_skd._scoring.text_metrics import score_texts

_DRAFT_KEYS = "sources", "response_mask", "num_tested", "num_teacher_calls"


class Scorer:
    """Generates text with the student, and the teacher's text with its drafts.

    Args:
        generate: callable from a batch of prompts to a rollout of lossless
            speculative decoding, or `None` without a teacher.
        seed: int or `None`.

    Call arguments:
        distiller: a `keras_skd.Distiller`.
        evaluate: callable from packed data to the logs of an evaluation.
        x, metrics, sampler, max_length, batch_size: as of `Distiller.score`.

    Returns:
        dict of floats.
    """

    def __init__(self, generate, seed):
        self._generate = generate
        self._seed = seed
        # The last sampler, and the function compiled for it.
        self._key: tuple | None = None
        self._writer: StudentText | None = None

    def __call__(
        self, distiller, evaluate, x, metrics, sampler, max_length, batch_size
    ):
        if distiller.preprocessor is None:
            raise ValueError(
                "`score` compares text: give the `Distiller` or its student a "
                "`preprocessor`. Received: preprocessor=None"
            )
        metrics = check_metrics(metrics)
        check_integer("batch_size", batch_size, minimum=1)
        packed = gather(x, distiller._pack)
        if "response_mask" not in packed:
            raise ValueError(
                "`x` must have responses to compare with. Received: data "
                'without "responses"'
            )
        prompts = _prompts(packed, max_length)
        scores = evaluate(
            packed, batch_size=batch_size, return_dict=True, verbose=0
        )
        if self._writer is None or self._key != (sampler, batch_size):
            self._writer = StudentText(sampler, batch_size, self._seed)
            self._key = sampler, batch_size
        responses = self._writer(distiller, prompts)
        references = response_texts(distiller.preprocessor, packed)
        for metric in metrics:
            scores.update(score_texts(metric, references, responses))
        if self._generate is not None:
            drafted = in_batches(
                self._generate, prompts, batch_size, _DRAFT_KEYS
            )
            scores.update(statistics(drafted))
        return scores


def _prompts(packed, max_length):
    """The prompts of packed data, in rows of a given length."""
    length = packed["token_ids"].shape[1]
    if max_length is None:
        max_length = length
    is_prompt = packed["padding_mask"] & ~packed["response_mask"]
    longest = int(is_prompt.sum(axis=1).max())
    check_integer("max_length", max_length, minimum=longest + 1)
    more = max_length - length
    columns = {
        "token_ids": np.where(is_prompt, packed["token_ids"], 0),
        "padding_mask": is_prompt,
    }
    for name in ("teacher_token_ids", "teacher_padding_mask"):
        if name in packed:
            columns[name] = packed[name]
    if more > 0:
        return {
            name: np.pad(column, [(0, 0), (0, more)])
            for name, column in columns.items()
        }
    return {
        name: column[:, : column.shape[1] + more]
        for name, column in columns.items()
    }
