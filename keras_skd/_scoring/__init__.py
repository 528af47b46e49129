"""Scores of the student's own text."""

from keras_skd._scoring.scorer import Scorer
from keras_skd._scoring.student_text import StudentText
from keras_skd._scoring.text_metrics import check_metrics
from keras_skd._scoring.text_metrics import score_texts
