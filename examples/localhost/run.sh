#!/usr/bin/env bash
# Measure a real engine on this computer, calibrate on three points, predict the other points.
# Usage: run.sh VLLM_ENVIRONMENT [RESULTS] [MODEL...]; the environment is created if it does not exist.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
environment=${1:?usage: run.sh VLLM_ENVIRONMENT [RESULTS] [MODEL...]}
results=${2:-localhost-results}
models=("${@:3}")
[ ${#models[@]} -gt 0 ] || models=(llama-64m qwen3-moe-163m)
tokenworks=${TOKENWORKS:-$here/../../.venv/bin/tokenworks}

# CLOSED.requests-in-flight.isl.osl, RATE.requests-per-second.isl.osl; auto: the throughput of CLOSED.2 with these lengths
fitted=(CLOSED.1.128.64 CLOSED.16.128.64 CLOSED.4.1024.32)
others=(CLOSED.2.256.64 CLOSED.4.128.64 CLOSED.8.512.64 CLOSED.2.2048.32 CLOSED.32.128.64 RATE.auto.256.64)

[ -x "$environment/bin/vllm" ] || "$here/install.sh" "$environment"
python=$environment/bin/python
dtype=$("$python" "$here/machine.py" "$results")
"$python" "$here/models.py" "$results" "$dtype"
for model in "${models[@]}"; do
	echo "$model: measuring ${#fitted[@]} + ${#others[@]} points; progress is in $results/$model/client.log" >&2
	mkdir -p "$results/$model"
	"$python" "$here/measure.py" "$results/models/$model" "$results/$model" "${fitted[@]}" "${others[@]}" \
		> "$results/$model/client.log" 2>&1
	data=() held=()
	for point in "${fitted[@]}"; do data+=(--data "$results/$model/$point.json"); done
	for point in "${others[@]}"; do held+=(--data "$results/$model/$point.json"); done
	on=(--deployment "$results/$model.yaml")
	"$tokenworks" calibrate "${data[@]}" "${on[@]}" --name "$model" --out "$results/$model.calibration.yaml"
	echo "Points used for the fit:"
	"$tokenworks" validate "${data[@]}" "${on[@]}" --calibration "$results/$model.calibration.yaml"
	echo "Points predicted by the fit:"
	"$tokenworks" validate "${held[@]}" "${on[@]}" --calibration "$results/$model.calibration.yaml"
	cat "$results/$model/load.txt"
done
