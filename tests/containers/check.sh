#!/bin/bash
# What the image must do for real: `make container-check`, with docker or podman (ENGINE), some 10
# minutes on 2 cores. BUILD has more arguments for `build`; COMPOSE is the compose command.
set -euo pipefail
cd -- "$(dirname -- "$0")/../.."

engine=${ENGINE:-docker}
compose=${COMPOSE:-$engine compose}
read -ra build_arguments <<<"${BUILD-}"
image=selfstudy-engine:cpu
runs=$(mktemp -d)
[ "$(id -u)" != 0 ] || chown 1234:1234 "$runs" # nobody's uid, neither root's nor the image's
user=$(stat -c %u:%g "$runs")
small=(--batch 16 --rounds 1 --test-size 20)
step() { printf '\n== %s\n' "$*"; }
die() { echo "container-check: $*" >&2; exit 1; }
in_container() {
    "$engine" run --rm --no-healthcheck --shm-size 1g --user "$user" -v "$runs:/work/runs" "$@"
}

key=deploy/server.env
[ -e $key ] && our_key='' || our_key=$key
project=(-p selfstudy-check -f deploy/compose.yaml -f tests/containers/small.yaml)
clean_up() {
    "$engine" rm -f selfstudy-check-killed >/dev/null 2>&1 || true
    $compose "${project[@]}" down -v >/dev/null 2>&1 || true
    rm -rf "$runs" "$our_key"
}
trap clean_up EXIT

step "build"
"$engine" build "${build_arguments[@]}" --target cpu -t "$image" .

step "doctor, as a user that the image doesn't know"
in_container "$image" doctor

step "too little shared memory is said before anything starts"
if said=$("$engine" run --rm --no-healthcheck --shm-size 64m "$image" loop "${small[@]}" 2>&1); then
    die "a loop ran in 64 MiB of /dev/shm"
fi
grep -- '--shm-size' <<<"$said" || die "$said"

step "a folder that can't be written to is refused"
code=0
"$engine" run --rm --no-healthcheck --shm-size 1g --user 54321:54321 -v "$runs:/work/runs" "$image" loop "${small[@]}" || code=$?
[ "$code" = 2 ] || die "exit code $code instead of 2"

step "a loop is killed, and the same command goes on"
in_container --name selfstudy-check-killed "$image" loop "${small[@]}" &
for _ in $(seq 600); do
    [ ! -d "$runs/default/adapters/round-0000" ] || break
    sleep 1
done
"$engine" kill -s KILL selfstudy-check-killed
wait $! || true
in_container "$image" loop "${small[@]}"
in_container "$image" store fsck --run default
[ "$(find "$runs" ! -user "${user%:*}" | wc -l)" = 0 ] || die "$runs holds files of another user"

step "compose: a loop beside a server, then predict"
[ -z "$our_key" ] || (umask 077 && echo "SELFSTUDY_SERVER_KEY=container-check" >$key)
$compose "${project[@]}" up -d --no-build server
answers='import urllib.request as r; r.urlopen("http://127.0.0.1:8000/health")'
for _ in $(seq 300); do # podman-compose doesn't wait for a healthy one
    ! $compose "${project[@]}" exec -T server python -c "$answers" 2>/dev/null || break
    sleep 2
done
$compose "${project[@]}" run --rm -T loop
$compose "${project[@]}" run --rm -T loop predict --server http://127.0.0.1:8000 --smiles CCO | grep '^CCO: '
step "the image does what the documentation says"
