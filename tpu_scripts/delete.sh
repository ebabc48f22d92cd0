#!/usr/bin/env bash
# Deletes TPU slices, and what is on their disks. Ends what they cost.
#
#   delete.sh --name=NAME --zone=ZONE [--queued] [--yes]
#
#   --name=NAME         the slice; may be repeated
#   --zone=ZONE
#   --project=PROJECT   default: gcloud's
#   --queued            it was made by create.sh --queued: delete the request and its slice
#   --yes               do not ask
#   --dry-run           print the commands instead of running them

set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

queued='' yes=''
parse_flags "" "queued yes" "$@"
need_place

how=("${place[@]}")
[[ -z $yes ]] || how+=(--quiet)
for name in "${names[@]}"; do
    if [[ -n $queued ]]; then
        run gcloud compute tpus queued-resources delete "$name" "${how[@]}" --force
    else
        run gcloud compute tpus tpu-vm delete "$name" "${how[@]}"
    fi
done
