"""How good scores are: figures with intervals by patient, calibration, paired differences, abstention."""

from diagnet.evaluation.figures import EvaluationSettings as EvaluationSettings
from diagnet.evaluation.figures import evaluate as evaluate
