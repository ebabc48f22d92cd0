#!/usr/bin/env bash
# Asks a job to end on all workers: training saves a checkpoint and ends.
#
#   stop.sh --name=NAME --zone=ZONE --job=JOB
#
#   --name=NAME         the slice; may be repeated
#   --zone=ZONE
#   --project=PROJECT   default: gcloud's
#   --job=JOB           the name it was started under
#   --dry-run           print the commands instead of running them

set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

job=''
parse_flags "job" "" "$@"
need_place
need job
check_job "$job"

for name in "${names[@]}"; do
    # The job is a session; its processes have the number of the first as their group.
    on_workers "$name" all "set -eu
cd \"\$HOME/$remote_dir/jobs/$job\"
if [ -e status ]; then echo \"$job has ended on \$(hostname)\"; exit; fi
kill -TERM \"-\$(cat pid)\""
done
