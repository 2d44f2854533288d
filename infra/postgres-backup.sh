#!/bin/sh
# Backs up the tracking database, or restores it. The libpq variables (PGHOST, PGUSER, PGPASSWORD, PGDATABASE) say which.
#   postgres-backup.sh once FOLDER [KEEP]      one checked dump into FOLDER; the KEEP newest stay (default 14)
#   postgres-backup.sh daily FOLDER [KEEP]     the same every 24 h, until ended
#   postgres-backup.sh restore FILE            replaces the content of the database; stop MLflow first
# Keep a copy of FOLDER on another disk. Results are in the store: `python -m pipeline sync` rebuilds their rows; notes
# and runs that people added by hand are only in this database.
set -eu
umask 077

refuse() {
  echo "$1" >&2
  exit 2
}

back_up() { # folder, keep
  stamp="$(date -u +%Y%m%dT%H%M%SZ)"
  draft="$1/.draft-$stamp"
  trap 'rm -f "$draft"' EXIT
  pg_dump --format=custom --no-owner --no-privileges --file="$draft"
  pg_restore --file=/dev/null "$draft" # reads all of it: a cut archive fails here
  mv "$draft" "$1/mlflow-$stamp.dump"
  trap - EXIT
  echo "wrote $1/mlflow-$stamp.dump"
  # Names sort by time; everything before the newest goes.
  find "$1" -name 'mlflow-*.dump' -type f | sort -r | tail -n +"$(($2 + 1))" | while read -r old; do
    rm -- "$old"
  done
}

command="${1:-}"
case "$command" in
  once | daily)
    folder="${2:-}"
    keep="${3:-14}"
    [ -d "$folder" ] || refuse "$folder: no such folder; make it, then call $0 $command FOLDER [KEEP]"
    case "$keep" in
      '' | 0 | *[!0-9]*) refuse "KEEP is $keep; expected a number of backups of at least 1" ;;
    esac
    back_up "$folder" "$keep"
    while [ "$command" = daily ]; do
      sleep 86400 &
      wait $! # a signal ends the wait at once
      # In a shell of its own: an error there must not end this loop, and `set -e` must hold inside.
      "$0" once "$folder" "$keep" || echo "the backup failed; the next try is in 24 h" >&2
    done
    ;;
  restore)
    file="${2:-}"
    [ -f "$file" ] || refuse "${file:-FILE}: no such file; call $0 restore FILE"
    pg_restore --file=/dev/null "$file" || refuse "$file is not a readable backup; take an older one"
    pg_restore --clean --if-exists --no-owner --no-privileges --single-transaction --exit-on-error \
      --dbname="${PGDATABASE:?names the database}" "$file"
    echo "restored $file"
    ;;
  *)
    refuse "usage: $0 once|daily FOLDER [KEEP], or $0 restore FILE"
    ;;
esac
