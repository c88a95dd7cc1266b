#!/bin/sh
# Runs before every command of the image: a secret that is missing ends it here, with one line.
set -eu
umask 027

if [ -n "${RAY_AUTH_TOKEN_PATH:-}" ] && ! [ -s "$RAY_AUTH_TOKEN_PATH" -a -r "$RAY_AUTH_TOKEN_PATH" ]; then
    echo "no Ray token to read at $RAY_AUTH_TOKEN_PATH (user $(id -u)): run make cluster-up," \
         "which writes it, or see docs/cluster.md" >&2
    exit 4
fi

# MLflow's clients read their password from a file; in the environment every child could see it.
if [ "${MLFLOW_AUTH:-none}" = basic ] && [ -r /run/secrets/mlflow_password ]; then
    mkdir -p "$HOME/.mlflow"
    (umask 077; printf '[mlflow]\nmlflow_tracking_username = admin\nmlflow_tracking_password = %s\n' \
        "$(sed 's/%/%%/g' /run/secrets/mlflow_password)" > "$HOME/.mlflow/credentials")
fi

exec "$@"
