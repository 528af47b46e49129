import keras
import keras_hub
from keras import ops

from keras_skd import _source as sources
from keras_skd import losses
from keras_skd import rollouts
from keras_skd._backend import RolloutTrainer
from keras_skd._checks import check_integer
from keras_skd._compatibility import check_models
from keras_skd._compatibility import shared_vocabulary_size
from keras_skd._generation import Generation
from keras_skd._generation import statistics
from keras_skd._objective.chunked_loss import ChunkedLoss
from keras_skd._preprocessing import Packer
from keras_skd._preprocessing import pack_batch
from keras_skd._preprocessing import pack_generate_inputs
from keras_skd._preprocessing import prepare
from keras_skd._stop_tokens import resolve_stop_token_ids
from keras_skd.decoding import CachedCausalLM
from keras_skd.decoding import TeacherView


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
            model to train. Its encoders of images and sounds are frozen, as
            they have no part in text.
        rollout: a `keras_skd.rollouts.Rollout` or its name, who writes the
            responses. Defaults to `keras_skd.rollouts.Speculative()`.
        preprocessor: a `keras_hub.models.CausalLMPreprocessor`, which
            tokenizes the data. Defaults to `student.preprocessor`. With
            neither, the data comes as token ids.
        sequence_length: int. Number of tokens in a prompt and its response
            together. Defaults to the preprocessor's, or to the data's.
        stop_token_ids: `"auto"`, tuple of ints or `None`, the tokens that end
            a response. Defaults to `"auto"`, those at which KerasHub's own
            `generate` of the teacher or of the student stops, or none without
            a preprocessor.
        seed: int. Seeds every sampler that has no seed of its own: the same
            seed gives the same tokens. Defaults to `None`.
        teacher_sequence_length: int. Number of tokens in a prompt of the
            teacher's own and the response, where the data has
            `"teacher_prompts"`. Defaults to twice `sequence_length`.
        vocabulary_size: int. Number of token ids that mean the same in both
            models. Defaults to the size of the smaller head. Needed only where
            the heads have different sizes and the models have no tokenizers
            to compare.
        long_prompts: what happens to prompts that leave no room for a
            response: `"error"` (the default); `"skip"`, with a warning that
            says how many (in a `tf.data.Dataset`, the remaining rows are
            batched anew; in a `keras.utils.PyDataset`, a batch gets smaller,
            and an empty one is replaced by the next); `"truncate_left"` or
            `"truncate_right"`, which drop tokens from that side (but not the
            start token) until one more fits. The same for
            `"teacher_prompts"`.
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
        vocabulary_size: int | None = None,
        long_prompts: str = "error",
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_models(teacher, student)
        if seed is not None:
            check_integer("seed", seed)
        self.vocabulary_size = shared_vocabulary_size(
            teacher, student, vocabulary_size
        )
        if preprocessor is None:
            preprocessor = student.preprocessor
        # A preprocessor is no part of the compiled model: not tracked.
        self._pack = Packer(
            preprocessor,
            sequence_length,
            teacher_sequence_length,
            {"teacher": teacher, "student": student},
            self.vocabulary_size,
            long_prompts,
        )
        self.teacher = teacher
        self.teacher.trainable = False
        self.student = student
        for name in ("vision_encoder", "audio_encoder"):
            # Text has no gradients for them, only weight decay.
            if getattr(student.backbone, name, None) is not None:
                getattr(student.backbone, name).trainable = False
        self.sequence_length = self._pack.sequence_length
        self.stop_token_ids = resolve_stop_token_ids(
            stop_token_ids,
            teacher,
            student,
            preprocessor,
            self.vocabulary_size,
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
        self._read_layers = None
        self._teacher_lm = CachedCausalLM(teacher)
        self._student_lm = CachedCausalLM(student)
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
        self.loss_function = losses.get(loss)
        if self.loss_function.reduction in ("none", None):
            raise ValueError(
                "`loss` must be reduced to a number to train on. Received: "
                f"{self.loss_function.name} with "
                f"`reduction={self.loss_function.reduction!r}`"
            )
        self._chunked_loss = ChunkedLoss(
            self.loss_function,
            self._teacher_lm,
            self._student_lm,
            loss_chunk_size,
        )
        if hidden_state_loss is not None and not isinstance(
            hidden_state_loss, losses.HiddenStateL1
        ):
            raise TypeError(
                "`hidden_state_loss` must be a "
                "`keras_skd.losses.HiddenStateL1` or `None`. Received: "
                f"{hidden_state_loss!r}"
            )
        self.hidden_state_loss = hidden_state_loss
        self._read_layers = None
        if hidden_state_loss is not None:
            outputs = hidden_state_loss.outputs(
                self.teacher.backbone, self.student.backbone
            )
            models = self._teacher_lm, self._student_lm
            self._read_layers = tuple(
                model.layer_reader(layers)
                for model, layers in zip(models, outputs)
            )
        metrics = [*(metrics or []), *(weighted_metrics or [])]
        super().compile(
            optimizer=optimizer, weighted_metrics=metrics or None, **kwargs
        )

    def call(self, inputs, training=None):
        sequences = inputs["token_ids"], inputs["padding_mask"]
        if self._read_layers is None:
            hidden_states = self._student_lm.hidden_states(
                *sequences, training=training
            )
            outputs = {"hidden_states": hidden_states}
        else:
            _, read = self._read_layers
            hidden_states, *layers = read(*sequences, training=training)
            outputs = {"hidden_states": hidden_states, "layers": layers}
        if self._compile_metrics is not None:
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
        # After speculation, the teacher has read everything already.
        teacher_hidden_states = x.get("teacher_hidden_states")
        if self._read_layers is not None:
            read, _ = self._read_layers
            teacher_hidden_states, *layers = self._read_by_teacher(x, read)
        elif teacher_hidden_states is None and self.loss_function.needs_teacher:
            (teacher_hidden_states,) = self._read_by_teacher(
                x, lambda *args: [self._teacher_lm.hidden_states(*args)]
            )
        loss = self._chunked_loss(
            y_pred["hidden_states"],
            teacher_hidden_states,
            x,
            # The batch at hand was counted already.
            training_step=self.training_step - int(training),
            training=training,
        )
        if self._read_layers is not None:
            mask = ops.cast(x["response_mask"][:, 1:], "int32")
            predicts = ops.pad(mask, [(0, 0), (0, 1)])
            loss = loss + self.hidden_state_loss(
                layers, y_pred["layers"], predicts
            )
        for additional in self.losses:
            loss = loss + ops.sum(ops.cast(additional, loss.dtype))
        return loss

    def _read_by_teacher(self, x, read):
        sequences = x["token_ids"], x["padding_mask"]
        if "teacher_token_ids" not in x:
            return read(*sequences)
        view = TeacherView(x)
        return [
            view.back(states) for states in read(*view.sequences(*sequences))
        ]

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        if self._compile_metrics is not None:
            y, y_pred = x["token_ids"][:, 1:], y_pred["logits"][:, :-1]
            # Keras shows this method a batch of data once, to build with.
            mask = x.get("response_mask", x["padding_mask"])
            sample_weight = ops.cast(mask[:, 1:], "float32")
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

    def train_on_batch(self, x, y=None, sample_weight=None, **kwargs):
        """Trains the student on one batch: a dict, as in `fit`.

        The other arguments and the result are those of
        `keras.Model.train_on_batch`.
        """
        weights = {"sample_weight": sample_weight, **kwargs}
        x = self._pack_batch(x, y, weights)
        self._check_responses(x)
        return super().train_on_batch(x, **kwargs)

    def test_on_batch(self, x, y=None, sample_weight=None, **kwargs):
        """Scores the student on one batch: a dict, as in `evaluate`.

        The other arguments and the result are those of
        `keras.Model.test_on_batch`.
        """
        x = self._pack_batch(x, y, {"sample_weight": sample_weight})
        return super().test_on_batch(x, **kwargs)

    def _pack_batch(self, x, y, weights):
        self._check_weights(weights)
        self._check_targets(y)
        return pack_batch(x, self._pack)

    def predict(self, x, *args, **kwargs):
        """Not available: a distiller is trained, its student predicts."""
        raise NotImplementedError(
            "A `Distiller` has no predictions of its own. Call "
            "`distiller.student.predict(x)` for logits, "
            "`distiller.student.generate(prompts)` or "
            "`distiller.generate(prompts)` for text, or "
            "`distiller.generate_rollout(x)` for what the student trains on. "
            f"Received: x={x!r:.60}"
        )

    predict_on_batch = predict

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
        x = pack_batch(x, self._pack)
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
            inputs: string, list or array of strings, or a dict of them with
                the key `"prompts"`; without a preprocessor, a dict of
                `"token_ids"` and `"padding_mask"`.
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
        inputs, is_single = pack_generate_inputs(inputs, self._pack, max_length)
        x = {k: ops.convert_to_tensor(v) for k, v in inputs.items()}
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
            outputs = outputs[0] if is_single else list(outputs)
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
        self._check_targets(y)
        return prepare(x, self._pack, argument)

    def _check_targets(self, y):
        if y is not None:
            raise ValueError(
                "Distillation takes its targets from the teacher: pass "
                f"responses in `x`, and no `y`. Received: y={y!r}"
            )

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
