#!/bin/sh
# Writes the manual page and the shell completions into the folder `manual` beside the binary, where the package takes them from. The binary
# itself prints both, so they always match its options.
set -eu
binary=$1
folder=$(dirname "$binary")/manual
mkdir -p "$folder"
# Compressed as Debian policy 12.1 requires. -n leaves out name and time, so the same page gives the same file.
"$binary" man > "$folder/shopper-gateway.1"
gzip -9 -n -f "$folder/shopper-gateway.1"
"$binary" completions bash > "$folder/shopper-gateway.bash"
"$binary" completions zsh > "$folder/_shopper-gateway"
"$binary" completions fish > "$folder/shopper-gateway.fish"
