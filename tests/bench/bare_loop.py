"""The peer that stays: the bare script as a process that loads, answers and drops its model on command.

Commands and replies are lines of JSON. ``load FOLDER``, ``answer PROMPT LIMIT MIDWAY`` (one line for the first token,
one at the end), ``drop`` (deletes the model and collects garbage, which is all that a program can do without ending),
``memory``. It measures its own memory: the loop must not wait for a reader in the middle of an answer.
"""

import gc
import json
import os
import sys
import time

import onnxruntime_genai as og


def memory():
    with open("/proc/self/smaps_rollup", encoding="ascii") as file:  # noqa: PTH123 - as light as can be
        sizes = dict(line.split()[:2] for line in file if line.endswith(" kB\n"))
    return [int(sizes["Pss:"]) * 1024, int(sizes["Private_Dirty:"]) * 1024]


def say(value):
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def load(folder):
    threads = len(os.sched_getaffinity(0))
    config = og.Config(folder)
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
    model = og.Model(config)
    return model, og.Tokenizer(model)


def answer(model, tokenizer, prompt, limit, midway):
    messages = json.dumps([{"role": "user", "content": prompt}])
    tokens = tokenizer.encode(tokenizer.apply_chat_template(messages, add_generation_prompt=True))
    ends = set(map(int, tokenizer.eos_token_ids))
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=len(tokens) + limit, do_sample=False)
    generator = og.Generator(model, parameters)
    generator.append_tokens(tokens)
    stream = tokenizer.create_stream()
    text, count, first, hot = "", 0, 0.0, None
    while not generator.is_done():
        generator.generate_next_token()
        token = int(generator.get_next_tokens()[0])
        if token in ends:
            break
        text += stream.decode(token)
        count += 1
        if text and not first:
            first, before = time.perf_counter(), count
            say({"first": text})
        if count == midway:
            hot = memory()
    seconds = time.perf_counter() - first
    say({"text": text, "rate": (count - before) / seconds if count > before else 0.0, "hot": hot or memory()})


def main():
    model = tokenizer = None
    for line in sys.stdin:
        match json.loads(line):
            case ["load", folder]:
                model, tokenizer = load(folder)
                say({})
            case ["answer", prompt, limit, midway]:
                answer(model, tokenizer, prompt, limit, midway)
            case ["drop"]:
                began = time.perf_counter()
                model = tokenizer = None
                gc.collect()
                say({"seconds": time.perf_counter() - began})
            case ["memory"]:
                say({"memory": memory()})


main()
