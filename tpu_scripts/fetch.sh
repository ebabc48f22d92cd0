#!/usr/bin/env bash
# Fetches results: a directory of a bucket, or the same path of every worker, one over the other.
#
#   fetch.sh --from=gs://my-bucket/run --to=runs/
#   fetch.sh --name=tpu-a --name=tpu-b --zone=ZONE --workers=4 \
#       --from=t5x_ext/study/cells --to=runs/study
#
# The shards of a study have different cells, so their directories fill each other up. When
# study.json and cells are there, `python -m t5x_ext.report runs/study` writes the report.
#
#   --from=PATH         gs://..., or a path on the workers, relative to the home directory
#   --to=DIR            local directory; made where it is missing. A path on a worker keeps its
#                       last name in it; a bucket's directory fills it
#   --name=NAME         the slice; may be repeated. Not with gs://
#   --zone=ZONE
#   --project=PROJECT   default: gcloud's
#   --workers=N         workers of each slice; default: 1, the first
#   --dry-run           print the commands instead of running them

set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

from='' to='' workers=1
parse_flags "from to workers" "" "$@"
need from
need to
check_number workers "$workers"

if [[ $from == gs://* ]]; then
    ((${#names[@]} == 0)) || die "--from: $from is not on a TPU; leave --name out"
    run mkdir -p -- "$to"
    run gcloud storage rsync --recursive "$from" "$to"
    exit
fi
need_place
run mkdir -p -- "$to"
for name in "${names[@]}"; do
    for ((worker = 0; worker < workers; worker++)); do
        run gcloud compute tpus tpu-vm scp --recurse "$name:$from" "$to" "${place[@]}" \
            "--worker=$worker"
    done
done
