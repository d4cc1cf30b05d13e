#!/bin/sh
# One night: label the news of a day, compare them with the nights before, remove old outputs.
#   night.sh [DATE]    without a date, of the day before in UTC
# It may run again at any time: each step makes only what is missing. Its exit code is that of the first step that did
# not succeed: 1 try again, 2 the request is wrong, 3 the labels differ from those of the last nights.
set -eu
cd "$(dirname "$0")"
night=${1:-$(date -u -d yesterday +%F)}

tirazh run nightly.yaml --set "date=$night"

# Up to seven finished nights before this one, the oldest first.
before=$(ls -d labelled/????-??-??/_SUCCESS | cut -d/ -f1-2 | sed "/$night/,\$d" | tail -n 7)
if [ -n "$before" ]; then
    # shellcheck disable=SC2086 # one word for each night
    tirazh report "labelled/$night" --against $before --fail-on 'labels>0.1'
fi

tirazh prune labelled --keep 30d
