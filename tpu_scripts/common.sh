# shellcheck shell=bash
# What all scripts of this folder share: flags, quoting, and the way commands are run. Sourced.

# Directory on every worker, under the home directory: venv/, setup/ and jobs/.
readonly remote_dir=t5x_ext

# Status of a command on a worker whose job has not ended (EX_TEMPFAIL).
readonly still_running=75

# Values of flags, set by parse_flags. Scripts may take more than these.
names=()   # --name, may be repeated
zone=      # --zone
project=   # --project
place=()   # the last two as flags of gcloud, set by need_place
dry_run=   # --dry-run
rest=()    # what follows --

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Prints the comment at the head of the calling script.
show_help() {
    sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
}

# Prints words quoted for any POSIX shell, one command on one line.
quote() {
    local word quoted=()
    for word in "$@"; do
        if [[ $word =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]]; then
            quoted+=("$word")
        else
            quoted+=("'${word//\'/\'\\\'\'}'")
        fi
    done
    printf '%s' "${quoted[*]}"
}

# Runs a command, or only prints it under --dry-run.
run() {
    if [[ -n $dry_run ]]; then
        printf '%s\n' "$(quote "$@")"
    else
        "$@"
    fi
}

# parse_flags "FLAGS WITH VALUE" "SWITCHES" ARGUMENT...
#
# Sets the variable of each flag: --accelerator-type v4-8 and --accelerator-type=v4-8 set
# accelerator_type; a switch is set to yes. Every script takes --name, --zone, --project, --dry-run
# and --help besides its own.
parse_flags() {
    local takes_value=" name zone project $1 " switches=" dry-run help $2 " flag argument
    shift 2
    while (($#)); do
        if [[ $1 == -- ]]; then
            shift
            rest=("$@")
            break
        fi
        [[ $1 == --?* ]] || die "unexpected argument '$1'; see --help"
        flag=${1#--}
        flag=${flag%%=*}
        if [[ $switches == *" $flag "* && $1 != *=* ]]; then
            argument=yes
        elif [[ $takes_value != *" $flag "* ]]; then
            die "unknown flag '$1'; see --help"
        elif [[ $1 == *=* ]]; then
            argument=${1#*=}
        else
            (($# > 1)) || die "--$flag: a value is missing"
            argument=$2
            shift
        fi
        shift
        [[ -n $argument ]] || die "--$flag: the value is empty"
        case $flag in
            help) show_help && exit ;;
            name) names+=("$argument") ;;
            *) printf -v "${flag//-/_}" '%s' "$argument" ;;
        esac
    done
}

# need_place: refuses to go on without a name and a zone.
need_place() {
    ((${#names[@]})) || die "--name: which TPU? see --help"
    need zone
    place=("--zone=$zone")
    [[ -z $project ]] || place+=("--project=$project")
}

# need FLAG: refuses to go on where a flag of this script was not given.
need() {
    local variable=${1//-/_}
    [[ -n ${!variable} ]] || die "--$1: must be given; see --help"
}

# check_job: refuses names of jobs that are not plain file names.
check_job() {
    [[ $1 =~ ^[A-Za-z0-9_][A-Za-z0-9_.-]*$ ]] ||
        die "--job: '$1'; allowed: letters, digits, '_', '-' and '.'"
}

# check_number FLAG VALUE
check_number() {
    [[ $2 =~ ^[1-9][0-9]*$ ]] || die "--$1: '$2'; allowed: a whole number, 1 or more"
}

# on_workers NAME WORKER SHELL_TEXT: runs text in the shell of a worker, or of 'all' workers.
on_workers() {
    run gcloud compute tpus tpu-vm ssh "$1" "${place[@]}" "--worker=$2" "--command=$3"
}

# start_job JOB COMMAND...: prints shell text that starts a command and leaves it running.
#
# The job is a separate session, so it survives the end of the connection. jobs/JOB holds its log,
# its process number and, once it has ended, its exit status. A job that ran before is kept under
# another name; one that still runs is an error of status $still_running.
start_job() {
    local job=jobs/$1 command
    shift
    # stop.sh sends SIGTERM to the whole session; the shell in it stays to write the status.
    command="trap : TERM; $(quote "$@"); echo \$? > $job/status"
    cat <<EOF
set -eu
cd "\$HOME/$remote_dir"
mkdir -p jobs
if [ -e $job ]; then
  if [ ! -e $job/status ] && kill -0 "\$(cat $job/pid)" 2>/dev/null; then
    echo "error: $job is still running on \$(hostname)" >&2
    exit $still_running
  fi
  mv $job "$job.\$(date +%Y%m%dT%H%M%S)"
fi
mkdir $job
export PATH="\$PWD/venv/bin:\$PATH"
nohup setsid sh -c $(quote "$command") > $job/log 2>&1 < /dev/null &
echo \$! > $job/pid
echo "$job started on \$(hostname)"
EOF
}
