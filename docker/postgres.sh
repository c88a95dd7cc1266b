#!/bin/sh
# PostgreSQL, made on the first start: a role and a database `mlflow` with the password from the
# secret file. The superuser has no password: it is this container's user, through the local socket.
set -eu
umask 077
PATH="$(echo /usr/lib/postgresql/*/bin):$PATH"
folder=/var/lib/postgresql/data
secret=/run/secrets/postgres_password

if ! [ -s "$secret" -a -r "$secret" ]; then
    echo "no PostgreSQL password to read at $secret (user $(id -u)): run make cluster-up" >&2
    exit 4
fi

if ! [ -d "$folder/main" ]; then
    rm -rf "$folder/new"  # of a start that did not end
    initdb --pgdata "$folder/new" --username database --auth-local peer --auth-host scram-sha-256 \
        --encoding UTF8 --locale C.UTF-8 >/dev/null
    echo 'host all all all scram-sha-256' >> "$folder/new/pg_hba.conf"
    postgres --single -D "$folder/new" postgres >/dev/null <<SQL
CREATE ROLE mlflow LOGIN PASSWORD '$(cat "$secret")';
CREATE DATABASE mlflow OWNER mlflow;
SQL
    mv "$folder/new" "$folder/main"
fi

exec postgres -D "$folder/main" -c listen_addresses='*' -c unix_socket_directories=/tmp "$@"
