#!/bin/sh
# Make certificates, the schema, and the tokens of worker and client, once, before the first server starts.
# Usage: prepare.sh FOLDER NAME…, with LONGSHORE_DATABASE in the environment. A second run changes nothing.
set -eu
folder=$1
shift

certs.sh "$folder/tls" "$@"
longshored migrate
[ -e "$folder/worker.token" ] || longshored token create worker --role work --token-file "$folder/worker.token"
[ -e "$folder/client.token" ] ||
  longshored token create client --role submit --role operate --token-file "$folder/client.token"
