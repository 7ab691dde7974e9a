#!/bin/sh
# Backs up Redis and S3 while everything runs: backup.sh FOLDER
#
# The folder is new. It holds what was de-identified, adapters and hashed API keys: keep it encrypted.
# NARROWCAST_BACKUP_BUCKETS names the buckets. Uploaded originals (narrowcast-documents, with patients'
# names in them) are left out unless they are named there: unfinished corpora are then uploaded anew.
# NARROWCAST_BACKUP_TARGET is a file of functions that reach the servers, compose.sh unless given.
set -eu
umask 077
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR source=compose.sh
. "${NARROWCAST_BACKUP_TARGET:-$here/compose.sh}"
buckets=${NARROWCAST_BACKUP_BUCKETS:-narrowcast-data narrowcast-models}

die() {
    echo "backup: $1" >&2
    exit 1
}

folder=${1:-}
[ -n "$folder" ] || die "which folder?"
[ ! -e "$folder" ] || die "$folder is there already"
mkdir -p "$folder/s3"
folder=$(cd "$folder" && pwd)

# Redis first. A record that says "succeeded" was written after its artifact, which S3 then still has
# when it is copied. The other way round, records would name artifacts that the copy lacks. What S3
# gets in between belongs to a job that runs in the snapshot: restored, it is resumed and finds it.
# Not to stdout at once: redis-cli may leave a mark behind the snapshot there.
# shellcheck disable=SC2016 # for the shell beside Redis
in_redis '
    trap "rm -f \"$DATA/backup.rdb\"" EXIT
    ${REDIS_CLI:-redis-cli} --rdb "$DATA/backup.rdb" >&2 && cat "$DATA/backup.rdb"
' </dev/null >"$folder/redis.rdb"
[ "$(head -c 5 "$folder/redis.rdb")" = REDIS ] || die "Redis gave no snapshot"

# Manifests first: what has one was whole before, so its files are there when they are copied. One that
# appears later is left to the next backup, whatever of its files got into this.
for bucket in $buckets; do
    s3 "$folder" copy "s3:$bucket" "$(in_s3 "$folder")/s3/$bucket" --include manifest.json
done
for bucket in $buckets; do
    s3 "$folder" copy "s3:$bucket" "$(in_s3 "$folder")/s3/$bucket" --exclude manifest.json
    mkdir -p "$folder/s3/$bucket" # an empty one gives none
done

chmod -R go= "$folder" # a container has a umask of its own

# Last: a backup without it is not whole.
(cd "$folder" && find redis.rdb s3 -type f -exec sha256sum {} + >SHA256SUMS.new && mv SHA256SUMS.new SHA256SUMS)
echo "backup: $(wc -l <"$folder/SHA256SUMS") files, $(du -sh "$folder" | cut -f1), in $folder" >&2
