#!/usr/bin/env bash
# The cluster of docker-compose.yml; the Makefile's targets call this.
#
#   docker/cluster.sh secrets               write what is missing in .cluster/
#   docker/cluster.sh launch [WORKERS]      build, start, wait until everything is healthy;
#                                           as many workers as there are, else 2
#   docker/cluster.sh search CONFIG ARGS... nasctl submit in the network
#   docker/cluster.sh down [--volumes]      stop; --volumes also deletes runs and database
#   docker/cluster.sh ARGS...               the same as `docker compose ARGS...`, or docker-compose
set -euo pipefail
cd "$(dirname "$0")/.."

WAIT_S=${WAIT_S:-600}

compose() {
    if docker compose version >/dev/null 2>&1; then docker compose "$@"
    elif command -v docker-compose >/dev/null; then docker-compose "$@"
    else echo "neither the Compose plugin of docker nor docker-compose is installed" >&2; return 4
    fi
}

refuse() {  # EXIT_CODE TEXT...
    local code=$1; shift
    echo "$*" >&2
    exit "$code"
}

setting() {  # NAME: from the environment, else from .env; nothing where it is in neither
    if [ -n "${!1+set}" ]; then echo "${!1}"
    elif [ -f .env ]; then sed -n "s/^ *$1=//p" .env | tail -1 | tr -d "\"'"; fi
}

secrets="$(setting NASCTL_SECRETS)"
secrets="${secrets:-.cluster}"

running() { compose ps -q "$1" 2>/dev/null | grep -c . || true; }

has_database() {
    local project
    project="$(setting COMPOSE_PROJECT_NAME)"
    project="${project:-$(basename "$PWD" | tr '[:upper:]' '[:lower:]' | tr -cd 'a-z0-9_-')}"
    docker volume inspect "${project}_database" >/dev/null 2>&1
}

# The containers run as the owner of the secret files: a mounted file keeps its owner and mode.
container_uid() {
    if [ -e "$secrets/ray_token" ]; then stat -c %u "$secrets/ray_token"
    elif [ "$(id -u)" = 0 ]; then echo 10001; else id -u; fi
}

# A new secret opens nothing that was closed with the old one.
check_secrets() {
    if ! [ -s "$secrets/ray_token" ] && [ "$(running ray-head)" != 0 ]; then
        refuse 2 "$secrets/ray_token is gone, and the cluster runs with it: put it back, or make" \
            "cluster-down and make cluster-up for a new one"
    fi
    if ! [ -s "$secrets/postgres_password" ] && has_database; then
        refuse 2 "$secrets/postgres_password is gone, and the database asks for it: put it back, or set" \
            "a new one (docs/cluster.md, Who can do what)"
    fi
}

# A login that was turned on for one command would be off after the next.
check_login() {
    local id now
    id="$(compose ps -q mlflow 2>/dev/null | head -1 || true)"
    if [ -z "$id" ]; then return; fi
    now="$(docker inspect --format '{{range .Config.Env}}{{println .}}{{end}}' "$id" |
        sed -n 's/^MLFLOW_AUTH=//p')"
    if [ "$now" = basic ] && [ -z "$(setting NASCTL_MLFLOW_AUTH)" ]; then
        refuse 2 "NASCTL_MLFLOW_AUTH: MLflow asks for a login and would not any more; write" \
            "NASCTL_MLFLOW_AUTH=basic into .env to keep it, or NASCTL_MLFLOW_AUTH=none to end it"
    fi
}

start() {  # WORKERS
    local log status=0 nofile
    nofile="$(setting NASCTL_NOFILE)"
    nofile="${nofile:-65536}"
    log="$(mktemp)"
    compose up -d --scale "ray-worker=$1" 2>&1 | tee "$log" >&2 || status=$?
    if [ "$status" != 0 ] && grep -q "rlimit type 7" "$log"; then
        echo "the engine may not give $nofile open files to a container:" \
            "set NASCTL_NOFILE to what it may, e.g. NASCTL_NOFILE=$(ulimit -Hn) in .env" >&2
    fi
    rm -f "$log"
    return "$status"
}

search() {  # CONFIG ARGS...
    if [ $# = 0 ]; then refuse 2 "search: no CONFIG given"; fi
    if [ "$(running ray-head)" = 0 ]; then refuse 4 "the cluster is not up: make cluster-up"; fi
    if [ -f "$1" ] && ! [[ "$(realpath "$1")" = "$PWD/conf/"* ]]; then
        refuse 2 "CONFIG=$1: this search sees nothing but conf/: put the file there, or submit it from" \
            "the host: RAY_AUTH_TOKEN_PATH=$secrets/ray_token nasctl submit $1"
    fi
    compose run --rm nasctl submit "$@"
}

write_secrets() {
    mkdir -p "$secrets"
    chmod 700 "$secrets"
    local name
    for name in ray_token mlflow_password postgres_password; do
        if ! [ -s "$secrets/$name" ]; then
            (umask 077; od -An -N32 -tx1 /dev/urandom | tr -d ' \n' > "$secrets/$name.new")
            chmod 600 "$secrets/$name.new"
            if [ "$(id -u)" = 0 ]; then chown "$(container_uid)" "$secrets/$name.new"; fi
            mv "$secrets/$name.new" "$secrets/$name"
            echo "wrote $secrets/$name" >&2
        fi
    done
}

states() {
    compose ps -q | xargs --no-run-if-empty docker inspect --format \
        '{{index .Config.Labels "com.docker.compose.service"}} {{if .State.Health}}{{.State.Health.Status}}{{else}}{{.State.Status}}{{end}}'
}

wait_until_healthy() {
    local until=$((SECONDS + WAIT_S)) waiting
    while waiting="$(states | grep -v ' healthy$' || true)"; [ -n "$waiting" ]; do
        if [ "$SECONDS" -ge "$until" ]; then
            echo "not healthy after $WAIT_S s: $(echo "$waiting" | tr '\n' ';')" \
                 "see docker/cluster.sh logs SERVICE" >&2
            return 4
        fi
        sleep 2
    done
}

: "${NASCTL_UID:=$(container_uid)}"
export NASCTL_UID

case "${1:-}" in
    "") sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    secrets) write_secrets ;;
    launch)
        check_secrets
        check_login
        write_secrets
        workers="${2:-$(running ray-worker)}"
        if [ "$workers" = 0 ] && [ -z "${2:-}" ]; then workers=2; fi
        compose build
        start "$workers"
        wait_until_healthy
        echo "Ray: http://$(compose port ray-head 8265) (token: $secrets/ray_token)" >&2
        echo "MLflow: http://$(compose port mlflow 5000)" >&2
        ;;
    search) shift; search "$@" ;;
    *) compose "$@" ;;
esac
