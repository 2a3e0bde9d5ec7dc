#!/usr/bin/env bash
# All that the paper shows, of a set of images: results, tables, a figure and a page.
#
#     eval/all.sh kodak/ eval/results/kodak uqdm-tiny uqdm-tiny-ctx
#
# LAUNCH="accelerate launch --multi_gpu --num_processes 8" shares the images among
# processes. PICTURES=folder keeps the decoded images there and adds FID, which needs
# 10,000 images. The page shows pictures of the last model. A run that was stopped goes on.
set -euo pipefail
if [ $# -lt 3 ]; then
  echo "usage: $0 IMAGES OUTPUT MODEL..." >&2
  exit 2
fi
images=$1 output=$2
shift 2
programs=$(dirname "$0")
read -ra launch <<< "${LAUNCH:-python}"
pictures=(${PICTURES:+--pictures "$PICTURES"})

"${launch[@]}" "$programs/evaluate.py" "$images" "$@" --output "$output" "${pictures[@]}"
"${launch[@]}" "$programs/other_codecs.py" "$images" --output "$output" "${pictures[@]}"
if [ -n "${PICTURES:-}" ]; then
  python "$programs/realism.py" "$images" "$PICTURES" --output "$output"
fi
python "$programs/figures.py" curves "$output" "$output/curves.svg"
python "$programs/report.py" "$output" "$output/report.html" --images "$images" --model "${!#}"
