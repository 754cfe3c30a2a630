#!/bin/sh
# `make demo`: a two-stage cluster on the demo model answers a prompt. Also a guide to the commands.
set -eu

scratch=$(mktemp -d)
: > "$scratch/ready"
echo "starting a cluster of two stages"
stageline up --stages 2 --port 0 > "$scratch/ready" 2> "$scratch/log" &
cluster=$!

stop() {
    status=$?
    trap - EXIT INT TERM
    kill -TERM "$cluster" 2> /dev/null || true
    wait "$cluster" || {
        echo "demo: \`stageline up\` ended with status $?" >&2
        [ "$status" -ne 0 ] || status=1
    }
    [ "$status" -eq 0 ] || cat "$scratch/log" >&2
    rm -rf "$scratch"
    exit "$status"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

until grep -q '^ready ' "$scratch/ready"; do
    kill -0 "$cluster" 2> /dev/null || exit 1
    sleep 0.1
done
STAGELINE_URL=$(sed -n 's/^ready //p' "$scratch/ready")
export STAGELINE_URL

prompt="What does a pipeline of stages do?"
echo "$STAGELINE_URL is ready; the demo model has random weights, so its answer is noise"
echo
echo "> $prompt"
stageline generate -p "$prompt" --max-tokens 64 --seed 7
echo
stageline status
echo "stopping"
