"""LlamaIndex: an index of texts by embeddings, and a question that is answered from it.

pip install llama-index-llms-openai-like llama-index-embeddings-openai-like
"""

import os

from llama_index.core import Document, Settings, VectorStoreIndex
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike

base_url = os.environ.get("STOKER_URL", "http://127.0.0.1:8000") + "/v1"
model = os.environ.get("STOKER_MODEL", "smollm2")
Settings.llm = OpenAILike(
    api_base=base_url,
    api_key="unused",
    model=model,
    is_chat_model=True,
    context_window=2048,
    max_tokens=64,
    temperature=0,
)
Settings.embed_model = OpenAILikeEmbedding(
    api_base=base_url, api_key="unused", model_name=model, embed_batch_size=16
)

index = VectorStoreIndex.from_documents(
    [
        Document(text="The Stoker's lighthouse stands on the northern pier."),
        Document(text="Bread is made of flour, water and salt."),
    ]
)
found = index.as_retriever(similarity_top_k=1).retrieve(
    "The Stoker's lighthouse stands on the northern pier."
)
print(found[0].text)

answer = index.as_query_engine(similarity_top_k=1, streaming=True).query(
    "Where does the lighthouse stand?"
)
for piece in answer.response_gen:
    print(piece, end="", flush=True)
print()
