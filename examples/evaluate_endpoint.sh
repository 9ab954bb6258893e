#!/usr/bin/env bash
# Measures a model behind an OpenAI-compatible endpoint on the built-in world, with the API's own tool calls.
#
#   OPENAI_API_KEY=… examples/evaluate_endpoint.sh URL MODEL [key=value …]
#   examples/evaluate_endpoint.sh http://localhost:8000/v1 Qwen2.5-VL-7B-Instruct episodes=100 temperature=0
set -euo pipefail

if [ $# -lt 2 ]; then
    sed -n '2,5s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
url=$1 model=$2
shift 2

# The budgets count tokens of the built-in tokenizer, which needs many for ordinary text.
exec "${TOOLWISE:-.venv/bin/toolwise}" evaluate policy="$url" policy_model="$model" tasks=toolwise/Mixture-v0 \
    +options.protocol=native out=runs/endpoint \
    rollout.episode.max_tokens=16384 rollout.engine.max_model_len=16384 rollout.episode.max_action_tokens=1024 "$@"
