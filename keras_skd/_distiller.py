import keras
import keras_hub
from keras import ops

from keras_skd import _source as sources
from keras_skd import _validation as validation
from keras_skd import losses
from keras_skd import rollouts
from keras_skd._backend import RolloutTrainer
from keras_skd._generation import Generation
from keras_skd._generation import statistics
from keras_skd._objective.objective import Objective
from keras_skd._objective.targets import next_tokens
from keras_skd._preprocessing.preprocessing import Packer
from keras_skd._preprocessing.preprocessing import prepare
from keras_skd.decoding import CachedCausalLM


class Distiller(RolloutTrainer, keras.Model):
    """Distils a big KerasHub causal LM into a small one.

    In every step of `fit`, a rollout writes a response to each prompt of the
    batch, and the student learns the teacher's distribution at each token of
    it. The default rollout is speculative knowledge distillation: the student
    proposes tokens, the teacher replaces the ones outside its top 25. Other
    rollouts and losses give the other published methods.

    The teacher is frozen. The student remains the plain KerasHub model that
    it was, to be saved with `distiller.student.save_to_preset(...)`.

    Args:
        teacher: a `keras_hub.models.CausalLM`, the model to learn from.
        student: a `keras_hub.models.CausalLM` with the same vocabulary, the
            model to train.
        rollout: a `keras_skd.rollouts.Rollout` or its name, who writes the
            responses. Defaults to `keras_skd.rollouts.Speculative()`.
        preprocessor: a `keras_hub.models.CausalLMPreprocessor`, which
            tokenizes the data. Defaults to `student.preprocessor`. With
            neither, the data comes as token ids.
        sequence_length: int. Number of tokens in a prompt and its response
            together. Defaults to the preprocessor's, or to the data's.
        stop_token_ids: `"auto"`, tuple of ints or `None`, the tokens that end
            a response. Defaults to `"auto"`, the tokenizer's end tokens, or
            none without a preprocessor.
        seed: int. Seeds every sampler that has no seed of its own: the same
            seed gives the same tokens. Defaults to `None`.
        teacher_sequence_length: int. Number of tokens in a prompt of the
            teacher's own and the response, where the data has
            `"teacher_prompts"`. Defaults to twice `sequence_length`.
        **kwargs: passed to `keras.Model`, such as `name`.

    Call arguments:
        inputs: dict of `"token_ids"` and `"padding_mask"`, of shape
            `(batch, sequence_length)`.

    Returns, when called, a dict with the student's `"hidden_states"`, of shape
    `(batch, sequence_length, hidden_dim)`: logits are made inside of the loss,
    and are there only if metrics need them. For logits, call
    `distiller.student`.

    Raises:
        TypeError: if a model is not a `keras_hub.models.CausalLM`, or an
            argument has the wrong type.
        ValueError: if the models do not fit together, or an argument is out of
            its range.

    Example:

    ```python
    teacher = keras_hub.models.CausalLM.from_preset("gemma3_instruct_1b")
    student = keras_hub.models.CausalLM.from_preset("gemma3_270m")

    distiller = keras_skd.Distiller(teacher, student, sequence_length=128)
    distiller.compile(
        optimizer=keras.optimizers.Adam(1e-5),
        loss=keras_skd.losses.ForwardKL(),
    )
    distiller.fit({"prompts": prompts}, batch_size=8, epochs=3)
    distiller.student.save_to_preset("student")
    ```

    Reference:

    - [Xu et al., 2024](https://arxiv.org/abs/2410.11325)
    """

    def __init__(
        self,
        teacher: keras_hub.models.CausalLM,
        student: keras_hub.models.CausalLM,
        rollout: str | rollouts.Rollout | None = None,
        preprocessor: keras_hub.models.CausalLMPreprocessor | None = None,
        sequence_length: int | None = None,
        stop_token_ids: str | tuple[int, ...] | None = "auto",
        seed: int | None = None,
        teacher_sequence_length: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        validation.check_models(teacher, student)
        validation.check_seed(seed)
        if preprocessor is None:
            preprocessor = student.preprocessor
        if preprocessor is not None:
            validation.check_preprocessor(preprocessor)
            if sequence_length is None:
                sequence_length = preprocessor.sequence_length
        if sequence_length is not None:
            validation.check_sequence_length(
                sequence_length, {"teacher": teacher, "student": student}
            )
        if teacher_sequence_length is not None:
            validation.check_sequence_length(
                teacher_sequence_length,
                {"teacher": teacher},
                "teacher_sequence_length",
            )
        self.teacher = teacher
        self.teacher.trainable = False
        self.student = student
        # As in KerasHub: it decides whether `compile` scales the loss.
        self.dtype_policy = student.dtype_policy
        self.sequence_length = sequence_length
        self.stop_token_ids = validation.resolve_stop_token_ids(
            stop_token_ids, preprocessor, student.output.shape[-1]
        )
        self.rollout = rollouts.get(
            rollouts.Speculative() if rollout is None else rollout
        )
        self._seed = seed
        if seed is not None:
            self.rollout.set_seed(seed)
        # How many batches were trained on, for schedules.
        self.training_step = self.add_weight(
            shape=(), dtype="int32", trainable=False, name="training_step"
        )
        # Keras carries what it tracks from step to step, and saves it.
        self._rollout_variables = self.rollout.variables
        # A preprocessor is no part of the compiled model: not tracked.
        self._pack = Packer(
            preprocessor,
            sequence_length,
            teacher_sequence_length,
            {"teacher": teacher, "student": student},
        )
        self._teacher_lm = CachedCausalLM(teacher)
        self._student_lm = CachedCausalLM(student)
        # Until `compile` makes its own.
        self._objective = Objective(
            "forward_kl", None, self._teacher_lm, self._student_lm
        )
        self.rollout_function = self.make_rollout_function(self.rollout)
        self._generation_functions = {}

        self._rollout_metrics = [
            keras.metrics.Mean(name="teacher_token_fraction"),
            keras.metrics.Mean(name="response_length"),
        ]
        if self.rollout.tests_drafts:
            self._rollout_metrics.insert(
                0, keras.metrics.Mean(name="acceptance_rate")
            )
        self.built = True

    @property
    def preprocessor(self):
        """The `keras_hub.models.CausalLMPreprocessor` of the data."""
        return self._pack.preprocessor

    def compile(
        self,
        optimizer="adam",
        loss: str | losses.DistillationLoss = "forward_kl",
        metrics: list | None = None,
        weighted_metrics: list | None = None,
        loss_chunk_size: int | None = None,
        hidden_state_loss: losses.HiddenStateL1 | None = None,
        **kwargs,
    ):
        """Configures the distiller for training.

        Args:
            optimizer: a `keras.optimizers.Optimizer` or its name.
            loss: a `keras_skd.losses.DistillationLoss` or its name. Defaults
                to `"forward_kl"`.
            metrics: list of Keras metrics of the next token, such as
                `keras_hub.metrics.Perplexity(from_logits=True)`, given the
                tokens of the rollout, the student's logits and the response
                mask. They count no prompt and no padding.
            weighted_metrics: the same as `metrics`.
            loss_chunk_size: int. How many positions are projected to the
                vocabulary at once: fewer need less memory. Defaults to `None`:
                256, or fewer if that is more than 8 million logits.
            hidden_state_loss: a `keras_skd.losses.HiddenStateL1` to add to the
                loss. Defaults to `None`.
            **kwargs: see `keras.Model.compile`.
        """
        objective = Objective(
            loss,
            hidden_state_loss,
            self._teacher_lm,
            self._student_lm,
            loss_chunk_size,
        )
        metrics = [*(metrics or []), *(weighted_metrics or [])]
        super().compile(
            optimizer=optimizer, weighted_metrics=metrics or None, **kwargs
        )
        self._objective = objective

    def call(self, inputs, training=None):
        outputs = self._objective.read_student(
            inputs["token_ids"], inputs["padding_mask"], training
        )
        if self._compile_metrics is not None:
            hidden_states = outputs["hidden_states"]
            outputs["logits"] = self._student_lm.logits(hidden_states)
        return outputs

    def write(self, x, rollout):
        """Lets a rollout write one batch of token ids. Compilable."""
        written = rollout(
            x,
            self._student_lm,
            self._teacher_lm,
            self.stop_token_ids,
            ops.convert_to_tensor(self.training_step),
        )
        return _with_teacher_prompts(written, x)

    def training_batch(self, data, write):
        """One batch to train on: written by `write`, and counted."""
        x = self._write_and_count(data, write)
        self.training_step.assign_add(1)
        return x

    def _write_and_count(self, data, write):
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        x = write(x)
        values = {}
        written = ops.cast(x["response_mask"], "float32")
        if self.rollout.tests_drafts:
            stands = ops.cast(x["sources"] == sources.STUDENT, "float32")
            values["acceptance_rate"] = stands, x["tested"]
        by_teacher = ops.cast(x["sources"] == sources.TEACHER, "float32")
        values["teacher_token_fraction"] = by_teacher, written
        values["response_length"] = ops.sum(written, axis=1), None
        for metric in self._rollout_metrics:
            metric.update_state(*values[metric.name])
        return x

    def test_batch(self, data, write):
        """One batch to score: the data's responses, or written ones."""
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        if "response_mask" not in x:
            return self._write_and_count(data, write)
        return self.write(x, rollouts.Supervised())

    def test_logs(self, logs, data):
        """Leaves out what a rollout would have been measured by."""
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        if "response_mask" not in x:
            return logs
        names = [metric.name for metric in self._rollout_metrics]
        return {k: v for k, v in logs.items() if k not in names}

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        loss = self._objective(
            y_pred,
            x,
            # The batch at hand was counted already.
            training_step=self.training_step - int(training),
            training=training,
        )
        for additional in self.losses:
            loss = loss + ops.sum(ops.cast(additional, loss.dtype))
        return loss

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        if self._compile_metrics is not None:
            targets = next_tokens(x)
            y, y_pred = targets["token_ids"], y_pred["logits"]
            # Keras builds the metrics with a batch of data, not of a rollout.
            mask = targets.get("response_mask", targets["padding_mask"])
            sample_weight = ops.cast(mask, "float32")
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def fit(self, x=None, y=None, *args, validation_data=None, **kwargs):
        """Trains the student.

        Args:
            x: the prompts, and the responses where the rollout needs them:
                dict of `"prompts"` and `"responses"` (lists or arrays of
                strings), `tf.data.Dataset` or `keras.utils.PyDataset` of
                batches of such dicts. `"teacher_prompts"` are what the teacher
                sees in place of the prompts: with a document, a hint or the
                answer in it. Without a preprocessor, `"token_ids"`,
                `"padding_mask"` and `"response_mask"`, of shape
                `(batch, sequence_length)`, in place of the strings, and
                `"teacher_token_ids"` and `"teacher_padding_mask"`.
            validation_data: data like `x`. With responses, the student is
                scored on those, nothing is sampled, and `val_loss` can be
                compared between epochs and between rollouts. Without, the
                rollout writes the responses.
            **kwargs: see `keras.Model.fit`.

        Returns:
            A `keras.callbacks.History` of `loss`, `acceptance_rate` (accepted
            over tested drafts), `teacher_token_fraction` (of the response) and
            `response_length` (in tokens).
        """
        self._check_weights(kwargs)
        x, keys = self._prepare(x, y, "x")
        self._check_responses(keys)
        if validation_data is not None:
            validation_data, _ = self._prepare(
                validation_data, None, "validation_data"
            )
        return super().fit(
            x, None, *args, validation_data=validation_data, **kwargs
        )

    def evaluate(self, x=None, y=None, *args, **kwargs):
        """Scores the student.

        Args:
            x: data as in `fit`. With responses, the student is scored on
                those; without, the rollout writes them.
            **kwargs: see `keras.Model.evaluate`.

        Returns:
            See `keras.Model.evaluate`.
        """
        if not kwargs.get("_use_cached_eval_dataset", False):
            self._check_weights(kwargs)
            x, _ = self._prepare(x, y, "x")
        return super().evaluate(x, None, *args, **kwargs)

    def generate_rollout(self, x) -> dict:
        """Writes what the student would train on.

        Args:
            x: dict of one batch of data, as in `fit`.

        Returns:
            dict of NumPy arrays of shape `(batch, sequence_length)`:
            `"token_ids"` (int32), `"padding_mask"` (bool), `"response_mask"`
            (bool) and `"sources"` (int32: padding 0, prompt 1, student 2,
            teacher 3, data 4).

        Example:

        ```python
        rollout = distiller.generate_rollout({"prompts": ["Hello"]})
        ids = rollout["token_ids"][rollout["sources"] == 3]
        tokenizer.detokenize(ids)  # What the teacher wrote.
        ```
        """
        x = self._pack(x)
        self._check_responses(x)
        x = {key: ops.convert_to_tensor(value) for key, value in x.items()}
        x = self.rollout_function(x)
        keys = "token_ids", "padding_mask", "response_mask", "sources"
        return {key: ops.convert_to_numpy(x[key]) for key in keys}

    def generate(
        self,
        inputs,
        max_length: int | None = None,
        sampler: str | keras_hub.samplers.Sampler = "random",
        strip_prompt: bool = False,
        return_statistics: bool = False,
    ):
        """Generates text of the teacher, with the student as its drafter.

        This is lossless speculative decoding: the text is distributed exactly
        as the teacher's own with this sampler, and takes fewer teacher passes
        the better the student knows the teacher. No row waits for another.

        Args:
            inputs: string, list of strings, or without a preprocessor a dict
                of `"token_ids"` and `"padding_mask"`.
            max_length: int. Number of tokens in a prompt and its continuation
                together. Defaults to `sequence_length`.
            sampler: `"random"`, `"greedy"`, `"top_k"`, `"top_p"` or such a
                `keras_hub.samplers.Sampler`, how the teacher samples.
            strip_prompt: bool. Whether to leave the prompts out.
            return_statistics: bool. Whether to return, beside the text, a dict
                of `"acceptance_rate"` and `"tokens_per_teacher_call"`.

        Returns:
            String or list of strings, or without a preprocessor a dict of
            NumPy arrays `"token_ids"` and `"padding_mask"`; with
            `return_statistics`, a pair of it and the statistics.

        Example:

        ```python
        text, statistics = distiller.generate(
            "Speculative decoding is", max_length=64, return_statistics=True
        )
        print(f"{statistics['tokens_per_teacher_call']:.1f} tokens a pass")
        ```

        Reference:

        - [Leviathan et al., 2022](https://arxiv.org/abs/2211.17192)
        """
        is_one = isinstance(inputs, str)
        if self.preprocessor is not None:
            inputs = {"prompts": [inputs] if is_one else inputs}
        pack = self._pack
        if max_length is not None:
            if self.preprocessor is None:
                raise ValueError(
                    "`max_length` needs a `preprocessor`: token ids say "
                    "themselves how long they may get, by the shape of their "
                    f"arrays. Received: max_length={max_length}"
                )
            models = {"teacher": self.teacher, "student": self.student}
            validation.check_sequence_length(max_length, models, "max_length")
            pack = Packer(self.preprocessor, max_length)
        x = {k: ops.convert_to_tensor(v) for k, v in pack(inputs).items()}
        rollout = self._generation_function(sampler)(x)
        rollout = {k: ops.convert_to_numpy(v) for k, v in rollout.items()}
        outputs = {
            "token_ids": rollout["token_ids"],
            "padding_mask": rollout[
                "response_mask" if strip_prompt else "padding_mask"
            ],
        }
        if self.preprocessor is not None:
            outputs = self.preprocessor.generate_postprocess(outputs)
            outputs = outputs[0] if is_one else list(outputs)
        if return_statistics:
            return outputs, statistics(rollout)
        return outputs

    def _generation_function(self, sampler):
        if sampler not in self._generation_functions:
            self._generation_functions[sampler] = self.make_rollout_function(
                Generation(sampler, seed=self._seed)
            )
        return self._generation_functions[sampler]

    def _prepare(self, x, y, argument):
        if y is not None:
            raise ValueError(
                "Distillation takes its targets from the teacher: pass "
                f"responses in `x`, and no `y`. Received: y={y!r}"
            )
        return prepare(x, self._pack, argument)

    def _check_weights(self, arguments):
        for name in ("sample_weight", "class_weight"):
            if arguments.get(name) is not None:
                raise ValueError(
                    f"`{name}` has no place in distillation: every token of a "
                    "response counts once, unless `source_weights` of the loss "
                    f"say otherwise. Received: {name}={arguments[name]!r}"
                )

    def _check_responses(self, keys):
        if self.rollout.needs_responses and "response_mask" not in keys:
            raise ValueError(
                f"`rollout={type(self.rollout).__name__}` takes the responses "
                'from the data, and the data has no "responses" (or '
                '"response_mask", for token ids). Add them, or choose a '
                "rollout that writes its own."
            )


def _with_teacher_prompts(rollout, x):
    keys = set(x) & {"teacher_token_ids", "teacher_padding_mask"}
    return {**rollout, **{key: x[key] for key in sorted(keys)}}
