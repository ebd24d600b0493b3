#!/bin/sh
# Writes the manual page and the shells' completions of a binary beside it, where the package takes them from: both are the
# binary's own, so they cannot differ from what it understands.
set -eu
binary=$1
folder=$(dirname "$binary")/manual
mkdir -p "$folder"
# Compressed as Debian's policy wants it (12.1), and the same for the same page.
"$binary" man > "$folder/shopper-gateway.1"
gzip -9 -n -f "$folder/shopper-gateway.1"
"$binary" completions bash > "$folder/shopper-gateway.bash"
"$binary" completions zsh > "$folder/_shopper-gateway"
"$binary" completions fish > "$folder/shopper-gateway.fish"
