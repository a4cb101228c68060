#!/bin/sh
# What is made once, before the first server starts: certificates, the schema, and a token for each who calls.
# Usage: prepare.sh FOLDER NAME…, with LONGSHORE_DATABASE in the environment. A second time it changes nothing.
set -eu
folder=$1
shift

certs.sh "$folder/tls" "$@"
longshored migrate
[ -e "$folder/worker.token" ] || longshored token create worker --role work --token-file "$folder/worker.token"
[ -e "$folder/client.token" ] ||
  longshored token create client --role submit --role operate --token-file "$folder/client.token"
