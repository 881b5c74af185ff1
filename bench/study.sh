#!/bin/bash
# The study of correlation: a MobileNetV2-style and a ResNet-style net, each dynamic and static by one recipe, on CIFAR-10.
# bash bench/study.sh DYNET DATA OUT [NET:SEED..]
# DYNET is the command, DATA the ImageFolder of CIFAR-10 (train, test), OUT the folder of the runs. Each NET:SEED trains a net and
# its static twin. Runs that are finished are skipped, and begun ones go on; several calls may share OUT.
set -euo pipefail
[ $# -ge 3 ] || { echo "usage: bash bench/study.sh DYNET DATA OUT [NET:SEED..]" >&2; exit 2; }
dynet=$1; data=$2; out=$3; shift 3
[ $# -gt 0 ] || set -- resnet18:0 mobilenet_v2:0 resnet18:1 mobilenet_v2:1 resnet18:2 mobilenet_v2:2
# Narrow nets, that many seeds may fit: images of 32 x 32 with the nets' own stems.
declare -A width=([resnet18]=0.125 [mobilenet_v2]=0.25)
# MobileNetV2's last maps are of one pixel here. Of a depthwise kernel one weight is left there, its batch norm divides by it, and gradients
# are huge: with SGD dynamic nets lost their way in the first epochs, at 0.1 (NaN), at 0.05 and at 0.02. AdamW's steps have a bound.
declare -A rule=([resnet18]="--set optimizer.learning_rate=0.02"
  [mobilenet_v2]="--set optimizer.rule=adamw --set optimizer.learning_rate=0.002 --set optimizer.weight_decay=0.01")
mkdir -p "$out"
for one in "$@"; do
  net=${one%%:*}; seed=${one##*:}; name=$net-seed-$seed
  exec {lock}> "$out/$name.lock"
  # Another call is at it.
  if ! flock -n "$lock"; then exec {lock}>&-; continue; fi
  if [ -e "$out/$name/config.toml" ]; then
    "$dynet" train --twin --resume "$name" --runs "$out" --json >> "$out/$name.jsonl"
  else
    "$dynet" train --twin --data "$data" --runs "$out" --name "$name" --seed "$seed" --epochs 5 --model "$net" \
      --width "${width[$net]}" --size 32 \
      --set model.small_stem=false ${rule[$net]} \
      --set 'model.dynamic={experts=4,activation="sigmoid",scope="layer",dropout=0.0,outside_blocks=false}' \
      --set 'augment.crop={pad={pixels=4}}' --json > "$out/$name.jsonl"
  fi
  exec {lock}>&-
done
