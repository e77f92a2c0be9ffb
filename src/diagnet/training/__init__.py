"""Training a network on classification loss + lambda x signed graph loss (Eq. 6): the loop and what it needs."""

from diagnet.training.loop import train as train
from diagnet.training.state import TrainingSettings as TrainingSettings
from diagnet.training.state import TrainingState as TrainingState
from diagnet.training.state import start as start
