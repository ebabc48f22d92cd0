#!/usr/bin/env bash
# Installs t5x_ext on all workers of TPU slices, from a wheel or source archive of this repository.
#
#   python -m pip wheel --no-deps --wheel-dir=dist .
#   setup.sh --name=NAME --zone=ZONE --package=dist/t5x_ext-0.1.0-py3-none-any.whl
#
#   --name=NAME         the slice; may be repeated
#   --zone=ZONE
#   --project=PROJECT   default: gcloud's
#   --package=FILE      .whl or .tar.gz
#   --constraints=FILE  versions to install; default: constraints.txt of this repository
#   --python=VERSION    default: 3.11; fetched by uv where the machine has another
#   --dry-run           print the commands instead of running them

set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tpu_scripts/common.sh
. "$here/common.sh"

package='' constraints=$here/../constraints.txt python=3.11
parse_flags "package constraints python" "" "$@"
need_place
need package
for file in "$package" "$constraints"; do
    [[ -f $file ]] || die "$file: no such file"
done
case $package in
    *.whl | *.tar.gz) ;;
    *) die "--package: $package; allowed: a .whl or .tar.gz file" ;;
esac
for file in "$package" "$constraints"; do
    [[ $file != *:* ]] || die "$file: scp takes a name with ':' for a host's; rename it"
done

install="set -eu
cd \"\$HOME/$remote_dir\"
python3 -m pip install --quiet --user --upgrade uv
python3 -m uv venv --quiet --clear --seed --python $(quote "$python") venv
venv/bin/python -m pip install --quiet -c setup/$(quote "$(basename "$constraints")") setup/$(quote "$(basename "$package")")'[tpu]'
venv/bin/python -c 'import jax; print(jax.process_index(), jax.local_devices())'"

for name in "${names[@]}"; do
    on_workers "$name" all "mkdir -p $remote_dir/setup"
    run gcloud compute tpus tpu-vm scp "$package" "$constraints" "$name:$remote_dir/setup/" \
        "${place[@]}" --worker=all
    on_workers "$name" all "$install"
done
