#!/bin/sh
# Made the files of this folder: two authorities (old, new), and of each a certificate for the server
# localhost and one for the client. They are valid for a hundred years and protect nothing.
set -eu
for age in old new; do
  make="openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 36500"
  $make -keyout authority.key -out $age-authority.pem -subj "/CN=$age authority" \
    -addext keyUsage=critical,keyCertSign
  for name in server client; do
    $make -keyout $age-$name.key -out $age-$name.pem -subj "/CN=$age $name" \
      -CA $age-authority.pem -CAkey authority.key -addext basicConstraints=CA:FALSE \
      -addext subjectAltName=DNS:localhost,DNS:kube.example.com,IP:127.0.0.1
  done
done
rm authority.key
