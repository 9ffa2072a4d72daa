#!/usr/bin/env bash
# Plan for this computer, emit the plan, start what was emitted, and compare its benchmark with the prediction.
# Usage: launch.sh VLLM_ENVIRONMENT RESULTS [MODEL]; run.sh has measured and calibrated the model in RESULTS before.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
usage="usage: launch.sh VLLM_ENVIRONMENT RESULTS [MODEL]"
environment=${1:?$usage} results=$(cd "${2:?$usage}" && pwd) model=${3:-llama-64m}
tokenworks=${TOKENWORKS:-$here/../../.venv/bin/tokenworks}
calibration=$results/$model.calibration.yaml
if [ ! -f "$calibration" ]; then
	echo "launch.sh: there is no $calibration: run '$here/run.sh $environment $results $model' first" >&2
	exit 2
fi

# A load of 4 requests in flight. The bounds are wide: the plan should not depend on the speed of this computer.
printf 'name: localhost\nisl: 256\nosl: 64\nslo: ttft=60s,tpot=5s\n' > "$results/workload.yaml"
"$tokenworks" plan "$results/models/$model" --on "$results/system.yaml" --calibration "$calibration" --engine vllm \
	--workload "$results/workload.yaml" --concurrency 4 --set engine.memory_fraction=0.2 -o yaml > "$results/plan.yaml"
rm -rf "$results/launch"
"$tokenworks" emit "$results/plan.yaml" --set roles.0.chunk_tokens=2048 --max-model-len 4096 --requests 24 \
	--out "$results/launch" -o json > "$results/launch.json"

# As in measure.py: other work disturbs the engine less, if the user may raise the priority (root).
{ renice -n -10 -p $$ > /dev/null && { [ ! -w /proc/self/autogroup ] || echo -10 > /proc/self/autogroup; }; } 2> /dev/null ||
	echo "launch.sh: priority not raised (not root): other work disturbs the measurement" >&2
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1
export OMP_NUM_THREADS=1 VLLM_CPU_OMP_THREADS_BIND=1 PATH="$(cd "$environment" && pwd)/bin:$PATH"
bash "$results/launch/aggregated.sh" --load-format dummy > "$results/launch.server.log" 2>&1 & # random weights
server=$!
stop() {
	kill "$server" 2> /dev/null || true
	wait "$server" 2> /dev/null || true
	{ echo 0 > /proc/self/autogroup; } 2> /dev/null || true
}
trap stop EXIT
if ! bash "$results/launch/bench.sh" --ready-check-timeout-sec 1800 > "$results/launch.bench.log" 2>&1; then
	echo "launch.sh: the benchmark failed: see $results/launch.bench.log and $results/launch.server.log" >&2
	exit 1
fi
python3 "$here/compare.py" "$results/launch.json" "$results"/launch/results/*.json
