#!/usr/bin/env bash
# Measure on one GPU, in under ten minutes, what was only measured on CPUs: the cost of
# a step with each form of the teacher, in float32 and with mixed precision; pinned
# memory; and one short pair on BCCD.
#
#     BCCD_ROOT=data/bccd benchmarks/gpu.sh [OUT]
#
# Writes OUT (work_dirs/gpu): a json of each benchmark, the trainings, and summary.txt.
# Finished trainings are skipped, interrupted ones resumed. Without a GPU:
#
#     DEVICE=cpu ITERS=1 EPOCHS=1 benchmarks/gpu.sh /tmp/gpu
set -euo pipefail

out=${1:-work_dirs/gpu}
device=${DEVICE:-cuda}
iters=${ITERS:-30}
epochs=${EPOCHS:-16}
python=${PYTHON:-python}
bccd=mkd_det::bccd/gfl_mkd_r18-w64_r18-w16_bccd.py
coco=mkd_det::coco/gfl_mkd_r50_r18_fpn_1x_coco.py
amp=optim_wrapper.type=AmpOptimWrapper
mkdir -p "$out"
: > "$out/summary.txt"

log=    # of the command that runs
timed=  # file with the seconds of the training that runs
begun=0

# Add to the seconds of a training, which may be interrupted and resumed.
count_seconds() {
    echo $(($(cat "$timed" 2> /dev/null || echo 0) + SECONDS - begun)) > "$timed.new"
    mv "$timed.new" "$timed"
    timed=
}

# Show why a command has failed: what it says is in its log only.
finish() {
    local code=$?
    [ -z "$timed" ] || count_seconds
    if [ "$code" != 0 ] && [ -f "$log" ]; then
        echo "Failed with exit code $code. The end of $log:" >&2
        tail -n 20 "$log" >&2
    fi
}
trap finish EXIT

# A line of the summary for each number.
say() { echo "$*" | tee -a "$out/summary.txt"; }

# K / (S + T) of a config. Arguments: name, config, options of `mkd-det benchmark`.
step() {
    local name=$1
    shift
    log="$out/$name.log"
    "$python" -m mkd_det benchmark "$@" --device "$device" --iters "$iters" \
        --json "$out/$name.json" > "$log" 2>&1
    say "$name: $("$python" - "$out/$name.json" <<'END'
import json
import sys

ratios = json.load(open(sys.argv[1]))['ratios']
print(', '.join(f'{k} {v["of_medians"]:.2f}' for k, v in ratios.items()))
END
)"
}

# A training. Arguments: name, config, options of `mkd-det train`.
training() {
    local name=$1
    shift
    log="$out/$name.log"
    if [ ! -f "$out/$name/epoch_$epochs.pth" ]; then
        begun=$SECONDS
        timed="$out/$name.seconds"
        "$python" -m mkd_det train "$1" --resume --work-dir "$out/$name" "${@:2}" \
            > "$log" 2>&1
        count_seconds
    fi
    say "$name: $(cat "$out/$name.seconds" 2> /dev/null || echo unknown) s, $(grep -o \
        'coco/bbox_mAP: [0-9.-]*' "$log" | tail -n 1)$("$python" - "$out/$name" <<'END'
import json
import sys
from pathlib import Path
from statistics import median

lines = [
    json.loads(line)
    for file in Path(sys.argv[1]).glob('*/vis_data/scalars.json')
    for line in file.read_text().splitlines()
]
steps = [line for line in lines if 'data_time' in line and 'lr' in line]
if steps:
    step, data = (median(line[key] for line in steps) for key in ('time', 'data_time'))
    print(f', step {step:.4f} s, of it {data:.4f} s for data (medians)')
END
)"
}

"$python" -c 'import torch; print(torch.__version__, torch.cuda.get_device_name()
    if torch.cuda.is_available() else "CPU")' | tee -a "$out/summary.txt"
small=(--batch-size 8)
[ "$device" = cpu ] && small=(--batch-size 2 --image-size 128 128 --warmup 1)
step bccd "$bccd" --speeds off exact fast
step coco "$coco" "${small[@]}" --speeds off exact fast
if [ "$device" != cpu ]; then
    # mmengine's mixed precision needs a GPU.
    step bccd_amp "$bccd" --speeds off exact fast --cfg-options "$amp"
    step coco_amp "$coco" "${small[@]}" --speeds off exact fast --cfg-options "$amp"
fi
short=(--cfg-options "train_cfg.max_epochs=$epochs" "train_cfg.val_interval=$epochs")
training teacher mkd_det::bccd/gfl_r18-w64_bccd.py "${short[@]}"
training student mkd_det::bccd/gfl_r18-w16_bccd.py "${short[@]}"
short+=("model.teachers.t.checkpoint=$out/teacher/epoch_$epochs.pth")
training mkd "$bccd" "${short[@]}"
training mkd_pinned "$bccd" "${short[@]}" train_dataloader.pin_memory=True
[ "$device" = cpu ] || training mkd_amp "$bccd" "${short[@]}" "$amp"
