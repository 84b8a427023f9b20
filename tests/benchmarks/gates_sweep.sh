#!/bin/sh
# Time and fidelity of every published gate, of cache-dit itself and of the tuned gate, at 50 steps of the small model:
#
#     sh tests/benchmarks/gates_sweep.sh FOLDER
#
# 26 clips, about ten minutes of one core. A stopped sweep goes on with `sgd resume FOLDER`.
OMP_NUM_THREADS=1 exec "${SGD:-sgd}" sweep quickstart_tuned steps=50 --output sheet --out "$1" \
  prompt="a small yellow triangle moving left on a purple background" \
  --vary seed=0:2 --reference 'gate={uses: cache.none}' --vary 'gate=[
    {uses: cache.none},
    {uses: cache.tuned, table: "sgd:tables/quickstart_tuned.json", psnr: 38},
    {uses: cache.tuned, table: "sgd:tables/quickstart_tuned.json", psnr: 46},
    {uses: cache.tuned, table: "sgd:tables/quickstart_tuned.json", psnr: 55},
    {uses: cache.dbcache, threshold: 0.15, warmup_steps: 8, max_consecutive: 3, front_blocks: 1},
    {uses: cache.taylorseer, order: 1, threshold: 0.15, warmup_steps: 8, max_consecutive: 3, front_blocks: 1},
    {uses: cache.scm, preset: fast, order: 1},
    {uses: cache.teacache, table: "sgd:tables/quickstart_calibrated.json", threshold: 0.0389},
    {uses: cache.teacache, table: "sgd:tables/quickstart_calibrated.json", threshold: 0.0158},
    {uses: cache.magcache, table: "sgd:tables/quickstart_calibrated.json", threshold: 0.0649, max_consecutive: 3},
    {uses: cache.easycache, threshold: 0.05},
    {uses: cache.fora, every: 3},
    {uses: cache.library, Fn_compute_blocks: 1, residual_diff_threshold: 0.15, max_warmup_steps: 8,
     max_continuous_cached_steps: 3, enable_taylorseer: true}]'
