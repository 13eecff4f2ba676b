"""The floor of several streams: genai's own batch of one prompt, which all begin and end together.

``bare_batch.py FOLDER LIMIT PROMPT`` prints tokens a second for one and for four of them: medians of three, in turns.
No scheduler can do better with these kernels, and none that lets answers begin at any time can do this.
"""

import json
import os
import sys
import time
from statistics import median

import onnxruntime_genai as og


def rate(model, tokens, limit, count):
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=len(tokens) + limit, do_sample=False, batch_size=count)
    generator = og.Generator(model, parameters)
    generator.append_tokens([list(tokens)] * count if count > 1 else tokens)
    generator.generate_next_token()
    began, steps = time.perf_counter(), 0
    while not generator.is_done():
        generator.generate_next_token()
        steps += 1
    return steps * count / (time.perf_counter() - began)


def main(folder, limit, prompt):
    config = og.Config(folder)
    threads = len(os.sched_getaffinity(0))
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
    model = og.Model(config)
    tokenizer = og.Tokenizer(model)
    messages = json.dumps([{"role": "user", "content": prompt}])
    tokens = tokenizer.encode(tokenizer.apply_chat_template(messages, add_generation_prompt=True))
    rates = {1: [], 4: []}
    for _ in range(3):
        for count, found in rates.items():
            found.append(rate(model, tokens, int(limit), count))
    print(*(median(found) for found in rates.values()))


main(*sys.argv[1:])
