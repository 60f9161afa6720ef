#!/bin/sh
# The demonstration: the digits model over its held-out images. Arguments go to `millrace demo`.
set -eu
cd "$(dirname "$0")/.."
exec build/millrace demo "$@"
