#!/bin/bash
# Measure again what the pages say of `mini`, after its weights changed; goes on where it stopped.
#
#   bash training/measure.sh runs/measures    # two at a time, one thread each; nothing else should run beside it
#
# Each file of runs/measures is the output of one command, named as the page that holds its figures. docs/adaptation.md and what
# pages say of times are left out: the first takes a day, the second need idle cores.
set -u
cd "$(dirname "$0")/.."
out=${1:?expected a folder for the outputs}
real=../shared/data
python=.venv/bin/python
anovl=.venv/bin/anovl
mkdir -p "$out"
out=$(cd "$out" && pwd)
export OMP_NUM_THREADS=1

measure() { # NAME COMMAND...: the command's output in NAME.txt, once it ended well
    local name=$1
    shift
    [ -e "$out/$name.txt" ] && return
    if "$@" > "$out/$name.part" 2>&1; then
        mv "$out/$name.part" "$out/$name.txt"
    else
        echo "$name failed: $out/$name.part" >&2
    fi
}

first_half() { # docs/reproduction.md is its bullets and the tables, one after another
    for table in table1 table2 table3 table4 table5 table6; do
        measure "reproduction-$table" $anovl reproduce $table --synthetic -o "$out/tables/$table"
    done
    measure few_and_many $python benchmarks/decisions.py --folder "$out/decisions" \
        --real $real/hazelnut:hazelnut:256 --real "$real/magnetic_tile:magnetic tile:128"
}

second_half() {
    measure models-mini $python training/evaluate.py mini --split verdict --per-class 60 --tables --every-class --every-kind \
        --image-score class_token_and_map_max --real $real/hazelnut:hazelnut --real "$real/magnetic_tile:magnetic tile"
    measure models-validation $python training/evaluate.py mini --split validation --per-class 60 \
        --image-score class_token_and_map_max
    measure high_resolution-tile $python benchmarks/tiles.py --data $real/magnetic_tile --sides 128
    measure high_resolution-hazelnut $python benchmarks/tiles.py --data $real/hazelnut --sides 256 --crop
    measure high_resolution-drawn $python benchmarks/tiles.py --drawn leather,concrete,washer,circuit_board --per-class 10 \
        --sides 256 --crop
    measure high_resolution-choice $python training/study_tiles.py mini
    measure naming $python benchmarks/naming.py
    measure naming-study $python training/study_naming.py mini
    measure naming-map $python training/study_naming_map.py mini
    measure performance-decode $python benchmarks/decode.py
    measure export $python benchmarks/export.py --rounds 1
    measure export-adapt $python benchmarks/export.py --rounds 1 --adapt
}

trap 'trap - TERM; kill 0' INT TERM # both halves, and what they run
first_half &
second_half
wait
# Table 7 is of times on two threads.
OMP_NUM_THREADS=2 measure reproduction-table7 $anovl reproduce table7 --synthetic -o "$out/tables/table7"
! ls "$out"/*.part > /dev/null 2>&1 # what failed has told so
