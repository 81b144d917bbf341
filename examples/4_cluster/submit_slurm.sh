#!/bin/bash
# Calibrate, sample in four shards on as many machines, and report. On a login node, in this folder:
#
#   bash submit_slurm.sh [options of sbatch, such as --partition=gpu --gpus-per-task=1]
#
# The same again goes on where jobs were lost.
set -euo pipefail
SHARDS=4
export JAX_COMPILATION_CACHE_DIR="$PWD/cluster-run/compiled" # one machine compiles, the others read

sltjax_step() { srun --cpus-per-task="$SLURM_CPUS_PER_TASK" sltjax "$@"; }

case "${1:-}" in
calibrate)
  test -e cluster-run/results/manifest.json || sltjax_step calibrate recipe.toml
  ;;
shard)
  code=0
  sltjax_step run recipe.toml --shard "$SLURM_ARRAY_TASK_ID/$SHARDS" || code=$?
  # 130: stopped by a signal, since the time is up or the machine is wanted back; what is finished is kept
  if [ "$code" = 130 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
  exit "$code"
  ;;
report)
  sltjax_step run recipe.toml # samples what shards left, if anything, and writes the report
  ;;
*)
  job() { sbatch --parsable --cpus-per-task=4 --mem=8G --time=02:00:00 --open-mode=append "$@"; }
  first=$(job --job-name=calibrate "$@" submit_slurm.sh calibrate)
  array=$(job --job-name=shard "$@" --dependency="afterok:$first" --array="0-$((SHARDS - 1))" \
    --requeue --signal=TERM@120 submit_slurm.sh shard)
  last=$(job --job-name=report "$@" --dependency="afterany:$array" submit_slurm.sh report)
  echo "jobs $first, $array and $last; cluster-run/results/report.html will be there after the last"
  ;;
esac
