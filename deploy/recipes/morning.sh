#!/bin/sh
# Is the night's output there? Let another machine or scheduler run this in the morning: it also notices a night that
# never started. Exit code 1 if the output is missing, not finished, or older than 26 hours.
set -eu
cd "$(dirname "$0")"
exec tirazh status "labelled/$(date -u -d yesterday +%F)" --max-age 26h
