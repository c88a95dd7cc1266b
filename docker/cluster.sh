#!/usr/bin/env bash
# The cluster of docker-compose.yml; the Makefile's targets call this.
#
#   docker/cluster.sh secrets               write what is missing in .cluster/
#   docker/cluster.sh launch [WORKERS]      build, start, wait until everything is healthy
#   docker/cluster.sh down [--volumes]      stop; --volumes also deletes runs and database
#   docker/cluster.sh ARGS...               the same as `docker compose ARGS...`
set -euo pipefail
cd "$(dirname "$0")/.."

WAIT_S=${WAIT_S:-600}
secrets=${NASCTL_SECRETS:-.cluster}

compose() {
    if docker compose version >/dev/null 2>&1; then docker compose "$@"
    elif command -v docker-compose >/dev/null; then docker-compose "$@"
    else echo "neither the Compose plugin of docker nor docker-compose is installed" >&2; return 4
    fi
}

# The containers run as the owner of the secret files: a mounted file keeps its owner and mode.
container_uid() {
    if [ -e "$secrets/ray_token" ]; then stat -c %u "$secrets/ray_token"
    elif [ "$(id -u)" = 0 ]; then echo 10001; else id -u; fi
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
    "") sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    secrets) write_secrets ;;
    launch)
        write_secrets
        compose build
        compose up -d --scale "ray-worker=${2:-2}"
        wait_until_healthy
        echo "Ray: http://$(compose port ray-head 8265) (token: $secrets/ray_token)" >&2
        echo "MLflow: http://$(compose port mlflow 5000)" >&2
        ;;
    *) compose "$@" ;;
esac
