#!/bin/sh
# Starts SeaweedFS as one process: S3 on all interfaces, its other servers (which ask for no credentials) on loopback.
# Three users: admin makes buckets, pipeline and mlflow reach their own bucket only.
set -eu
umask 077
config="${S3_CONFIG:-/tmp/s3.json}"

for name in S3_ADMIN_ACCESS_KEY S3_ADMIN_SECRET_KEY S3_PIPELINE_ACCESS_KEY S3_PIPELINE_SECRET_KEY \
  S3_MLFLOW_ACCESS_KEY S3_MLFLOW_SECRET_KEY; do
  value=''
  eval "value=\${$name:-}"
  case "$value" in
    '' | *[!A-Za-z0-9]*)
      echo "$name: expected letters and digits; infra/secrets.sh makes such keys" >&2
      exit 2
      ;;
  esac
done

identity() { # name, access key, secret key, actions
  printf '{"name": "%s", "credentials": [{"accessKey": "%s", "secretKey": "%s"}], "actions": [%s]}' "$@"
}

on_bucket() {
  printf '"Read:%s", "Write:%s", "List:%s", "Tagging:%s"' "$1" "$1" "$1" "$1"
}

{
  printf '{"identities": [\n'
  identity admin "$S3_ADMIN_ACCESS_KEY" "$S3_ADMIN_SECRET_KEY" '"Admin", "Read", "Write", "List", "Tagging"'
  printf ',\n'
  identity pipeline "$S3_PIPELINE_ACCESS_KEY" "$S3_PIPELINE_SECRET_KEY" "$(on_bucket pipeline)"
  printf ',\n'
  identity mlflow "$S3_MLFLOW_ACCESS_KEY" "$S3_MLFLOW_SECRET_KEY" "$(on_bucket mlflow)"
  printf '\n]}\n'
} >"$config"

exec "${WEED:-/usr/bin/weed}" -logtostderr=true server -dir=/data \
  -ip=127.0.0.1 -ip.bind=127.0.0.1 \
  -master.telemetry=false -master.volumeSizeLimitMB=1024 -volume.max=0 -volume.minFreeSpace=5GiB \
  -s3 -s3.config="$config" -s3.ip.bind=0.0.0.0 -s3.port=8333 -s3.port.iceberg=0 -s3.port.lance=0 \
  -s3.iam=false -s3.allowDeleteBucketNotEmpty=false
