#!/usr/bin/env bash
# Runs a study over the workers of one or more TPU slices: each worker is one shard of the cells.
#
#   study.sh --name=tpu-a --name=tpu-b --zone=ZONE --workers=4 --job=paper -- \
#       --gin_file=studies/paper.gin --gin.MODEL_DIR="'study'" ...
#
# What follows -- goes to `python -m t5x_ext.study`; --shard is added: with two slices of four
# workers, 1/8 to 8/8. A worker computes on its own chips alone. It keeps its results on its own
# disk, from where fetch.sh brings them together, unless MODEL_DIR lies in a bucket (gs://...) or in
# a file system that all of them mount.
# Give the same command again to go on with a study that was stopped, or with the shards of a machine
# that was lost: workers that still run are left alone and named, and the status is then 1.
#
#   --name=NAME         the slice; repeat it for several, all of one type
#   --zone=ZONE
#   --project=PROJECT   default: gcloud's
#   --workers=N         workers (hosts) of each slice: v5litepod-16 has 4
#   --chips=X,Y,Z       chips of a worker; default: 2,2,1
#   --job=JOB           a name for the logs
#   --dry-run           print the commands instead of running them

set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

job='' workers='' chips=2,2,1
parse_flags "job workers chips" "" "$@"
need_place
need job
check_job "$job"
need workers
check_number workers "$workers"
[[ $chips =~ ^[1-9],[1-9],[1-9]$ ]] || die "--chips: '$chips'; allowed: X,Y,Z, for example 2,2,1"
((${#rest[@]})) || die "which study? write its flags after --; see --help"

# Without these a worker of a slice waits for the others before it computes.
alone=(env "TPU_PROCESS_BOUNDS=1,1,1" "TPU_CHIPS_PER_PROCESS_BOUNDS=$chips")
if ((workers == 1)); then
    alone=()
fi
shards=$((${#names[@]} * workers))
shard=0
running=()
for name in "${names[@]}"; do
    for ((worker = 0; worker < workers; worker++)); do
        shard=$((shard + 1))
        command=(${alone[@]+"${alone[@]}"} python -m t5x_ext.study "${rest[@]}")
        status=0
        on_workers "$name" "$worker" "$(start_job "$job" "${command[@]}" "--shard=$shard/$shards")" ||
            status=$?
        case $status in
            0) ;;
            "$still_running") running+=("$shard/$shards") ;;
            *) exit "$status" ;;
        esac
    done
done
((${#running[@]} == 0)) || die "left alone, as they still run: shards ${running[*]}"
