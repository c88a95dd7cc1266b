#!/bin/sh
# The MLflow server. Passwords come from secret files and go to files that only this user can read
# (on a tmpfs), never into an argument or an address.
set -eu
umask 077

printf 'postgres:5432:mlflow:mlflow:%s\n' "$(cat /run/secrets/postgres_password)" > /tmp/pgpass
export PGPASSFILE=/tmp/pgpass
export MLFLOW_BACKEND_STORE_URI=postgresql+psycopg://mlflow@postgres:5432/mlflow

if [ "${1:-}" = upgrade ]; then  # of the database, to this version of MLflow
    exec mlflow db upgrade "$MLFLOW_BACKEND_STORE_URI"
fi

case "${MLFLOW_AUTH:-none}" in
    none) ;;
    basic)
        cat > /tmp/basic_auth.ini <<INI
[mlflow]
default_permission = READ
database_uri = $MLFLOW_BACKEND_STORE_URI
admin_username = admin
admin_password = $(sed 's/%/%%/g' /run/secrets/mlflow_password)
auth_cache_ttl_seconds = 60
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
INI
        export MLFLOW_AUTH_CONFIG_PATH=/tmp/basic_auth.ini
        MLFLOW_FLASK_SERVER_SECRET_KEY="$(python -c 'import secrets; print(secrets.token_hex(32))')"
        export MLFLOW_FLASK_SERVER_SECRET_KEY
        set -- --app-name basic-auth "$@"
        ;;
    *) echo "MLFLOW_AUTH: expected none or basic, got $MLFLOW_AUTH" >&2; exit 2 ;;
esac

# On a busy host a worker that still imports does not answer for longer than the 5 s that Uvicorn
# gives it; it would be killed and started again for ever.
exec mlflow server --host 0.0.0.0 --port 5000 --workers "${MLFLOW_WORKERS:-2}" \
    --uvicorn-opts "--timeout-worker-healthcheck 120" \
    --artifacts-destination /mlartifacts --allowed-hosts "$MLFLOW_HOSTS" "$@"
