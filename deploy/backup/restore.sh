#!/bin/sh
# Restores a backup into new servers: restore.sh FOLDER
#
# S3 runs and has its buckets; Redis and all services are stopped, and Redis has no data. See
# docs/operations.md.
set -eu
umask 077
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR source=compose.sh
. "${NARROWCAST_BACKUP_TARGET:-$here/compose.sh}"

die() {
    echo "restore: $1" >&2
    exit 1
}

folder=${1:-}
[ -f "$folder/SHA256SUMS" ] || die "no whole backup in '$folder': SHA256SUMS is missing"
folder=$(cd "$folder" && pwd)
(cd "$folder" && sha256sum --check --quiet --strict SHA256SUMS) >&2 || die "the backup is damaged"

# shellcheck disable=SC2016 # for the shell beside Redis
in_stopped_redis '[ ! -e "$DATA/appendonlydir" ] && [ ! -e "$DATA/dump.rdb" ]' </dev/null ||
    die "Redis has data already: restore into an empty volume"

# In the order in which services write: what has a manifest is whole.
for path in "$folder"/s3/*; do
    bucket=$(basename "$path")
    s3 "$folder" copy "$(in_s3 "$folder")/s3/$bucket" "s3:$bucket" --s3-no-check-bucket --exclude manifest.json
    s3 "$folder" copy "$(in_s3 "$folder")/s3/$bucket" "s3:$bucket" --s3-no-check-bucket --include manifest.json
done

# With its append-only file on, Redis reads nothing else when it starts: the snapshot becomes that
# file's base. A folder is renamed into place, so a restore that was cut off can be repeated.
# shellcheck disable=SC2016 # for the shell beside Redis
in_stopped_redis '
    set -e
    rm -rf "$DATA/restoring"
    mkdir "$DATA/restoring"
    cat >"$DATA/restoring/appendonly.aof.1.base.rdb"
    echo "file appendonly.aof.1.base.rdb seq 1 type b" >"$DATA/restoring/appendonly.aof.manifest"
    mv "$DATA/restoring" "$DATA/appendonlydir"
' <"$folder/redis.rdb"
echo "restore: done; start everything" >&2
