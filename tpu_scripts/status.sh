#!/usr/bin/env bash
# Shows the state of TPU slices and, with --job, the end of a job's log on every worker.
#
#   status.sh --name=NAME --zone=ZONE [--queued] [--job=JOB] [--lines=N]
#
#   --name=NAME         the slice; may be repeated
#   --zone=ZONE
#   --project=PROJECT   default: gcloud's
#   --queued            the state of the queued resource instead of the slice's
#   --job=JOB           the job's log, and whether it runs
#   --lines=N           lines of the log; default: 20
#   --dry-run           print the commands instead of running them

set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

job='' lines=20 queued=''
parse_flags "job lines" "queued" "$@"
need_place
check_number lines "$lines"
[[ -z $job ]] || check_job "$job"

for name in "${names[@]}"; do
    if [[ -n $queued ]]; then
        run gcloud compute tpus queued-resources describe "$name" "${place[@]}" \
            "--format=value(name,state.state)"
    else
        run gcloud compute tpus tpu-vm describe "$name" "${place[@]}" "--format=value(name,state)"
    fi
    [[ -n $job ]] || continue
    on_workers "$name" all "set -eu
cd \"\$HOME/$remote_dir/jobs/$job\"
if [ -e status ]; then state=\"ended with status \$(cat status)\"
elif kill -0 \"\$(cat pid)\" 2>/dev/null; then state=running
else state='gone without a status: killed, or the machine was restarted'; fi
echo \"== $job on \$(hostname): \$state\"
tail -n $lines log"
done
