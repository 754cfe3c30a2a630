#!/bin/sh
# Prints the ten largest source files; a file of more than 500 lines holds more than one noun.
set -eu

find coordinator worker kernels tests scripts -type f \( -name '*.py' -o -name '*.sh' -o -name '*.h' -o -name '*.cpp' -o -name '*.metal' -o -name '*.html' \) \
    -exec wc -l {} + | awk '$2 != "total"' | sort -rn | awk '
    NR <= 10 { print }
    $1 > 500 { print "lines: " $2 " has " $1 " lines, the limit is 500: split it" > "/dev/stderr"; long = 1 }
    END { exit long }'
