#!/bin/sh
# Makes infra/.env with fresh random secrets, once; compose.yaml reads it. An existing file is left alone.
set -eu
umask 077
file="$(dirname "$0")/.env"
if [ -e "$file" ]; then
  echo "$file exists; delete it to make new secrets (and change the password inside Postgres)" >&2
  exit 0
fi

random() {
  od -An -N "$1" -tx1 /dev/urandom | tr -d ' \n'
}

draft="$(mktemp "$file.XXXXXX")"
trap 'rm -f "$draft"' EXIT
{
  echo "RAY_AUTH_TOKEN=$(random 32)"
  echo "POSTGRES_PASSWORD=$(random 24)"
  for who in ADMIN PIPELINE MLFLOW; do
    echo "S3_${who}_ACCESS_KEY=$(random 10)"
    echo "S3_${who}_SECRET_KEY=$(random 24)"
  done
} >"$draft"
mv "$draft" "$file"
trap - EXIT
echo "wrote $file"
