"""What happens to a request: sequences, blocks, schedule, sampling parameters, stop.

Knows no HTTP and no device; computes through `stoker.runner.base.ModelRunner`. On the way of a
request:

    admission            is it right, and can it ever fit? → `Request`
    scheduler            which sequences compute which tokens next, from one budget
      block_pool         … in which blocks: reference counts, prefix cache, copy-on-write
      waiting_queue, slots
    batch_builder        scheduled sequences → the runner's `Batch`
    output_processor     sampled tokens → sequences; ends found
      answer, stop       … text, stop strings, log-probabilities
      beam_search        … or the best continuations of beams
    engine               the step that does all this, one after the other; no threads

Around it: `async_engine` (a thread and an asyncio bridge), `llm` (for scripts), `factory` (a
model's name → an engine), `memory_plan` (what fits, before anything is loaded).
"""
