"""Jobs with the openai SDK: a completion, whole or as a stream; what it says is the body."""

from jobs import outcome, serve
from openai import OpenAI


def ask(client, job):
    client = client.with_options(base_url=job["url"])
    messages = [{"role": "user", "content": "PING"}]
    stream = job["method"] == "STREAM"
    answer = client.chat.completions.create(model="gpt-pretend", messages=messages, stream=stream)
    if stream:
        text = "".join(part.choices[0].delta.content for part in answer)
    else:
        text = answer.choices[0].message.content
    return outcome(200, {}, text.encode())


serve(lambda: OpenAI(max_retries=0, timeout=60), ask)
