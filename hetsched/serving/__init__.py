"""A server that speaks OpenAI's protocol: what is asked, the batch that it joins, and what is answered."""
