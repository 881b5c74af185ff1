#!/bin/bash
# The study of correlation: a MobileNetV2-style and a ResNet-style net, each dynamic and static by one recipe, on CIFAR-10.
# bash bench/study.sh DYNET DATA OUT [NET:SEED..]
# DYNET is the command, DATA the ImageFolder of CIFAR-10 (train, test), OUT the folder of the runs. Each NET:SEED trains a net and
# its static twin, and analyses the two on 1,000 test images; `study.py` makes the tables and figures. Runs that are finished are skipped, and begun ones go on; several calls may share OUT.
set -euo pipefail
[ $# -ge 3 ] || { echo "usage: bash bench/study.sh DYNET DATA OUT [NET:SEED..]" >&2; exit 2; }
dynet=$1; data=$2; out=$3; shift 3
[ $# -gt 0 ] || set -- resnet18:0 mobilenet_v2:0 resnet18:1 mobilenet_v2:1 resnet18:2 mobilenet_v2:2
# Narrow nets, that many seeds may fit: images of 32 x 32 with the nets' own stems.
declare -A width=([resnet18]=0.125 [mobilenet_v2]=0.25)
# A new predictor's softmax at temperature 1, or sigmoid, has a gain near 1, and MobileNetV2 has 51 of them in a row: gradients explode, and
# with SGD at 0.1 (NaN in the first epoch), 0.05 and 0.02 nothing was learnt. From temperature 30 it learns, as Chen et al. (2020) do it.
mkdir -p "$out"
for one in "$@"; do
  net=${one%%:*}; seed=${one##*:}; name=$net-seed-$seed
  exec {lock}> "$out/$name.lock"
  # Another call is at it.
  if ! flock -n "$lock"; then exec {lock}>&-; continue; fi
  if [ -e "$out/$name/config.toml" ]; then
    "$dynet" train --twin --resume "$name" --runs "$out" --json >> "$out/$name.jsonl"
  else
    "$dynet" train --twin --data "$data" --runs "$out" --name "$name" --seed "$seed" --epochs 8 --model "$net" \
      --width "${width[$net]}" --size 32 \
      --set model.small_stem=false --set schedule.temperature_start=30 --set schedule.temperature_epochs=7 \
      --set 'model.dynamic={experts=4,activation={softmax={temperature=1.0}},scope="layer",dropout=0.0,outside_blocks=false}' \
      --set 'augment.crop={pad={pixels=4}}' --json > "$out/$name.jsonl"
  fi
  "$dynet" analyze "$out/$name" "$out/$name-twin" --part test --images 1000 --no-picture --threads 1 --out "$out/$name.html" > "$out/$name.txt"
  exec {lock}>&-
done
