#!/bin/sh
# Writes a random password for each of the stack's secrets that has none yet: `make secrets`.
# The folder is its owner's alone; the files in it can be read by the containers' users, to whom Docker
# hands them one by one.
set -eu
folder=${1:-secrets}
umask 077
mkdir -p "$folder"
for name in redis_password minio_root_password s3_gateway s3_worker s3_trainer s3_inference grafana_password; do
  if [ ! -s "$folder/$name" ]; then
    od -An -N24 -tx1 /dev/urandom | tr -d ' \n' >"$folder/$name"
    echo "wrote $folder/$name"
  fi
done
# A Hugging Face token, for gated base models; empty is fine.
[ -e "$folder/hf_token" ] || : >"$folder/hf_token"
# One that may write, for exports that are pushed to a hub (docker-compose.hub.yml); empty: none are.
[ -e "$folder/hub_token" ] || : >"$folder/hub_token"
chmod 444 "$folder"/*
