"""LangChain: a streamed chain, an answer as an object, and a search by embeddings.

pip install langchain-openai
"""

import os

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, Field

base_url = os.environ.get("STOKER_URL", "http://127.0.0.1:8000") + "/v1"
model = os.environ.get("STOKER_MODEL", "smollm2")
chat = ChatOpenAI(base_url=base_url, api_key="unused", model=model, temperature=0, max_tokens=64)

prompt = ChatPromptTemplate([("system", "You answer in one sentence."), ("human", "{question}")])
chain = prompt | chat | StrOutputParser()
for piece in chain.stream({"question": "What is the capital of France?"}):
    print(piece, end="", flush=True)
print()


class City(BaseModel):
    name: str = Field(max_length=20)
    inhabitants: int = Field(ge=0, le=50_000_000)


# The server constrains the answer to the schema; it cannot be anything else.
city = chat.with_structured_output(City, method="json_schema").invoke("Describe Paris.")
print(repr(city))

# Texts go as they are: the server has the model's tokenizer, LangChain would take OpenAI's.
embeddings = OpenAIEmbeddings(
    base_url=base_url, api_key="unused", model=model, check_embedding_ctx_length=False
)
store = InMemoryVectorStore(embeddings)
store.add_texts(["Paris lies on the Seine.", "Bread is made of flour, water and salt."])
print(store.similarity_search("Paris lies on the Seine.", k=1)[0].page_content)
