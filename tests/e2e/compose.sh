#!/usr/bin/env bash
# The cluster of docker-compose.yml with real containers: `make test-compose`.
#
# Builds the images, starts two workers, searches, kills a worker in mid-search, takes the cluster
# down and up again, restores a backup, loses a password, turns MLflow's login on; looks from outside
# at each step.
# The commands of docs/cluster.md are run from the page: blocks ```sh engine NAME.
#
# Without an engine, and without the right to start one, it says so and succeeds. From the
# environment: SHORT=1 (no further than a search that loses a worker: for CI), DOCKER_HOST,
# BASE_IMAGE (else a registry is asked; else debootstrap makes one), KEEP=1 (leave everything
# running). Lines begin with the seconds since the start.
set -euo pipefail
cd "$(dirname "$0")/../.."

work="$(mktemp -d "${TMPDIR:-/tmp}/nasctl-compose.XXXXXX")"
started=""
say() { echo "== $SECONDS s: $*" >&2; }
fail() { echo "FAILED: $*" >&2; exit 1; }
skip() { echo "SKIPPED, nothing of the compose cluster was tested: $*" >&2; exit 0; }

finish() {
    local status=$?
    if [ "$status" != 0 ]; then
        cluster ps >&2 || true
        cluster logs --tail 25 >&2 || true
    fi
    if [ -n "${KEEP:-}" ]; then
        say "kept: DOCKER_HOST=${DOCKER_HOST:-} NASCTL_SECRETS=$NASCTL_SECRETS"
        exit "$status"
    fi
    if [ -n "${up:-}" ]; then cluster down --volumes --timeout 20 >/dev/null 2>&1 || true; fi
    if [ -n "$started" ]; then kill "$started"; wait "$started" 2>/dev/null || true; fi
    if [ -f "$work/env" ]; then mv "$work/env" .env; else rm -f .env; fi  # the page writes into it
    rm -rf "$work"
    exit "$status"
}

if [ -f .env ]; then cp -p .env "$work/env"; fi
trap finish EXIT
export COMPOSE_PROJECT_NAME=nasctltest NASCTL_IMAGE=nasctl:test \
    NASCTL_POSTGRES_IMAGE=nasctl-postgres:test NASCTL_SECRETS="$work/secrets" BACKUP="$work/backup"
NASCTL_NOFILE="$(n=$(ulimit -Hn); [ "$n" = unlimited ] || [ "$n" -gt 65536 ] && n=65536; echo "$n")"
export NASCTL_NOFILE
cluster() { docker/cluster.sh "$@"; }

# -- an engine, a base image, wheels ---------------------------------------------------------------

engine() {
    command -v docker >/dev/null || skip "no docker command"
    docker info >/dev/null 2>&1 && return
    [ "$(id -u)" = 0 ] && command -v dockerd >/dev/null || skip "no engine answers, none can be started"
    say "starting an engine"
    export DOCKER_HOST="unix://$work/docker.sock"
    dockerd --data-root "$work/data" --exec-root "$work/exec" --pidfile "$work/docker.pid" \
        --host "$DOCKER_HOST" >"$work/dockerd.log" 2>&1 &
    started=$!
    local tries
    for tries in $(seq 60); do
        docker info >/dev/null 2>&1 && return
        kill -0 "$started" 2>/dev/null || break
        sleep 1
    done
    tail -3 "$work/dockerd.log" >&2
    started=""
    skip "dockerd did not start"
}

base_image() {
    [ -n "${BASE_IMAGE:-}" ] && return
    export BASE_IMAGE=nasctl-test-base:bookworm
    docker image inspect "$BASE_IMAGE" >/dev/null 2>&1 && return
    if timeout 120 docker pull python:3.11-slim-bookworm >/dev/null 2>&1; then
        docker tag python:3.11-slim-bookworm "$BASE_IMAGE"
        return
    fi
    [ "$(id -u)" = 0 ] && command -v debootstrap >/dev/null || skip "no registry answers, no debootstrap"
    say "no registry answers: a base image from debootstrap"
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm \
        "$work/root" >"$work/debootstrap.log" 2>&1 || { tail -3 "$work/debootstrap.log" >&2; fail debootstrap; }
    # Whoever runs this may reach the package index through an authority of their own.
    cp /etc/ssl/certs/ca-certificates.crt "$work/root/etc/ssl/certs/"
    rm -rf "$work/root/var/cache/apt/archives" "$work/root/var/lib/apt/lists"
    tar -C "$work/root" -c . | docker import - "$BASE_IMAGE" >/dev/null
    rm -rf "$work/root"
}

usable() {  # an engine that starts is not yet one that runs containers with a network
    docker run --rm "$BASE_IMAGE" true >/dev/null 2>"$work/run.log" \
        || skip "the engine runs no containers: $(tail -1 "$work/run.log")"
    docker run --rm "$BASE_IMAGE" apt-get update -qq >/dev/null 2>"$work/run.log" \
        || skip "containers reach no package archive: $(tail -1 "$work/run.log")"
}

wheels() {  # what this machine's pip finds for PyTorch: the CPU build may not be on its index
    ls docker/wheels/torch-*.whl >/dev/null 2>&1 && return
    case "$("${PYTHON:-python3}" -c 'from importlib import metadata; print(metadata.version("torch"))' \
        2>/dev/null)" in
        *+cpu) ;;
        *) return 0 ;;  # PyPI's brings CUDA
    esac
    "${PYTHON:-python3}" -m pip download --quiet --no-deps --dest "$work/wheels" \
        "$(grep '^torch==' constraints.txt)" || return 0
    if ls "$work"/wheels/torch-*+cpu-*.whl >/dev/null 2>&1; then cp "$work"/wheels/*.whl docker/wheels/; fi
}

torch_at_hand() {  # else the build would only end in an error of pip
    ls docker/wheels/torch-*.whl >/dev/null 2>&1 && return
    curl --silent --fail --max-time 30 --output /dev/null https://download.pytorch.org/whl/cpu/ ||
        skip "no wheel of PyTorch's CPU build is here, and its index does not answer"
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# -- looking from outside --------------------------------------------------------------------------

status_of() { curl --silent --output /dev/null --write-out '%{http_code}' --max-time 30 "$@" || true; }
expect() { [ "$2" = "$3" ] || fail "$1: expected $3, got $2"; }
containers() { docker ps --quiet --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME"; }
containers_of() {
    docker ps --all --quiet --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME" \
        --filter "label=com.docker.compose.service=$1"
}
in_head() { cluster exec -T ray-head "$@"; }
tool() { in_head nasctl "$@"; }

block() {  # runs the block ```sh engine NAME of the page
    say "docs/cluster.md: $1"
    local text
    text="$(sed -n "/^\`\`\`sh engine $1\$/,/^\`\`\`\$/p" docs/cluster.md | sed '/^```/d')"
    [ -n "$text" ] || fail "docs/cluster.md has no block: sh engine $1"
    bash -euo pipefail -c "$text" </dev/null
}

closed_ports() {
    say "ports: loopback only"
    local id port gateway
    for id in $(containers); do
        docker inspect --format '{{range .NetworkSettings.Ports}}{{range .}}{{.HostIp}} {{end}}{{end}}' "$id"
    done | tr -s ' \n' '\n' | grep -v '^$' | sort | uniq -c >"$work/published"
    expect "addresses of published ports" "$(tr -s ' ' <"$work/published" | sed 's/^ //')" "2 127.0.0.1"
    gateway="$(docker network inspect --format '{{(index .IPAM.Config 0).Gateway}}' "${COMPOSE_PROJECT_NAME}_cluster")"
    for port in "$NASCTL_RAY_PORT" "$NASCTL_MLFLOW_PORT"; do
        [ "$(status_of "http://127.0.0.1:$port/")" != 000 ] || fail "port $port is closed on 127.0.0.1"
        expect "port $port on $gateway, an address of this host" "$(status_of "http://$gateway:$port/")" 000
    done
    ! cluster exec -T ray-head python -c 'import socket; socket.create_connection(("postgres", 5432), 5)' \
        2>/dev/null || fail "the head reaches PostgreSQL"
}

locked_doors() {
    say "nothing without the token"
    local jobs="http://127.0.0.1:$NASCTL_RAY_PORT/api/jobs/" token
    token="$(cat "$NASCTL_SECRETS/ray_token")"
    expect "jobs without a token" "$(status_of "$jobs")" 401
    expect "jobs with a wrong token" "$(status_of -H "Authorization: Bearer wrong" "$jobs")" 403
    expect "jobs with the token" "$(status_of -H "Authorization: Bearer $token" "$jobs")" 200
    expect "a job without a token" "$(status_of -H 'Content-Type: application/json' -d '{"entrypoint": "id"}' "$jobs")" 401
    local connect='import ray; ray.init(address="ray-head:6379", log_to_driver=False)'
    cluster exec -T ray-worker python -c "$connect" >/dev/null 2>&1 || fail "a worker cannot connect"
    local id wrong  # Ray gives up after 20 s: the two at once
    id="$(containers_of ray-worker | head -1)"
    docker exec --env RAY_AUTH_TOKEN=wrong "$id" timeout 120 python -c "$connect" >/dev/null 2>&1 &
    wrong=$!
    ! docker exec --env RAY_AUTH_MODE=disabled --env RAY_AUTH_TOKEN_PATH= "$id" timeout 120 python -c "$connect" \
        >/dev/null 2>&1 || fail "no token is needed"
    ! wait "$wrong" || fail "a wrong token is taken"
    say "MLflow knows its hosts"
    local experiments="http://127.0.0.1:$NASCTL_MLFLOW_PORT/api/2.0/mlflow/experiments/search?max_results=1"
    expect "MLflow" "$(status_of "$experiments")" 200
    expect "MLflow by another name" "$(status_of -H 'Host: evil.example' "$experiments")" 403
}

no_secret_shown() {
    say "no secret in docker inspect, in the images or in process lists"
    local name secret
    # shellcheck disable=SC2046
    { docker inspect $(containers) "$NASCTL_IMAGE" "$NASCTL_POSTGRES_IMAGE"
      docker history --no-trunc "$NASCTL_IMAGE"
      for id in $(containers); do docker top "$id" -eo pid,args; docker logs "$id" 2>&1; done
    } >"$work/shown"
    for name in ray_token postgres_password mlflow_password; do
        expect "mode of $name" "$(stat --format %a "$NASCTL_SECRETS/$name")" 600
        secret="$(cat "$NASCTL_SECRETS/$name")"
        [ "${#secret}" -ge 64 ] || fail "$name is short"
        ! grep --quiet --fixed-strings "$secret" "$work/shown" || fail "$name is shown"
    done
    [ "$(grep -c '"CapDrop"' "$work/shown")" -ge 5 ] || fail "inspect says nothing of capabilities"
    expect "processes of root" "$(for id in $(containers); do docker top "$id" -eo pid,uid; done | grep -c ' 0$' || true)" 0
}

byte_code() {  # its user can write none: what has none is compiled by every process that imports it
    say "byte code of all that is imported"
    in_head python -v -c 'import nasctl.cli, ray.tune, mlflow.server.fastapi_app' 2>"$work/imports"
    grep --quiet " matches " "$work/imports" || fail "python -v says nothing of byte code"
    expect "modules without byte code" "$(grep -c "^# code object from [^']" "$work/imports" || true)" 0
}

# -- searches --------------------------------------------------------------------------------------

SMALL=(mbv2_space data=fashion_mnist_12k recipe=quick latency=none '~objectives.latency_ms' search.window=2)

search() {  # NAME TRIALS EPOCHS...: through the one-shot service, as a job
    local name=$1 trials=$2 epochs=$3
    cluster run --rm nasctl submit "${SMALL[@]}" "name=$name" "trials=$trials" "recipe.epochs=$epochs" \
        </dev/null
}

trained() {  # prints how many trials of a run are complete; 0 before there is a run
    in_head python - "/runs/$1/ledger.sqlite" <<'PY'
import pathlib, sqlite3, sys
path = pathlib.Path(sys.argv[1])
rows = [(0,)]
if path.exists():
    try:
        rows = sqlite3.connect(f"file:{path}?mode=ro", uri=True).execute("select count(*) from trials where state = 'COMPLETE'").fetchall()
    except sqlite3.OperationalError:  # not made yet
        pass
print(rows[0][0])
PY
}

trainers() {  # the workers' containers in which a training runs
    local id
    for id in $(containers_of ray-worker); do
        if docker top "$id" -eo pid,args 2>/dev/null | grep --quiet 'ray::Worker.train'; then echo "$id"; fi
    done
}

until_true() {  # WHAT COMMAND...: polls for up to ten minutes, as long as the search is alive
    local what=$1 end=$((SECONDS + 600)); shift
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || fail "$what: not within ten minutes"
        [ -z "${searching:-}" ] || kill -0 "$searching" 2>/dev/null || fail "$what: the search ended first"
        sleep 1
    done
}
both_train() { [ "$(trainers | wc -l)" = 2 ]; }
one_trains() { [ -n "$(trainers)" ]; }
some_are_done() { [ "$(trained "$1")" -ge "$2" ]; }
mlflow_answers() { [ "$(status_of "http://127.0.0.1:$NASCTL_MLFLOW_PORT/health")" != 000 ]; }
view() { "${PYTHON:-python3}" tests/e2e/compose_view.py "$@"; }

complete() {  # NAME TRIALS [PASSWORD_FILE]: all there, once, here and in MLflow
    in_head cat "/runs/$1/front.json" >"$work/front.json"
    view counts "$work/front.json" "$2"
    tool doctor "/runs/$1"
    view mlflow "http://127.0.0.1:$NASCTL_MLFLOW_PORT" "$1" "$2" "${@:3}"
}

lose_a_worker() {  # TRIALS EPOCHS
    say "a search on two workers; one is killed in mid-search"
    search lost "$@" >"$work/lost.log" 2>&1 &
    searching=$!
    until_true "both workers train" both_train
    until_true "a trial is done" some_are_done lost 1
    until_true "a worker trains" one_trains
    docker kill "$(trainers | head -1)" >/dev/null
    block scale
    wait "$searching" || { cat "$work/lost.log" >&2; fail "the search ended with $?"; }
    searching=""
    tail -5 "$work/lost.log"
    complete lost "$1"
}

down_and_up() {
    say "down in mid-search, up, the same command"
    search again 12 2 >"$work/again.log" 2>&1 &
    searching=$!
    until_true "a trial is done" some_are_done again 1  # others end while the workers stop
    block down
    wait "$searching" && fail "the client of a search that was cut off says that it is done"
    searching=""
    tail -3 "$work/again.log"
    block up
    local before
    before="$(trained again)"
    [ "$before" -ge 1 ] && [ "$before" -lt 12 ] || fail "$before trials are kept"
    search again 12 2 2>&1 | tail -5
    complete again 12
    complete lost 6
}

lost_password() {
    say "the password of the database is lost"
    rm "$NASCTL_SECRETS/postgres_password"
    ! docker/cluster.sh launch 2>"$work/refused.log" || fail "a new password would open nothing"
    grep -q "postgres_password is gone, and the database asks for it" "$work/refused.log" \
        || { cat "$work/refused.log" >&2; fail "another reason"; }
    block password
    until_true "MLflow answers with the new password" mlflow_answers
    complete lost 6
}

login_of_mlflow() {
    say "MLflow with a login"
    local experiments="http://127.0.0.1:$NASCTL_MLFLOW_PORT/api/2.0/mlflow/experiments/search?max_results=1"
    block login
    until_true "MLflow answers with a login" mlflow_answers
    expect "MLflow without a login" "$(status_of "$experiments")" 401
    expect "MLflow with a wrong one" "$(status_of -u admin:wrong "$experiments")" 401
    search login 2 1 2>&1 | tail -3
    complete login 2 "$NASCTL_SECRETS/mlflow_password"
    no_secret_shown
}

engine
wheels
torch_at_hand
base_image
usable
NASCTL_RAY_PORT="$(free_port)" NASCTL_MLFLOW_PORT="$(free_port)"
export NASCTL_RAY_PORT NASCTL_MLFLOW_PORT
say "build and start"
up=1
block up
docker image ls --format '{{.Repository}}:{{.Tag}} {{.Size}}' | grep -F -e "$NASCTL_IMAGE" -e "$NASCTL_POSTGRES_IMAGE"
closed_ports
locked_doors
no_secret_shown
byte_code
if [ -n "${SHORT:-}" ]; then
    lose_a_worker 4 2
    say "down"
    cluster down --volumes
    [ -z "$(containers)" ] || fail "containers are left"
    up=""
    say "the short form works; the rest: make test-compose"
    exit 0
fi
block search
lose_a_worker 6 2
block backup
say "the backup in a cluster that lost everything"
cluster down --volumes
block up
block restore
until_true "MLflow answers after the restore" mlflow_answers
complete lost 6
block upgrade
until_true "MLflow answers after the upgrade" mlflow_answers
down_and_up
lost_password
login_of_mlflow
say "all of it works"
