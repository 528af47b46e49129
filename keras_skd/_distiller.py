import contextlib

import keras
import keras_hub
from keras import ops

from keras_skd import losses
from keras_skd import rollouts
from keras_skd._backend import RolloutTrainer
from keras_skd._backend import is_first_process
from keras_skd._backend import sum_over_replicas
from keras_skd._checks import check_integer
from keras_skd._compatibility import check_models
from keras_skd._compatibility import has_vocabulary
from keras_skd._compatibility import shared_vocabulary_size
from keras_skd._generation import Generator
from keras_skd._generation import check_finite
from keras_skd._generation import statistics
from keras_skd._metrics import AdditionalMetrics
from keras_skd._metrics import rollout_metrics
from keras_skd._metrics import update_rollout_metrics
from keras_skd._objective import MicroBatches
from keras_skd._objective import Objective
from keras_skd._objective import narrowest
from keras_skd._objective import next_tokens
from keras_skd._objective import split
from keras_skd._preprocessing import Packer
from keras_skd._preprocessing import gather
from keras_skd._preprocessing import pack_batch
from keras_skd._preprocessing import pack_generate_inputs
from keras_skd._preprocessing import prepare
from keras_skd._preview import Preview
from keras_skd._saving import Saveable
from keras_skd._scoring import Scorer
from keras_skd._seeding import is_seed
from keras_skd._stop_tokens import resolve_stop_token_ids
from keras_skd.chat import ChatTemplate
from keras_skd.decoding import CachedCausalLM
from keras_skd.decoding._records import recording
from keras_skd.decoding._stages import ShortFirst


@keras.saving.register_keras_serializable("keras_skd")
class Distiller(Saveable, RolloutTrainer, keras.Model):
    """Distills a big KerasHub causal LM into a small one.

    In every step of `fit`, a rollout writes a response to each prompt of the
    batch, and the student learns the teacher's distribution at each token of
    it. The default rollout is speculative knowledge distillation: the student
    proposes tokens, the teacher replaces the ones outside its top 25. Other
    rollouts and losses give the other published methods.

    The teacher is frozen. The student remains the plain KerasHub model that
    it was, to be saved with `distiller.student.save_to_preset(...)`.

    `keras.distillation.Distiller` compares the outputs of two models on given
    inputs. This one is for language models: the training text is written
    during training, the loss covers the response and neither the prompt nor
    the padding, logits are compared with the next token, in log space and a
    few positions at a time, and no labels are needed.

    Args:
        teacher: a `keras_hub.models.CausalLM`, the model to learn from, or
            `keras_skd.without_lora(student)`, the student's own base. With
            `None`, the student is fine-tuned on the responses of the data
            (SFT), which is how a teacher learns its task.
        student: a `keras_hub.models.CausalLM` with the same tokenizer, the
            model to train. Its encoders of images and sounds are frozen, as
            they have no part in text.
        rollout: a `keras_skd.rollouts.Rollout` or its name, who writes the
            responses. Defaults to `keras_skd.rollouts.Speculative()`, or
            without a teacher to `keras_skd.rollouts.Supervised()`.
        preprocessor: a `keras_hub.models.CausalLMPreprocessor`, which
            tokenizes the data. Defaults to `student.preprocessor`. With
            neither, the data comes as token ids.
        sequence_length: int. Number of tokens in a prompt and its response
            together. Defaults to the preprocessor's, or to the data's.
        teacher_sequence_length: int. Number of tokens in one of the teacher's
            own prompts and the response, where the data has
            `"teacher_prompts"`. Defaults to twice `sequence_length`.
        stop_token_ids: `"auto"`, tuple of ints or `None`, the tokens that end
            a response. Defaults to `"auto"`, those at which KerasHub's own
            `generate` of the teacher or of the student stops, or none without
            a preprocessor.
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
        empty_rows: the handling of rows with an empty response: `"keep"` (the
            default), which trains on the end token alone and warns with the
            number of such rows; `"skip"`, as with `long_prompts`; or
            `"error"`. A row whose prompt has no token is skipped with `"skip"`,
            and otherwise an error.
        columns: dict from the names `"prompts"`, `"responses"`, ... to those of
            the data, such as `{"prompts": "question"}`, where they differ.
            Columns that are not read are ignored, with a warning that names
            them.
        chat_template: a `keras_skd.chat.ChatTemplate`, its name (`"chatml"`,
            `"gemma"`, `"llama3"`, `"phi"`, `"qwen"`) or a template in Jinja,
            which renders `"messages"`. KerasHub presets have no template;
            `keras_skd.chat.ChatTemplate.from_preset` reads the model's own.
            Needs `jinja2`.
        teacher_chat_template: the same for the teacher, whose prompts are then
            rendered from the same messages. Defaults to `None`,
            `chat_template`.
        assistant_turns: `"last"` or `"all"`, the turns of the assistant that
            are trained on, each up to and including its end token. Defaults to
            `"last"`. `"all"` needs `rollout="supervised"`, since other rollouts
            write the last turn.
        seed: int. Seeds every sampler that has no seed of its own: the same
            seed gives the same tokens. Defaults to `None`.
        **kwargs: passed to `keras.Model`, such as `name`.

    Call arguments:
        inputs: dict of `"token_ids"` and `"padding_mask"`, of shape
            `(batch, sequence_length)`.

    Returns, when called, a dict with the student's `"hidden_states"`, of shape
    `(batch, sequence_length, hidden_dim)`: logits are computed inside the
    loss. For logits, call `distiller.student`.

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
    distiller.fit({"prompts": ["Why is the sky blue?"]}, batch_size=8)
    distiller.student.save_to_preset("student")
    ```

    Reference:

    - [Xu et al., 2024](https://arxiv.org/abs/2410.11325)
    """

    # Until `compile` makes its own: none.
    _additional_metrics = AdditionalMetrics()

    def __init__(
        self,
        teacher: keras_hub.models.CausalLM | None,
        student: keras_hub.models.CausalLM,
        rollout: str | rollouts.Rollout | None = None,
        *,
        preprocessor: keras_hub.models.CausalLMPreprocessor | None = None,
        sequence_length: int | None = None,
        teacher_sequence_length: int | None = None,
        stop_token_ids: str | tuple[int, ...] | None = "auto",
        vocabulary_size: int | None = None,
        long_prompts: str = "error",
        empty_rows: str = "keep",
        columns: dict[str, str] | None = None,
        chat_template: str | ChatTemplate | None = None,
        teacher_chat_template: str | ChatTemplate | None = None,
        assistant_turns: str = "last",
        seed: int | None = None,
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
            {"teacher": teacher or student, "student": student},
            self.vocabulary_size,
            long_prompts=long_prompts,
            empty_rows=empty_rows,
            columns=columns,
            chat_template=chat_template,
            teacher_chat_template=teacher_chat_template,
            assistant_turns=assistant_turns,
        )
        self.teacher = teacher
        self.student = student
        if teacher is not None:
            teacher.trainable = False
        _freeze_encoders(student.backbone)
        self._build_preprocessors()
        # As in KerasHub: it decides whether `compile` scales the loss.
        self.dtype_policy = student.dtype_policy
        self.sequence_length = self._pack.sequence_length
        self.stop_token_ids = self._resolve_stop_token_ids(stop_token_ids)
        self.rollout = _get_rollout(rollout, teacher)
        _check_turns(assistant_turns, self.rollout)
        self._seed = seed
        if seed is not None:
            self.rollout.set_seed(seed)
        self._make_state()
        self.built = True

    def _make_state(self):
        """Creates the state that Keras updates in each step, and saves."""
        # The number of batches trained on, for schedules.
        self.training_step = self.add_weight(
            shape=(), dtype="int32", trainable=False, name="training_step"
        )
        self._rollout_variables = self.rollout.variables
        self._rollout_metrics = rollout_metrics(self.rollout.is_speculative)
        self._mean_loss = keras.metrics.Mean(name="mean_loss")
        if self.teacher is not None:
            self._mean_kl = keras.metrics.Mean(name="kl")
        self._compile_for_decoding()
        # Until `compile` makes its own.
        self._objective = Objective(
            None, None, self._teacher_lm, self._student_lm
        )
        self._micro_batches, self._rows_of_update = None, None

    @property
    def preprocessor(self):
        """The `keras_hub.models.CausalLMPreprocessor` of the data."""
        return self._pack.preprocessor

    def compile(
        self,
        optimizer="adam",
        loss: str | losses.DistillationLoss | None = None,
        *,
        loss_weights=None,
        metrics: list | None = None,
        weighted_metrics: list | None = None,
        rollout_metrics: list[str] | None = None,
        hidden_state_loss: losses.HiddenStateL1 | None = None,
        micro_batch_size: int | None = None,
        accumulate_gradients: bool = True,
        loss_chunk_size: int | None = None,
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        jit_compile: bool | str = "auto",
        auto_scale_loss: bool = True,
    ):
        """Configures the distiller for training.

        It discards everything that was compiled before: call it again after
        changing the models, for example with `enable_lora` or `quantize`.

        Args:
            optimizer: a `keras.optimizers.Optimizer` or its name.
            loss: a `keras_skd.losses.DistillationLoss` or its name. Defaults
                to `"forward_kl"`, or without a teacher to `"cross_entropy"`.
            loss_weights: not supported, as there is one loss. For a sum of
                several, see `keras_skd.losses.WeightedSum`.
            metrics: list of Keras metrics of the next token, such as
                `keras_hub.metrics.Perplexity(from_logits=True)`, given the
                tokens of the rollout, the student's logits and the response
                mask. They count no prompt and no padding.
            weighted_metrics: the same as `metrics`.
            rollout_metrics: list of names of more to report, each of which
                takes time or memory only if it is listed. A mean without any
                value (no token by that author, no draft that long) is NaN.

                * `"acceptance_by_draft_position"`: the acceptance rate of the
                  first draft of a turn, the second, ..., as
                  `acceptance_rate_draft_1`, `..._2`, `..._3_4`, `..._5_up`.
                * `"acceptance_by_response_position"`: the acceptance rate of
                  the first tokens of a response and the later ones, as
                  `acceptance_rate_token_1_8`, `..._9_16`, `..._17_up`.
                * `"tokens_per_teacher_pass"`: of the response, for a row of
                  the batch.
                * `"rejected_rank"`: the geometric mean of the rank that a
                  rejected draft has for the teacher.
                * `"kl_by_source"`: the forward KL divergence at tokens by
                  each author, as `kl_student`, `kl_teacher` and `kl_data`,
                  whatever the loss is.
                * `"loss_parts"`: what the loss is the sum of, as
                  `forward_kl_loss` and so on: the losses of a `WeightedSum`
                  times their weights, those of a `BySource`
                  (`student_loss`, ...), and `hidden_state_loss`.

                The last two project both models to the vocabulary once more.
                Defaults to `None`.
            hidden_state_loss: a `keras_skd.losses.HiddenStateL1` to add to the
                loss. Defaults to `None`.
            micro_batch_size: int. How many rows the student learns from at
                a time. The gradients of a batch are added up, and make one
                update: it is the same as without, but for dropout, and takes
                the memory of a small batch. Rows that are written together
                take less time each: let batches have several times as many as
                fit into memory for training. (`DistiLLM2`, which compares the
                rows of a batch, compares those of a micro-batch.) Defaults to
                `None`, all rows.
            accumulate_gradients: bool. Whether the gradients of the
                micro-batches of a batch are added up. If not, each micro-batch
                makes an update of its own: a batch of 32 rows and a
                `micro_batch_size` of 8 make four. The text of the last was
                then written by the student of three updates before, and is no
                longer quite on-policy; `rollout_age` reports the mean number
                of updates in between. Schedules count updates. For one device.
                Defaults to `True`.
            loss_chunk_size: int. How many positions are projected to the
                vocabulary at once: fewer need less memory. Defaults to `None`:
                256, or fewer if that is more than 8 million logits.
            run_eagerly: bool. Whether steps and rollouts run uncompiled, so
                that they can be debugged line by line. Defaults to `False`.
            steps_per_execution: see `keras.Model.compile`.
            jit_compile: see `keras.Model.compile`.
            auto_scale_loss: see `keras.Model.compile`.

        Raises:
            TypeError: if an argument has the wrong type.
            ValueError: if an argument is out of its range. The distiller is
                then what it was before.
        """
        _check_no_loss_weights(loss_weights)
        teacher, student = self._cached_models()
        updates = micro_batch_size, accumulate_gradients
        self._check_micro_batches(*updates, student)
        additional_metrics = AdditionalMetrics(
            rollout_metrics,
            self.rollout,
            self.sequence_length,
            with_age=not accumulate_gradients,
        )
        objective = Objective(
            loss,
            hidden_state_loss,
            teacher,
            student,
            loss_chunk_size,
            additional_metrics.with_parts,
            additional_metrics.with_kl,
        )
        additional_metrics.name_parts(objective.part_names)
        check_integer("steps_per_execution", steps_per_execution, minimum=1)
        metrics = [*(metrics or []), *(weighted_metrics or [])]
        super().compile(
            optimizer=keras.optimizers.get(optimizer),
            weighted_metrics=metrics or None,
            run_eagerly=run_eagerly,
            steps_per_execution=steps_per_execution,
            jit_compile=jit_compile,
            auto_scale_loss=auto_scale_loss,
        )
        self._build_token_metrics()
        objective.check_accumulation(self.optimizer)
        self._objective = objective
        self._set_micro_batches(*updates)
        self._additional_metrics = additional_metrics
        self._auto_scale_loss = auto_scale_loss
        self._compile_for_decoding()

    @property
    def metrics(self):
        # Not tracked: `compile` replaces them.
        return [*super().metrics, *self._additional_metrics.metrics]

    def _cached_models(self):
        return tuple(
            model and CachedCausalLM(model, self.vocabulary_size)
            for model in (self.teacher, self.student)
        )

    def _compile_for_decoding(self):
        """Discards the compiled functions, and makes new ones."""
        self._teacher_lm, self._student_lm = self._cached_models()
        self.rollout_function = self.make_rollout_function(self.rollout)
        self._generate = Generator(self.make_rollout_function, self._seed)
        self._preview = Preview(self.rollout, self._seed)
        self._scorer = Scorer(
            self.teacher and self._generate_lossless, self._seed
        )

    def _generate_lossless(self, batch):
        return self._generate(batch, "random", self.stop_token_ids)

    def call(self, inputs, training=None):
        if not isinstance(inputs, dict):
            raise TypeError(
                "A `Distiller` is called by `fit` and `evaluate`, with a dict "
                "of packed rows. For logits, call `distiller.student` with "
                f'"token_ids" and "padding_mask". Received: {inputs!r:.60} of '
                f"type {type(inputs).__name__}"
            )
        if training and self._micro_batches is not None:
            return {}  # `compute_loss` reads the rows.
        return self._read_student(inputs, training)

    def _read_student(self, inputs, training):
        outputs = self._objective.read_student(
            inputs["token_ids"], inputs["padding_mask"], training=training
        )
        if self._compile_metrics is not None:
            outputs["logits"] = self._student_lm.logits(
                outputs["hidden_states"]
            )
        return outputs

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        if training and self._micro_batches is not None:
            metrics = self._compile_metrics
            metric_variables = [] if metrics is None else metrics.variables
            seeds = filter(is_seed, self.student.variables)  # Of dropout.
            loss, measured = self._micro_batches(
                {**x, "loss_weights": self._objective.weights(x)},
                self._objective.nothing_measured(),
                [*seeds, *metric_variables],
            )
        else:
            step = ops.convert_to_tensor(self.training_step)
            loss, measured = self._objective(y_pred, x, step, training)
        for additional in self.losses:
            additional = self._aggregate_additional_loss(additional)
            loss = loss + ops.cast(additional, loss.dtype)
        # Keras trains on a replica's share of the loss. The metrics are of the
        # whole batch, with the weight of the replica's rows.
        means = {k: v for k, v in measured.items() if k in ("mean_kl", "parts")}
        measured |= sum_over_replicas({"loss": loss, **means})
        if "mean_kl" in measured:
            self._mean_kl.update_state(
                measured["mean_kl"], ops.shape(x["token_ids"])[0]
            )
        weight = self._objective.batch_weight(x)
        self._mean_loss.update_state(measured["loss"], weight)
        self._additional_metrics.update_of_loss(measured, weight)
        return loss

    def get_metrics_result(self):
        logs = super().get_metrics_result()
        # Keras' own mean counts rows, not tokens.
        logs["loss"] = logs.pop("mean_loss")
        return logs

    def _check_micro_batches(self, size, accumulate_gradients, student):
        _check_micro_batch_size(size, accumulate_gradients, student)
        if not accumulate_gradients and self.is_distributed():
            raise ValueError(
                "`accumulate_gradients=False` is for one device: an update of "
                "several is of the whole batch. Pass batches of fewer rows. "
                f"Received: accumulate_gradients={accumulate_gradients}"
            )

    def _set_micro_batches(self, size, accumulate_gradients):
        self._micro_batches = None
        self._rows_of_update = None if accumulate_gradients else size
        if size is None or not accumulate_gradients:
            return
        models = [v for model in self._models() for v in model.variables]
        self._micro_batches = MicroBatches(
            self._loss_of_micro_batch, size, [*models, self.training_step]
        )

    def _loss_of_micro_batch(self, x, share):
        outputs = self._read_student(x, training=True)
        self._update_token_metrics(x, outputs)
        step = ops.convert_to_tensor(self.training_step)
        return self._objective(outputs, x, step, share=share)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        if y_pred:
            self._update_token_metrics(x, y_pred)
        return self.get_metrics_result()

    def _build_token_metrics(self):
        """Makes the variables of the metrics of the next token.

        Keras makes them in the first step, which on TensorFlow is then traced
        twice.
        """
        if self._compile_metrics is not None:
            self._compile_metrics.build(
                keras.KerasTensor((None, None), "int32"),
                keras.KerasTensor((None, None, self.vocabulary_size)),
            )

    def _update_token_metrics(self, x, outputs):
        """Updates the metrics of the next token, those of Keras' `compile`."""
        if self._compile_metrics is None:
            return
        targets = next_tokens(x)
        # Keras shows this method a batch of data once, to build with.
        mask = targets.get("response_mask", targets["padding_mask"])
        self._compile_metrics.update_state(
            targets["token_ids"], outputs["logits"], ops.cast(mask, "float32")
        )

    # The train steps in `_backend/` call the following methods.

    def batch_of(self, data) -> dict:
        """The dict of tensors that Keras wraps up for its steps."""
        batch, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        return batch

    def _is_written(self, batch) -> bool:
        """Whether a rollout has written the batch."""
        return "sources" in batch

    def has_responses(self, batch) -> bool:
        """Whether the responses to score are given, and none is written."""
        return "response_mask" in batch and not self._is_written(batch)

    def write(self, batch, rollout) -> dict:
        """Lets a rollout write a batch. Can be compiled."""
        with recording(self._additional_metrics.records):
            return rollout(
                batch,
                self._student_lm,
                self._teacher_lm,
                self.stop_token_ids,
                ops.convert_to_tensor(self.training_step),
            )

    def _short_first(self, run, rollout) -> ShortFirst:
        """Runs a compiled rollout, and compiles as little of it as needed."""
        return ShortFirst(run, rollout._longest_draft)

    def _parts(self, batch, is_training) -> list:
        """What a written batch is read as: its updates, or all at once.

        Without most of the columns that are all padding.
        """
        parts = [batch]
        if is_training and self._rows_of_update is not None:
            parts = split(batch, self._rows_of_update)
        return [narrowest(part) for part in parts]

    def take_responses(self, batch) -> dict:
        """The batch with the responses that it has."""
        return self.write(batch, rollouts.Supervised())

    def measure(self, rollout):
        """Adds a written batch to the metrics of rollouts."""
        update_rollout_metrics(self._rollout_metrics, rollout)
        self._additional_metrics.update_of_rollout(rollout)

    def without_kl(self, logs) -> dict:
        """The logs without `kl`, which training does not measure."""
        return {k: v for k, v in logs.items() if k != "kl"}

    def without_rollout_metrics(self, logs) -> dict:
        """The logs of a batch that no rollout wrote."""
        names = [
            *(metric.name for metric in self._rollout_metrics),
            *self._additional_metrics.rollout_names,
        ]
        return {k: v for k, v in logs.items() if k not in names}

    def fit(
        self,
        x=None,
        y=None,
        batch_size: int | None = None,
        epochs: int = 1,
        *,
        verbose="auto",
        callbacks=None,
        validation_split: float = 0.0,
        validation_data=None,
        shuffle: bool = True,
        class_weight=None,
        sample_weight=None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int = 1,
    ):
        """Trains the student.

        Args:
            x: the prompts, and the responses where the rollout needs them.
                Either whole columns: a dict of `"prompts"` and `"responses"`
                (lists or arrays of strings), a list of dicts with one row
                each, a `datasets.Dataset`, a `pandas.DataFrame`, or prompts
                alone, as a list of strings. Or batches, dicts of columns: a
                `tf.data.Dataset`, a `keras.utils.PyDataset`, a
                `torch.utils.data.DataLoader`, or a generator or another
                iterable; one without an end needs `steps_per_epoch`.
                `"teacher_prompts"` are what the teacher reads in place of the
                prompts: with a document, a hint or the answer in it.
                `"messages"`, lists of dicts of `"role"` and `"content"`, are
                chats, and take the place of prompts and responses (see
                `chat_template`). Without a preprocessor, `"token_ids"`,
                `"padding_mask"` and `"response_mask"`, of shape
                `(batch, sequence_length)`, in place of the strings, and
                `"teacher_token_ids"` and `"teacher_padding_mask"`.
            y: not supported: the targets are the teacher's.
            validation_data: data like `x`. With responses, the student is
                scored on those, nothing is sampled, and `val_loss` can be
                compared between epochs and between rollouts. Without, the
                rollout writes the responses. `val_kl` is the same measure for
                every loss: the forward KL divergence from the teacher, in
                nats, as of `keras_skd.losses.ForwardKL()`.
            class_weight: not supported.
            sample_weight: not supported.

        The other arguments are those of `keras.Model.fit`.

        Returns:
            A `keras.callbacks.History` of `loss`, `acceptance_rate` (accepted
            over tested drafts), `teacher_token_fraction` (of the response) and
            `response_length` (in tokens).
        """
        weights = {
            "class_weight": class_weight,
            "sample_weight": sample_weight,
        }
        self._check_trainable()
        x, keys = self._prepare("x", x, y, **weights)
        self._check_responses(keys)
        if validation_data is not None:
            validation_data, _ = self._prepare(
                "validation_data", validation_data
            )
        is_new = self.train_function is None
        if verbose != 0 and is_new and is_first_process():
            self._announce_compilation()
        with self._unharmed():
            return super().fit(
                x,
                batch_size=batch_size,
                epochs=epochs,
                verbose=verbose,
                callbacks=callbacks,
                validation_split=validation_split,
                validation_data=validation_data,
                shuffle=shuffle,
                initial_epoch=initial_epoch,
                steps_per_epoch=steps_per_epoch,
                validation_steps=validation_steps,
                validation_batch_size=validation_batch_size,
                validation_freq=validation_freq,
            )

    def evaluate(
        self,
        x=None,
        y=None,
        batch_size: int | None = None,
        *,
        verbose="auto",
        sample_weight=None,
        steps: int | None = None,
        callbacks=None,
        return_dict: bool = False,
        **kwargs,
    ):
        """Scores the student.

        Args:
            x: data as in `fit`. With responses, the student is scored on
                those; without, the rollout writes them.
            y: not supported: the targets are the teacher's.
            sample_weight: not supported.

        The other arguments are those of `keras.Model.evaluate`.

        Returns:
            As `keras.Model.evaluate`: `loss` and `kl`, the forward KL
            divergence from the teacher (see `fit`), and of a rollout its
            metrics.
        """
        # Keras' `fit` has prepared its validation data already.
        if not kwargs.get("_use_cached_eval_dataset", False):
            x, _ = self._prepare("x", x, y, sample_weight=sample_weight)
        with self._unharmed():
            return super().evaluate(
                x,
                batch_size=batch_size,
                verbose=verbose,
                steps=steps,
                callbacks=callbacks,
                return_dict=return_dict,
                **kwargs,
            )

    def train_on_batch(
        self,
        x,
        y=None,
        sample_weight=None,
        class_weight=None,
        *,
        return_dict: bool = False,
    ):
        """Trains the student on one batch: a dict, as in `fit`.

        The arguments and the result are those of
        `keras.Model.train_on_batch`.
        """
        _check_no_targets(
            y, sample_weight=sample_weight, class_weight=class_weight
        )
        self._check_trainable()
        x = pack_batch(x, self._pack)
        self._check_responses(x)
        with self._unharmed():
            return super().train_on_batch(x, return_dict=return_dict)

    def test_on_batch(
        self, x, y=None, sample_weight=None, *, return_dict: bool = False
    ):
        """Scores the student on one batch: a dict, as in `evaluate`.

        The arguments and the result are those of `keras.Model.test_on_batch`.
        """
        _check_no_targets(y, sample_weight=sample_weight)
        x = pack_batch(x, self._pack)
        with self._unharmed():
            return super().test_on_batch(x, return_dict=return_dict)

    def predict(self, x, *args, **kwargs):
        """Not available: a distiller trains, its student predicts."""
        raise NotImplementedError(
            "A `Distiller` has no predictions of its own. Call "
            "`distiller.student.predict(x)` for logits, "
            "`distiller.student.generate(prompts)` or "
            "`distiller.generate(prompts)` for text, or "
            "`distiller.generate_rollout(x)` for what the student trains on. "
            f"Received: x={x!r:.60}"
        )

    predict_on_batch = predict

    def generate_rollout(
        self,
        x,
        batch_size: int = 32,
        *,
        return_teacher_scores: bool = False,
    ) -> dict:
        """Writes what the student would train on.

        It uses its own random numbers, and does not affect the training.

        Args:
            x: data as in `fit`, which come to an end.
            batch_size: int. How many rows are written at once. Defaults to
                `32`.
            return_teacher_scores: bool. Whether to add the teacher's rank and
                probability of each token of the responses. Defaults to
                `False`.

        Returns:
            dict of NumPy arrays of shape `(rows, sequence_length)`, with the
            rows of all batches:
            `"token_ids"` (int32), `"padding_mask"` (bool), `"response_mask"`
            (bool), `"sources"` (int32, the `keras_skd.Source` of each token)
            and, of a speculative rollout, `"draft_mask"` (bool): where a draft
            was tested, whether accepted or replaced. With
            `return_teacher_scores`, `"teacher_ranks"` (int32, from 1 for its
            likeliest token) and `"teacher_probabilities"` (float32), both from
            its raw logits, and zero outside of the responses.

        Example:

        ```python
        rollout = distiller.generate_rollout({"prompts": ["Hello"]})
        by_teacher = rollout["sources"] == keras_skd.Source.TEACHER
        tokenizer.detokenize(rollout["token_ids"][by_teacher])
        ```
        """
        check_integer("batch_size", batch_size, minimum=1)
        x = gather(x, self._pack)
        self._check_responses(x)
        self.sync_state()

        def write_and_score(batch):
            written = self.rollout_function(batch)
            return {**written, **self._objective.teacher_scores(written)}

        return self._preview(
            write_and_score if return_teacher_scores else self.rollout_function,
            x,
            batch_size,
        )

    def generate(
        self,
        inputs,
        max_length: int | None = None,
        stop_token_ids: str | tuple[int, ...] | None = "auto",
        strip_prompt: bool = False,
        *,
        sampler: str | keras_hub.samplers.Sampler = "random",
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
            stop_token_ids: `"auto"`, tuple of ints or `None`, the tokens that
                end a text. Defaults to `"auto"`, those of the distiller.
            strip_prompt: bool. Whether to leave the prompts out.
            sampler: `"random"`, `"greedy"`, `"top_k"`, `"top_p"` or such a
                `keras_hub.samplers.Sampler`, how the teacher samples.
            return_statistics: bool. Whether to return, beside the text, a dict
                of `"acceptance_rate"` and `"tokens_per_teacher_call"`.

        Returns:
            String or list of strings, or without a preprocessor a dict of
            NumPy arrays `"token_ids"` and `"padding_mask"`; with
            `return_statistics`, a pair of it and the statistics.

        Raises:
            ValueError: if there is no teacher, or it has diverged: its states
                are NaN.

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
        if self.teacher is None:
            raise ValueError(
                "`generate` writes the teacher's text, and there is no "
                "teacher. Call `distiller.student.generate(inputs)`."
            )
        if stop_token_ids == "auto":
            stop_token_ids = self.stop_token_ids
        else:
            stop_token_ids = self._resolve_stop_token_ids(stop_token_ids)
        batch, is_single = pack_generate_inputs(inputs, self._pack, max_length)
        batch = {k: ops.convert_to_tensor(v) for k, v in batch.items()}
        rollout = self._generate(batch, sampler, stop_token_ids)
        rollout = {k: ops.convert_to_numpy(v) for k, v in rollout.items()}
        check_finite(rollout)
        kept = "response_mask" if strip_prompt else "padding_mask"
        outputs = {
            "token_ids": rollout["token_ids"],
            "padding_mask": rollout[kept],
        }
        if self.preprocessor is not None:
            outputs = self.preprocessor.generate_postprocess(outputs)
            outputs = outputs[0] if is_single else list(outputs)
        if return_statistics:
            return outputs, statistics(rollout)
        return outputs

    def score(
        self,
        x,
        metrics: str | list = "exact_match",
        *,
        sampler: str | keras_hub.samplers.Sampler = "greedy",
        max_length: int | None = None,
        batch_size: int = 32,
    ) -> dict:
        """Scores the student's own text, and how well it drafts.

        The scores do not depend on the rollout or the loss, so that students
        that were trained with different ones can be compared.

        Args:
            x: data with prompts and responses, as in `fit`. The references are
                the responses as they are trained on, truncated to their rows.
            metrics: list, or one, of `"exact_match"`, Keras metrics of strings
                such as `keras_hub.metrics.RougeL()`, and functions from the
                lists of references and responses to a number or a dict of
                numbers. Defaults to `"exact_match"`.
            sampler: a `keras_hub.samplers.Sampler` or its name, how the student
                writes. Defaults to `"greedy"`.
            max_length: int. Number of tokens in a prompt and what is written.
                Defaults to the length of the data's rows.
            batch_size: int. Defaults to `32`.

        Returns:
            dict of floats: those of `evaluate` on the given responses, with
            `"kl"`; the metrics, by name, of what the student writes; and
            `"acceptance_rate"` and `"tokens_per_teacher_call"` of lossless
            speculative decoding, as in `generate`, with the student as drafter
            (not without a teacher).

        Raises:
            ValueError: if there is no preprocessor, or the data has no
                responses.

        Example:

        ```python
        distiller.compile(loss="forward_kl")
        scores = distiller.score(
            {"prompts": prompts, "responses": responses},
            metrics=["exact_match", keras_hub.metrics.Bleu()],
        )
        ```
        """
        with self._unharmed():
            return self._scorer(
                self,
                super().evaluate,
                x,
                metrics,
                sampler,
                max_length,
                batch_size,
            )

    @contextlib.contextmanager
    def _unharmed(self):
        """Writes Keras' state to the models after an error or interrupt.

        They have the weights of the last complete step then, and can be used
        and saved.
        """
        try:
            yield
        except BaseException:
            self.sync_state()
            raise

    def _announce_compilation(self):
        """Explains why the first step is slow, which would look like a hang."""
        num_layers = sum(
            getattr(model.backbone, "num_layers", 0) for model in self._models()
        )
        if not num_layers or self.run_eagerly:
            return
        seconds = self.compile_seconds_per_layer * num_layers
        print(
            f"The first step compiles {num_layers} layers, once: about "
            f"{seconds:.0f} s on a CPU.",
            flush=True,
        )

    def _models(self):
        return [m for m in (self.teacher, self.student) if m is not None]

    def _build_preprocessors(self):
        """Builds the preprocessors, so that Keras does not need to.

        Keras would take a batch to build them. On JAX, that batch would remain
        in the queue of a `PyDataset` with workers: `fit` would train on it
        twice, and leave out a different one.
        """
        for preprocessor in {model.preprocessor for model in self._models()}:
            if preprocessor is None:
                continue
            if not has_vocabulary(preprocessor.tokenizer):
                continue  # It comes with the file that is being loaded.
            # This creates the packer, which is a layer too.
            if not preprocessor.built:
                preprocessor.build(None)
            for layer in preprocessor._flatten_layers():
                layer.built = True

    def _resolve_stop_token_ids(self, stop_token_ids):
        ids = resolve_stop_token_ids(
            stop_token_ids,
            self.teacher,
            self.student,
            self.preprocessor,
            self.vocabulary_size,
        )
        if isinstance(stop_token_ids, str):
            # "auto". A turn ends where its template says so.
            ids = dict.fromkeys([*ids, *self._pack.chats.end_of_turn_ids])
        return tuple(ids)

    def _prepare(self, argument, x, y=None, **weights):
        _check_no_targets(y, **weights)
        return prepare(x, self._pack, argument)

    def _check_trainable(self):
        if not self.student.trainable_variables:
            raise ValueError(
                "The student has no trainable weights: there is nothing to "
                "train. Set `student.trainable = True`, such as for a model "
                "that was a teacher before."
            )

    def _check_responses(self, keys):
        if self.rollout.needs_responses and "response_mask" not in keys:
            raise ValueError(
                f"`rollout={type(self.rollout).__name__}` takes the responses "
                'from the data, and the data has no "responses" (or '
                '"response_mask", for token ids). Add them, or choose a '
                "rollout that writes its own."
            )


def _get_rollout(rollout, teacher):
    if rollout is None:
        rollout = "supervised" if teacher is None else "speculative"
    rollout = rollouts.get(rollout)
    if teacher is None and rollout.needs_teacher:
        raise ValueError(
            "This rollout needs a teacher. Without one, use "
            "`rollout='supervised'`, which takes the responses from the data. "
            f"Received: teacher=None, rollout={rollout!r}"
        )
    return rollout


def _freeze_encoders(backbone):
    """Freezes what reads images and sounds: text gives it no gradients."""
    for name in ("vision_encoder", "audio_encoder"):
        # Weight decay would change it all the same.
        if getattr(backbone, name, None) is not None:
            getattr(backbone, name).trainable = False


def _check_no_loss_weights(loss_weights):
    if loss_weights is not None:
        raise ValueError(
            "`loss_weights` has no meaning for the one loss of a distiller. "
            "For a weighted sum of several losses, pass "
            "`loss=keras_skd.losses.WeightedSum(losses, weights)`. "
            f"Received: loss_weights={loss_weights!r}"
        )


def _check_micro_batch_size(size, accumulate_gradients, student):
    if size is None and not accumulate_gradients:
        raise ValueError(
            "`accumulate_gradients=False` lets each micro-batch make an "
            "update: say how many rows it has, with `micro_batch_size`. "
            "Received: micro_batch_size=None"
        )
    if size is None:
        return
    check_integer("micro_batch_size", size, minimum=1)
    if accumulate_gradients and student.compute_dtype == "float16":
        raise ValueError(
            "`micro_batch_size` needs a student whose gradients do not "
            "underflow: use the dtype policy 'mixed_bfloat16'. Received: "
            f"micro_batch_size={size}, and a student in float16"
        )


def _check_turns(assistant_turns, rollout):
    if assistant_turns == "all" and not isinstance(
        rollout, rollouts.Supervised
    ):
        raise ValueError(
            '`assistant_turns="all"` needs `rollout="supervised"`: other '
            "rollouts write the last turn, after the earlier ones as they are. "
            f"Received: rollout={rollout!r}"
        )


def _check_no_targets(y, **weights):
    if y is not None:
        raise ValueError(
            "Distillation takes its targets from the teacher: pass responses "
            f"in `x`, and no `y`. Received: y={y!r}"
        )
    for name, value in weights.items():
        if value is not None:
            raise ValueError(
                f"`{name}` has no place in distillation: every token of a "
                "response counts once, unless `source_weights` of the loss "
                f"say otherwise. Received: {name}={value!r}"
            )
