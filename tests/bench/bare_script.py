"""The peer: what a person writes who asks the model directly, once. FOLDER LIMIT PROMPT; prints while it writes."""

import json
import os
import sys

import onnxruntime_genai as og

folder, limit, prompt = sys.argv[1], int(sys.argv[2]), sys.argv[3]
threads = len(os.sched_getaffinity(0))
config = og.Config(folder)
config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
model = og.Model(config)
tokenizer = og.Tokenizer(model)
messages = json.dumps([{"role": "user", "content": prompt}])
tokens = tokenizer.encode(tokenizer.apply_chat_template(messages, add_generation_prompt=True))
ends = set(map(int, tokenizer.eos_token_ids))
parameters = og.GeneratorParams(model)
parameters.set_search_options(max_length=len(tokens) + limit, do_sample=False)
generator = og.Generator(model, parameters)
generator.append_tokens(tokens)
stream = tokenizer.create_stream()
while not generator.is_done():
    generator.generate_next_token()
    token = int(generator.get_next_tokens()[0])
    if token in ends:
        break
    print(stream.decode(token), end="", flush=True)
