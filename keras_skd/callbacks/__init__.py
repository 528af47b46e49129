"""Callbacks for `Distiller.fit`."""

from keras_skd.callbacks._backup_and_restore import BackupAndRestore
from keras_skd.callbacks._generation_metrics import GenerationMetrics
from keras_skd.callbacks._json_lines import JSONLinesLogger
from keras_skd.callbacks._rollout_logger import RolloutLogger
from keras_skd.callbacks._save_best_student import SaveBestStudent
