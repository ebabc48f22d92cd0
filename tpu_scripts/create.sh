#!/usr/bin/env bash
# Asks for TPU slices: at once, or by a queued resource that waits for its turn.
#
#   create.sh --name=NAME --zone=ZONE --type=TYPE [--spot] [--queued] [--version=VERSION]
#
#   --name=NAME         the slice; repeat it for several slices, each a separate request
#   --zone=ZONE         for example us-west4-a
#   --project=PROJECT   default: gcloud's
#   --type=TYPE         v4-8, v5litepod-16, v5p-32, v6e-16, ... (v4, v5p: twice the chips)
#   --spot              cheaper; may be taken away at any time
#   --queued            a queued resource of that name, with one slice of that name
#   --valid-for=TIME    how long the queued resource may wait, for example 6h
#   --version=VERSION   software of the machine; default: by type
#   --dry-run           print the commands instead of running them

set -euo pipefail
# shellcheck source=tpu_scripts/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

type='' version='' valid_for='' spot='' queued=''
parse_flags "type version valid-for" "spot queued" "$@"
need_place
need type
[[ -z $valid_for || -n $queued ]] || die "--valid-for: goes with --queued"

# Versions for JAX: cloud.google.com/tpu/docs/runtimes
if [[ -z $version ]]; then
    case $type in
        v2-* | v3-* | v4-*) version=tpu-ubuntu2204-base ;;
        v5litepod-*) version=v2-alpha-tpuv5-lite ;;
        v5p-*) version=v2-alpha-tpuv5 ;;
        v6e-*) version=v2-alpha-tpuv6e ;;
        *) die "--type: '$type' is not known here; give --version with it" ;;
    esac
fi

common=("${place[@]}" "--accelerator-type=$type")
[[ -z $spot ]] || common+=(--spot)
for name in "${names[@]}"; do
    if [[ -n $queued ]]; then
        request=("--node-id=$name" "--runtime-version=$version")
        [[ -z $valid_for ]] || request+=("--valid-until-duration=$valid_for")
        run gcloud compute tpus queued-resources create "$name" "${common[@]}" "${request[@]}"
    else
        run gcloud compute tpus tpu-vm create "$name" "${common[@]}" "--version=$version"
    fi
done
