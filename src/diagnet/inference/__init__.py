"""A finished run at work: a file and its marked masses in, scores with their reasons out."""

from diagnet.inference.model import Model as Model
from diagnet.inference.predictor import Predictor as Predictor
from diagnet.inference.predictor import load_model as load_model
