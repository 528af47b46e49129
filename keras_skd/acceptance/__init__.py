"""Acceptance rules decide which drafted tokens the teacher accepts."""

from keras_skd.acceptance._acceptance_rule import AcceptanceRule
from keras_skd.acceptance._acceptance_rule import DistributionRule
from keras_skd.acceptance._acceptance_rule import TeacherRule
from keras_skd.acceptance._acceptance_rule import deserialize
from keras_skd.acceptance._acceptance_rule import get
from keras_skd.acceptance._acceptance_rule import serialize
from keras_skd.acceptance._distribution_rules import Interpolated
from keras_skd.acceptance._distribution_rules import Lossless
from keras_skd.acceptance._teacher_rules import ProbabilityFloor
from keras_skd.acceptance._teacher_rules import TopK
from keras_skd.acceptance._teacher_rules import TopP
from keras_skd.acceptance._teacher_rules import Typical
