import keras
import tensorflow as tf

from keras_skd._backend.skipping import take
from keras_skd._backend.stateful_trainer import StatefulTrainer
from keras_skd._backend.tensorflow import replicas
from keras_skd._backend.tensorflow.rollout_function import RolloutFunction

# Keras' callbacks that write the logs, and do not read the state.
_LOGGERS = (
    keras.callbacks.CSVLogger,
    keras.callbacks.RemoteMonitor,
    keras.callbacks.TensorBoard,
)


class RolloutTrainer(StatefulTrainer):
    """The train step with rollouts for TensorFlow.

    `fit` and `evaluate` run the rollout before the step, compiled by itself:
    the longest row then says which columns the step need not read. Under a
    `tf.distribute.Strategy`, each replica runs the whole step on its rows, the
    rollout included.
    """

    # Measured on two cores, for the message about the first step.
    compile_seconds_per_layer = 1.0

    def fit(self, *args, verbose="auto", callbacks=None, **kwargs):
        if not replicas.is_first_process():
            verbose = 0
            callbacks = [
                callback
                for callback in tf.nest.flatten(callbacks or [])
                if not getattr(
                    callback,
                    "first_process_only",
                    isinstance(callback, _LOGGERS),
                )
            ]
        return super().fit(
            *args, verbose=verbose, callbacks=callbacks, **kwargs
        )

    def evaluate(self, *args, verbose="auto", **kwargs):
        if not replicas.is_first_process():
            verbose = 0
        return super().evaluate(*args, verbose=verbose, **kwargs)

    def make_train_function(self, force=False):
        if self.distribute_strategy.num_replicas_in_sync > 1:
            _check_accumulation(self.optimizer)
        # TensorFlow traces and compiles a function twice if it makes variables.
        self._build_optimizer()
        super().make_train_function(force)

    def _build_optimizer(self):
        with self.distribute_strategy.scope():
            super()._build_optimizer()

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Keras takes the mean of the replicas' data, which masks do not have.
        if iterator is not None and self._distribute_strategy is not None:
            _, _, batches = next(iter(iterator))
            local = self.distribute_strategy.experimental_local_results
            data_batch = tf.nest.map_structure(
                lambda x: local(x)[0], next(batches)
            )
        super()._maybe_symbolic_build(data_batch=data_batch)

    def skip(self, iterator):
        take(iterator, self.steps_per_execution)
        return super().skip(iterator)

    def train_step(self, data):
        # Without the dependency, the step would be counted once more when the
        # iterator has ended, since counting does not need the data.
        with tf.control_dependencies([*self.batch_of(data).values()]):
            return self._on_replica(super().train_step, data)

    def test_step(self, data):
        return self._on_replica(super().test_step, data)

    def _on_replica(self, step, data):
        """A step in one of several replicas, or on the one device."""
        if self.distribute_strategy.num_replicas_in_sync == 1:
            return step(data)
        states = self.rollout.variables
        with replicas.own_seeds(self.seeds_of_replica()):
            logs = step(data)
        # How often drafts are accepted: the seeds are equal by now.
        replicas.average([v for v in states if "float" in v.dtype])
        # Keras takes means over replicas, and over the first axis on several
        # machines. The logs of all are not such means.
        return {name: tf.zeros((1,)) for name in logs}

    def _make_function(self, step_function):
        """Makes Keras' step function, separately for each sequence length.

        A rollout must know the length when it is traced, but Keras traces
        batches of different lengths once, with an unknown length.
        """
        self._check_scope()
        is_training = step_function == self.train_step
        make = super()._make_function
        of_one_length, by_length = make(step_function), {}

        def function(iterator):
            on_replicas = self.distribute_strategy.num_replicas_in_sync > 1
            # Keras 3.15 fails at a loop of several steps on several devices.
            if on_replicas and self.steps_per_execution == 1:
                lengths = _lengths(getattr(iterator, "element_spec", ()))
                if None not in lengths:
                    return self._of_all_replicas(of_one_length(iterator))
            outputs = None
            for _ in range(self.steps_per_execution):
                data = next(iterator, None)
                if data is None:
                    break
                parts = [data]
                if not on_replicas:
                    batch = self.batch_of(data)
                    parts = self.write_parts(batch, is_training)
                    parts = [(part,) for part in parts]
                for part in parts:
                    lengths = _lengths(
                        tf.nest.map_structure(tf.type_spec_from_value, part)
                    )
                    if lengths not in by_length:
                        by_length[lengths] = make(step_function)
                    outputs = by_length[lengths](iter([part]))
            if outputs is None:
                raise StopIteration
            return self._of_all_replicas(outputs)

        return function

    def _check_scope(self):
        created_in_scope = (
            self.distribute_strategy.extended.variable_created_in_scope
        )
        optimizer = self.optimizer.variables if self.optimizer else []
        for variable in (*self.variables, *optimizer):
            if not created_in_scope(variable.value):
                raise ValueError(
                    "Make the models, the rollout, the optimizer and the "
                    "`Distiller` under one `tf.distribute` strategy, and call "
                    "`compile` there: `with strategy.scope(): ...`. Received: "
                    f"{variable.path!r}, which was not made under that of the "
                    "`Distiller`"
                )

    def _of_all_replicas(self, logs):
        """Fills in the results, of which each replica knows a part."""
        strategy = self.distribute_strategy
        if strategy.num_replicas_in_sync == 1:
            return logs
        with strategy.scope():
            results = self.get_metrics_result()
        return {name: results[name] for name in logs}

    def is_distributed(self):
        return self.distribute_strategy.num_replicas_in_sync > 1

    def make_rollout_function(self, rollout):
        return RolloutFunction(self, rollout)


def _check_accumulation(optimizer):
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    steps = optimizer.gradient_accumulation_steps
    if steps:
        raise ValueError(
            "Keras' optimizers cannot accumulate gradients on several devices: "
            "they would sum them in a branch, which `tf.distribute` does not "
            "support. Pass an optimizer without `gradient_accumulation_steps`, "
            "and a larger batch with `compile(micro_batch_size=...)`. "
            f"Received: gradient_accumulation_steps={steps}"
        )


def _lengths(element_spec):
    """The number of columns of each tensor of a batch, `None` if unknown."""
    specs = tf.nest.flatten(element_spec, expand_composites=True)
    return tuple(spec.shape[1] for spec in specs if spec.shape.rank == 2)
