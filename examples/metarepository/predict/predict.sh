#!/usr/bin/env bash
# What the metarepository's run.sh calls in the container:
#   predict.sh EXAMS.pkl IMAGES PREDICTIONS.csv NAME DEVICE PREPROCESSED
# The boxes of the masses lie in IMAGES/boxes.csv: see README.md. RESEARCH USE ONLY.
set -euo pipefail
EXAMS=$1
IMAGES=$2
PREDICTIONS=$3
PREPROCESSED=$6
BOXES="boxes.csv"
RUN=""
PYTHON="python"

here=$(cd "$(dirname "$0")" && pwd)
"$PYTHON" "$here/tables.py" marked "$EXAMS" "$IMAGES" "$IMAGES/$BOXES" "$PREPROCESSED/marked.csv"
# Exit code 3: some masses were refused, and the others scored.
"$PYTHON" -m diagnet.cli predict ${RUN:+"$RUN"} "$PREPROCESSED/marked.csv" \
  --format csv --out "$PREPROCESSED/scores.csv" >"$PREPROCESSED/predict.log" || [ $? = 3 ]
"$PYTHON" "$here/tables.py" predictions "$EXAMS" "$IMAGES" "$PREPROCESSED/scores.csv" "$PREDICTIONS"
