#!/bin/sh
# Make a certificate authority and a server certificate for trials. Usage: certs.sh FOLDER NAME…
#
# In production, use your own certificates; servers, workers and clients read renewed ones by themselves.
set -eu
folder=$1
shift
mkdir -p "$folder"
cd "$folder"
[ ! -e server.crt ] || exit 0

names=
for name; do
  case $name in
    *[!0-9.]*) names="$names${names:+,}DNS:$name" ;;
    *) names="$names${names:+,}IP:$name" ;;
  esac
done

umask 077
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj "/CN=Longshore test CA" \
  -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign,cRLSign" \
  -keyout ca.key -out ca.crt 2>/dev/null
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$1" -keyout server.key -out server.csr 2>/dev/null
printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth\n' "$names" >server.ext
openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -extfile server.ext -out server.new 2>/dev/null
cat server.new server.key >longshore.pem
rm server.csr server.ext
chmod 644 ca.crt server.new
# This file comes last, because it says that everything is there.
mv server.new server.crt
