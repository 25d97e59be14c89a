#!/usr/bin/env bash
# What a CUDA host must show, one step after the other:
#
#   docs/benchmarks/gpu.sh OUT [STEP ...]
#
# Steps: doctor, loop, bench (with the loop's last adapter, if there is one), four-api-servers, and
# bench-7b (a Llama of 7B parameters, random weights); all by default. A step that fails stops no
# other; the last lines say how each ended. Results, and what servers printed, go to OUT/STEP. ENGINE
# is the command (selfstudy-engine), PER_STEP the seconds that one step may take (3600); what it had
# by then is kept.
set -uo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd)
shift
read -ra engine <<<"${ENGINE:-selfstudy-engine}"
[ $# -gt 0 ] || set -- doctor loop bench four-api-servers bench-7b

run() { timeout -s INT -k 60 "${PER_STEP:-3600}" "${engine[@]}" "$@"; }

doctor() { run doctor; }

measure() { # STEP ARGUMENT ...
    local step=$1 found=("$out"/loop/default/adapters/round-*)
    shift
    [ -d "${found[-1]}" ] && set -- --adapter "${found[-1]}" "$@"
    run bench --prompts 1024 --tokens 128 --repeats 2 --out "$out/$step" "$@"
}

bench() { measure bench --only 3,5,6,swap,overlap; }

four-api-servers() { measure four-api-servers --only 5 --api-server-count 4; }

loop() {
    run loop --runs "$out/loop" --rounds 10 --batch 4096 --test-size 500 \
        --tokens-per-step 2048 --report end
}

# The shape of Llama 2 7B with the embedded model's tokenizer, so that prompts are the same tokens.
make_7b_config() {
    local model
    model=$(python3 -c 'from selfstudy_engine.data.embedded import embedded_model as m; print(m())')
    mkdir -p "$out/llama-7b"
    cp "$model"/tokenizer* "$out/llama-7b"
    cat >"$out/llama-7b/config.json" <<'JSON'
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096,
 "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
 "num_key_value_heads": 32, "vocab_size": 49152, "max_position_embeddings": 4096,
 "rms_norm_eps": 1e-5, "dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2}
JSON
}

bench-7b() {
    make_7b_config || return
    run bench --load-format dummy --model "$out/llama-7b" --quick --repeats 2 --prompts 512 \
        --tokens 128 --only 3,5,swap --out "$out/bench-7b"
}

ended=()
for step in "$@"; do
    mkdir -p "$out/$step"
    started=$SECONDS
    if "$step" 2>&1 | tee "$out/$step/output.txt"; then how=ok; else how="FAILED ($?)"; fi
    ended+=("$(printf '%-10s %-12s %5d s' "$step" "$how" $((SECONDS - started)))")
done
printf '%s\n' "${ended[@]}"
