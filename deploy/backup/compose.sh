# shellcheck shell=sh
# How backup.sh and restore.sh reach the servers: those of the Compose project in this folder or in
# COMPOSE_FILE. Another deployment has a file with the same four functions.

# Run a script beside the running Redis; $DATA is its data folder, REDISCLI_AUTH its password.
in_redis() {
    # shellcheck disable=SC2016 # for the shell in the container
    docker compose exec -T redis sh -c '
        export DATA=/data REDISCLI_AUTH="$(cat /run/secrets/redis_password)"
        eval "$1"' sh "$1"
}

# Run a script in the data folder of Redis, which is stopped.
in_stopped_redis() {
    docker compose run --rm --no-deps -T --entrypoint sh -e DATA=/data redis -c "$1"
}

# Run rclone, which knows the object store as "s3:", with the backup's folder at hand.
s3() {
    backup=$1
    shift
    docker compose --profile backup run --rm --no-deps -T --user "$(id -u):$(id -g)" \
        -v "$backup:/backup" rclone "$@" </dev/null
}

# Where rclone finds the backup's folder.
in_s3() {
    echo /backup
}
