#!/bin/bash
# The main job over several seeds, as a table in Markdown: each seed trains the net and its static twin with the same data.
# bash bench/main_job.sh [-j RUNS AT A TIME] SEED.. [-- OPTIONS OF dynet train]
set -euo pipefail
cd "$(dirname "$0")/.."
jobs=1
seeds=()
while [ $# -gt 0 ]; do
  case $1 in
    -j) jobs=$2; shift 2 ;;
    --) shift; break ;;
    *) seeds+=("$1"); shift ;;
  esac
done
[ ${#seeds[@]} -gt 0 ] || { echo "usage: bash bench/main_job.sh [-j N] SEED.. [-- OPTIONS]" >&2; exit 2; }
cargo build --release --quiet
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
dynet=target/release/dynet
export dynet folder
one() {
  seed=$1; shift
  "$dynet" train --twin --seed "$seed" --runs "$folder/runs" --name "seed-$seed" --json "$@" > "$folder/$seed.jsonl"
}
export -f one
# With several runs at a time each gets one thread: the accuracy does not depend on that, the times do.
[ "$jobs" = 1 ] || export RAYON_NUM_THREADS=1
printf '%s\n' "${seeds[@]}" | xargs -P "$jobs" -I{} bash -c 'one "$@"' one {} "$@"

# The value of a key in a line of JSON that holds it once.
value() { sed -E "s/.*\"$1\":([0-9.eE+-]+).*/\1/"; }
echo "| seed | dynamic net, test top-1 (%) | static twin, test top-1 (%) | difference | seconds of training |"
echo "|---|---|---|---|---|"
for seed in "${seeds[@]}"; do
  mapfile -t ends < <(grep '"event":"finished"' "$folder/$seed.jsonl")
  for end in "${ends[@]}"; do
    printf '%s %s ' "$(value test_top1 <<< "$end")" "$(value train_seconds <<< "$end")"
  done
  echo "$seed"
done | tee "$folder/table" | awk '{ printf "| %s | %.2f | %.2f | %+.2f | %.0f + %.0f |\n", $5, 100*$1, 100*$3, 100*($1-$3), $2, $4 }'
awk '
  { n++; v[1] = 100*$1; v[2] = 100*$3; v[3] = 100*($1-$3); for (i = 1; i <= 3; i++) { s[i] += v[i]; q[i] += v[i]^2 } }
  END {
    for (i = 1; i <= 3; i++) { m[i] = s[i]/n; d[i] = n > 1 ? sqrt((q[i] - n*m[i]^2)/(n-1)) : 0 }
    printf "| **mean of %d** (standard deviation) | **%.2f** (%.2f) | **%.2f** (%.2f) | **%+.2f** (%.2f) | |\n", n, m[1], d[1], m[2], d[2], m[3], d[3]
  }' "$folder/table"
