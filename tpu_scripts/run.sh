#!/usr/bin/env bash
# Starts one command on all workers of a TPU slice and leaves it running.
#
#   run.sh --name=NAME --zone=ZONE --job=JOB -- COMMAND [ARGUMENT ...]
#   run.sh --name=my-tpu --zone=us-west4-a --job=train -- python -m t5x_ext.train \
#       --gin_file=models/t5_1_1_xl.gin --gin_file=runs/finetune.gin \
#       --gin.MODEL_DIR="'gs://my-bucket/run'" ...
#
# The workers find each other: the command is one run over all their chips. It goes on when the
# connection ends; status.sh shows its log, stop.sh ends it. Its directory is ~/t5x_ext.
#
#   --name=NAME         the slice; with several, each is a separate run
#   --zone=ZONE
#   --project=PROJECT   default: gcloud's
#   --job=JOB           a name for the log: letters, digits, '_', '-' and '.'
#   --dry-run           print the commands instead of running them

set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

job=''
parse_flags "job" "" "$@"
need_place
need job
check_job "$job"
((${#rest[@]})) || die "which command? write it after --; see --help"

for name in "${names[@]}"; do
    on_workers "$name" all "$(start_job "$job" "${rest[@]}")"
done
