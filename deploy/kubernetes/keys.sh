#!/bin/sh
# Keys and API key of a cluster on Kubernetes, as two secrets in the current namespace. Needs `stageline` and `kubectl`.
#     sh keys.sh NUMBER-OF-AGENTS
# Run it again for other keys, then restart the pods. What it makes on this machine it removes.
set -eu

agents=${1:?usage: sh keys.sh NUMBER-OF-AGENTS}
umask 077
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM

# a key may begin with a dash and hold any sign of a shell
STAGELINE_KEYS="$scratch/coordinator" stageline keys new > "$scratch/coordinator.public"
workers="--from-file=coordinator=$scratch/coordinator.public"
number=1
while [ "$number" -le "$agents" ]; do
    name=worker-$number
    key=$(STAGELINE_KEYS="$scratch/$name" stageline keys new)
    STAGELINE_KEYS="$scratch/coordinator" stageline keys add -- "$name" "$key"
    workers="$workers --from-file=$name=$scratch/$name/secret"
    number=$((number + 1))
done
python3 -c 'import secrets; print(secrets.token_urlsafe(32), end="")' > "$scratch/api-key"

apply() {
    kubectl create secret generic "$@" --dry-run=client -o yaml | kubectl apply -f -
}

apply stageline-coordinator --from-file=secret="$scratch/coordinator/secret" \
    --from-file=allowed="$scratch/coordinator/allowed" --from-file=api-key="$scratch/api-key"
# shellcheck disable=SC2086 # words on purpose; no path of mktemp has a blank
apply stageline-workers $workers
