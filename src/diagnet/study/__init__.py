"""Studies: many trainings on patient folds, and the tables and pictures that compare them."""
